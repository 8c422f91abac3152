"""Reading patches: from specifications and image stacks to pixels."""

from patchloom.extraction.chunk_cache import ChunkCache
from patchloom.extraction.lateral_context import extract_lateral_context
from patchloom.extraction.patch_extractor import PatchExtractor

__all__ = ["ChunkCache", "PatchExtractor", "extract_lateral_context"]
