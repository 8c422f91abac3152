"""Datasets, samplers and loaders that feed a network of PyTorch; needs the extra `torch`.

The parts for Lightning need the extra `lightning` too, and are imported when they are first used.
"""

from importlib import import_module
from importlib.util import find_spec
from typing import Any

from patchloom._optional import require

require("torch", extra="torch")

from patchloom.torch.augmentation import FlipRot90  # noqa: E402
from patchloom.torch.collation import collate, decollate  # noqa: E402  # only once PyTorch is known to be there
from patchloom.torch.datasets.microsplit_dataset import MicroSplitDataset  # noqa: E402
from patchloom.torch.datasets.patch_dataset import PatchDataset  # noqa: E402
from patchloom.torch.loading.epoch_sampler import EpochSampler  # noqa: E402
from patchloom.torch.loading.locality_sampler import LocalitySampler  # noqa: E402
from patchloom.torch.loading.patch_keys import PatchKey  # noqa: E402
from patchloom.torch.loading.patch_loader import PatchLoader  # noqa: E402
from patchloom.torch.patches import Patch, PatchPair  # noqa: E402
from patchloom.torch.saving.save_model import save_model  # noqa: E402

_OF_LIGHTNING = {
    "PatchDataModule": "patchloom.torch.data_module",
    "SaveModel": "patchloom.torch.model_saver",
    "StitchingWriter": "patchloom.torch.stitching_writer",
}

__all__ = [
    "EpochSampler",
    "FlipRot90",
    "LocalitySampler",
    "MicroSplitDataset",
    "Patch",
    "PatchDataset",
    "PatchKey",
    "PatchLoader",
    "PatchPair",
    "collate",
    "decollate",
    "save_model",
]


def _has_lightning() -> bool:
    try:
        return find_spec("lightning") is not None
    except (ImportError, ValueError):
        return False


if _has_lightning():
    __all__ += list(_OF_LIGHTNING)


def __getattr__(name: str) -> Any:
    if name not in _OF_LIGHTNING:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    require("lightning.pytorch", extra="lightning")
    value = globals()[name] = getattr(import_module(_OF_LIGHTNING[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
