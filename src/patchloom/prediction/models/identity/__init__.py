"""The identity of a model: a digest of everything that it computes with."""
