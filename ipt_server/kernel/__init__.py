"""The kernel side: nftables elements by raw netlink, the skeleton by nft, rules and routes by ip."""


class KernelProblem(Exception):
    """The kernel, or a tool that speaks to it, refused; the text is its own."""
