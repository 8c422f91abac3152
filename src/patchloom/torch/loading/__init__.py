"""Samplers, which yield the keys of patches, and the loader, which reads them in a background thread."""
