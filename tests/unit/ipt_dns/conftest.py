"""Hypothesis for this folder: the same cases every time, no deadlines (the machine may be loaded)."""

from hypothesis import settings

settings.register_profile("dns", deadline=None, derandomize=True)
settings.load_profile("dns")
