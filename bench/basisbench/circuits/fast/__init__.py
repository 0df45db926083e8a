"""The same values up to rounding, with less work."""
