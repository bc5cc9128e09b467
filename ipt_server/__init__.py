"""ipt_server: puts the route of each connection into the kernel before its first packet."""
