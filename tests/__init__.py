"""The tests. A package, so that `tests.simulators` is ours whatever else is installed under that name."""
