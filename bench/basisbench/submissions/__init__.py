"""Whose records, and whether to believe them; nothing here loads torch."""
