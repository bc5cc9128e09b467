"""The figures MRVPN claims, side by side in one run. A module here is one subject with a function `measure`."""
