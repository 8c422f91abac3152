"""TIFF, OME-TIFF and BigTIFF files as image stacks."""
