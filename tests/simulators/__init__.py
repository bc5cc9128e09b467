"""Simulators of what the tests cannot have: routers."""
