"""Is the circuit faithful: from a ranking to metric values."""
