"""Country databases -> ranges of addresses by country."""
