"""Normalization by statistics of whole images, measured block by block."""
