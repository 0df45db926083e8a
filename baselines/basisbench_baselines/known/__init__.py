"""Models with set weights, whose circuits are known because they were built; `known_models` lists them."""
