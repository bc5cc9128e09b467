"""MRVPN: one reviewed description of a network, compiled into one view per host."""

__version__ = "0.1.0"
