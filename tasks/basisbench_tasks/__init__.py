"""Task families that BasisBench ships; one file per family."""
