"""Outputs of one file: OME-TIFF and NumPy."""
