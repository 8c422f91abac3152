"""Shapes → specs: the strategies that decide where patches lie."""

from patchloom.patching.patching import Patching
from patchloom.patching.random_patching import FixedRandomPatching, RandomPatching
from patchloom.patching.tiled_patching import TiledPatching
from patchloom.patching.whole_sample_patching import WholeSamplePatching

__all__ = ["FixedRandomPatching", "Patching", "RandomPatching", "TiledPatching", "WholeSamplePatching"]
