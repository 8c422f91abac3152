"""Datasets, samplers and loaders that feed a network of PyTorch; needs the extra `torch`."""

from patchloom._optional import require

require("torch", extra="torch")

from patchloom.torch.collation import collate, decollate  # noqa: E402  # only once PyTorch is known to be there
from patchloom.torch.epoch_sampler import EpochSampler  # noqa: E402
from patchloom.torch.flips_and_turns import FlipsAndTurns  # noqa: E402
from patchloom.torch.locality_sampler import LocalitySampler  # noqa: E402
from patchloom.torch.patch_dataset import PatchDataset  # noqa: E402
from patchloom.torch.patch_keys import PatchKey  # noqa: E402
from patchloom.torch.patch_loader import PatchLoader  # noqa: E402
from patchloom.torch.patches import Patch, PatchPair  # noqa: E402

__all__ = [
    "EpochSampler",
    "FlipsAndTurns",
    "LocalitySampler",
    "Patch",
    "PatchDataset",
    "PatchKey",
    "PatchLoader",
    "PatchPair",
    "collate",
    "decollate",
]
