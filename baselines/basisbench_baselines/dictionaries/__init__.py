"""Dictionaries of others: their files, where they sit, how they are read, and how their units are computed."""
