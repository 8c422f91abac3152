"""Samplers and the loader: which patches come next, and a thread that prepares them."""
