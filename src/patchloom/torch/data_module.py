"""A data module for Lightning; needs the extra `lightning`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from lightning.pytorch import LightningDataModule

from patchloom.argument_checks import flag, function, instance, whole_number
from patchloom.errors import GeometryError
from patchloom.patching import TiledPatching
from patchloom.patching.counter_random import checked_seed
from patchloom.stitching.tile_writer import TileOrder
from patchloom.torch.datasets.planned_dataset import PlannedDataset, ReadsBatches
from patchloom.torch.loading.epoch_sampler import EpochSampler
from patchloom.torch.loading.patch_loader import PatchLoader


class PatchDataModule(LightningDataModule):
    """Loads the batches of a Lightning trainer, for fitting, validating and predicting.

    Each rank of a distributed training gets its share of every epoch. A training that is resumed from a checkpoint in mid-epoch
    continues with the batches that were not loaded yet.

    Parameters
    ----------
    training, validation, prediction : PatchDataset or other ReadsBatches, optional
        The datasets. `patchloom.split_training_validation` gives plans for the first two that share no voxel, and with a margin
        no context either. For prediction, a dataset with a `TiledPatching` and a `StitchingWriter` give whole images.
    batch_size : int, default 1
        Number of patches of a batch.
    sampler : callable, optional
        Returns the sampler of the training, given its dataset. If None, an `EpochSampler` with `seed`.
    seed : int, default 0
        Seed of the order of patches in training.
    drop_last : bool, default False
        Whether the training drops a smaller last batch.
    prefetch : int, default 2
        Number of batches that are loaded ahead; see `PatchLoader`.
    pin_memory : bool, default True
        Whether batches are in page-locked memory; see `PatchLoader`. Ignored without an accelerator.

    Raises
    ------
    GeometryError
        If a dataset does not read batches, or a number is less than 1.

    Examples
    --------
    >>> import numpy as np
    >>> import patchloom as pl
    >>> from patchloom.torch import PatchDataModule, PatchDataset
    >>> stacks = pl.open_stacks(np.random.default_rng(0).random((512, 512)), axes="YX")
    >>> plan = pl.StratifiedPatching([stack.data_shape for stack in stacks], (32, 32), seed=1)
    >>> training, held_out = pl.split_training_validation(plan, 0.1, margin=32)
    >>> data = PatchDataModule(PatchDataset(stacks, training), PatchDataset(stacks, held_out), batch_size=16)
    >>> next(iter(data.train_dataloader())).input.shape
    torch.Size([16, 1, 32, 32])
    """

    def __init__(
        self,
        training: ReadsBatches | None = None,
        validation: ReadsBatches | None = None,
        prediction: ReadsBatches | None = None,
        *,
        batch_size: int = 1,
        sampler: Callable[[Any], Iterable[Any]] | None = None,
        seed: int = 0,
        drop_last: bool = False,
        prefetch: int = 2,
        pin_memory: bool = True,
    ) -> None:
        super().__init__()
        for name, dataset in (("training", training), ("validation", validation), ("prediction", prediction)):
            if dataset is not None:
                instance(name, dataset, ReadsBatches, "such as a PatchDataset")
        if sampler is not None:
            function("sampler", sampler)
        for name, number in (("batch_size", batch_size), ("prefetch", prefetch)):
            whole_number(name, number, least=1)
        for name, value in (("drop_last", drop_last), ("pin_memory", pin_memory)):
            flag(name, value)
        self.training, self.validation, self.prediction = training, validation, prediction
        self.batch_size = batch_size
        self.sampler = sampler
        self.seed = checked_seed(whole_number("seed", seed))
        self.drop_last = drop_last
        self._make_loader = partial(PatchLoader, prefetch=prefetch, pin_memory=pin_memory)
        self._loaders: list[PatchLoader] = []
        if validation is None:
            # Lightning runs a validation if this method is overridden.
            self.val_dataloader = super().val_dataloader  # type: ignore[method-assign]

    def train_dataloader(self) -> PatchLoader:
        """Return the loader of the training."""
        dataset = _required("training", self.training)
        sampler = EpochSampler(dataset, seed=self.seed) if self.sampler is None else self.sampler(dataset)
        return self._loader(dataset, sampler, drop_last=self.drop_last)

    def val_dataloader(self) -> PatchLoader:
        """Return the loader of the validation, whose patches are the same in every epoch."""
        dataset = _required("validation", self.validation)
        if isinstance(dataset, PlannedDataset):
            dataset = dataset.at_epoch(dataset.epoch)
        return self._loader(dataset, range(len(dataset)))

    def predict_dataloader(self) -> PatchLoader:
        """Return the loader of the prediction; tiles come in the order that needs the least memory for stitching."""
        dataset = _required("prediction", self.prediction)
        tiling = getattr(dataset, "patching", None)
        return self._loader(dataset, TileOrder(tiling) if isinstance(tiling, TiledPatching) else range(len(dataset)))

    def teardown(self, stage: str | None = None) -> None:  # noqa: ARG002  # Lightning's name
        """Stop loading, and wait for the threads."""
        for loader in self._loaders:
            loader.close()
        self._loaders.clear()

    def _loader(self, dataset: ReadsBatches, sampler: Iterable[Any], *, drop_last: bool = False) -> PatchLoader:
        loader = self._make_loader(dataset, self.batch_size, sampler=sampler, drop_last=drop_last)
        self._loaders.append(loader)
        return loader


def _required(name: str, dataset: ReadsBatches | None) -> ReadsBatches:
    if dataset is None:
        raise GeometryError(f"{name} is None: give a dataset, PatchDataModule({name}=...)")
    return dataset
