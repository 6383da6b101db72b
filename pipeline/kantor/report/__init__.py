"""One page about all models, with the same numbers as JSON and CSV."""
