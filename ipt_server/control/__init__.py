"""Asking and telling a running ipt_server: HTTP and JSON over a Unix socket that only root opens."""
