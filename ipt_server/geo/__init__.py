"""Country databases -> ranges of addresses by country."""

Ranges = dict[str, dict[int, list[tuple[int, int]]]]  # code -> family -> [(first, last)]


class DatabaseRefused(Exception):
    """A database that cannot be used; the text says which and why."""
