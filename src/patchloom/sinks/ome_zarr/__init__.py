"""OME-Zarr outputs: shards, pyramid and metadata, resumable."""
