"""A package, so that `python -m tests.simulators.routeros` works whatever else is installed."""
