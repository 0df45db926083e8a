"""Bases, attribution methods and the pocket model that BasisBench ships."""
