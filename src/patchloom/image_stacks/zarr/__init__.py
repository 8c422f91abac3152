"""Zarr, OME-Zarr, N5 and neuroglancer precomputed arrays as image stacks."""
