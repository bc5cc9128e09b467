"""The lab: several hosts on one machine, out of real parts. Used by `make demo` and by the tests."""
