"""Arithmetic on one axis and on windows: no pixels, no images, only whole numbers."""
