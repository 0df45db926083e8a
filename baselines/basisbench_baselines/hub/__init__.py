"""Published dictionaries: SAELens's list of releases, the Hugging Face hub's cache, and where a dictionary sits."""
