"""Train dictionaries for any model: `basisbench train`."""
