"""Pixels in: image stacks of any source, read lazily as `SC(Z)YX`."""
