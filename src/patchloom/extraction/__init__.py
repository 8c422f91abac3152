"""Specs + stacks → pixels."""

from patchloom.extraction.chunk_pool import ChunkPool
from patchloom.extraction.lateral_context import extract_lateral_context
from patchloom.extraction.patch_extractor import PatchExtractor

__all__ = ["ChunkPool", "PatchExtractor", "extract_lateral_context"]
