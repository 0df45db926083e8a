"""The pocket corpus: sentences of a generated language, in the order in which they are read."""
