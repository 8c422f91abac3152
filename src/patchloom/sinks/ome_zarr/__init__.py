"""OME-Zarr outputs: shards, pyramid, metadata, and resuming."""
