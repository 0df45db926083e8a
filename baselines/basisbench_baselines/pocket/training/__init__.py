"""Training of the pocket model and its dictionaries."""
