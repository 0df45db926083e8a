"""Records and the tables made of them; nothing here loads torch."""
