"""Specs + stacks → pixels."""

from patchloom.extraction.patch_extractor import PatchExtractor

__all__ = ["PatchExtractor"]
