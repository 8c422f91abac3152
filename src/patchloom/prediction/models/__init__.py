"""Models that other people trained, as callables `(B, C, (Z), Y, X) -> array`."""
