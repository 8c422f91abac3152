"""A model run over images that are too big for it."""
