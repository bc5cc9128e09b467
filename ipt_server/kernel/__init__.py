"""The kernel side: nftables elements by raw netlink, the skeleton by nft, rules and routes by ip."""
