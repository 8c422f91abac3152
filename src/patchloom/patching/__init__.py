"""Shapes → specs: the strategies that decide where patches lie."""

from patchloom.patching.patching import Patching
from patchloom.patching.tiled_patching import TiledPatching
from patchloom.patching.whole_sample_patching import WholeSamplePatching

__all__ = ["Patching", "TiledPatching", "WholeSamplePatching"]
