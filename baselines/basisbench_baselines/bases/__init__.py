"""Bases: one file per kind."""
