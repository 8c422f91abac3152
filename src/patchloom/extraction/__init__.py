"""Specs + stacks → pixels."""

from patchloom.extraction.chunk_pool import ChunkPool
from patchloom.extraction.patch_extractor import PatchExtractor

__all__ = ["ChunkPool", "PatchExtractor"]
