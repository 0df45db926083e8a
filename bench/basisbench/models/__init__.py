"""A loaded model: its sites, its hooks, its backward rules, its memory."""
