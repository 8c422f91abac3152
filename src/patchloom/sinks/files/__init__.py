"""Outputs that are one file: OME-TIFF and NumPy."""
