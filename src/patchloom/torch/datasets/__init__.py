"""Datasets that read whole batches of patches."""
