"""Samples of a trained model, of any length, in the formats of experiments' software."""
