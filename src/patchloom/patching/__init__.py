"""Shapes → specs: the strategies that decide where patches lie."""

from patchloom.patching.fixed_patching import FixedPatching
from patchloom.patching.patching import Patching
from patchloom.patching.random_patching import FixedRandomPatching, RandomPatching
from patchloom.patching.sequential_patching import SequentialPatching
from patchloom.patching.split import split_training_validation
from patchloom.patching.stratified_patching import StratifiedPatching
from patchloom.patching.tiled_patching import TiledPatching
from patchloom.patching.uncorrelated_patching import UncorrelatedPatching
from patchloom.patching.weighted_patching import WeightedPatching
from patchloom.patching.whole_sample_patching import WholeSamplePatching

__all__ = [
    "FixedPatching",
    "FixedRandomPatching",
    "Patching",
    "RandomPatching",
    "SequentialPatching",
    "StratifiedPatching",
    "TiledPatching",
    "UncorrelatedPatching",
    "WeightedPatching",
    "WholeSamplePatching",
    "split_training_validation",
]
