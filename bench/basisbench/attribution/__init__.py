"""Which nodes matter: gradient fields, and what a method may ask."""
