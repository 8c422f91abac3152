"""A dataset that gives the same patches in every epoch says so, with the remedy, and only then."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable

import numpy as np
import pytest
from torch.utils.data import BatchSampler, DataLoader, DistributedSampler, RandomSampler, WeightedRandomSampler

import patchloom as pl
from patchloom.torch import (
    EpochSampler,
    FlipRot90,
    LocalitySampler,
    MicroSplitDataset,
    PatchDataset,
    PatchLoader,
    collate,
    decollate,
)

SHAPE = (1, 2, 200, 300)
PLAN = pl.RandomPatching([SHAPE], (16, 16), n_patches=40, seed=1)
TILES = pl.TiledPatching([SHAPE], (32, 32), (0, 0))


@pytest.fixture
def stacks(rng) -> list[pl.ImageStack]:
    return pl.open_stacks(rng.random(SHAPE, np.float32), axes="SCYX")


def distributed(dataset, rank: int = 0, world_size: int = 1) -> Callable[[int], DataLoader]:
    sampler = DistributedSampler(dataset, num_replicas=world_size, rank=rank, shuffle=True)
    loader = DataLoader(dataset, 8, sampler=sampler, collate_fn=collate)

    def at_epoch(epoch: int) -> DataLoader:
        sampler.set_epoch(epoch)
        return loader

    return at_epoch


FOREIGN = {
    "shuffle": lambda dataset: DataLoader(dataset, 8, shuffle=True, collate_fn=collate),
    "in order": lambda dataset: DataLoader(dataset, 8, collate_fn=collate),
    "one by one": lambda dataset: DataLoader(dataset, None, shuffle=True),
    "with replacement": lambda dataset: DataLoader(
        dataset, 8, sampler=WeightedRandomSampler(np.ones(40), 60), collate_fn=collate
    ),
    "batches": lambda dataset: DataLoader(
        dataset, batch_sampler=BatchSampler(RandomSampler(dataset), 8, drop_last=True), collate_fn=collate
    ),
    "distributed": distributed,
    "one rank of two": lambda dataset: distributed(dataset, rank=1, world_size=2),
    "PatchLoader": lambda dataset: PatchLoader(dataset, 8, sampler=RandomSampler(dataset)),
}


def epochs(loader, n_epochs: int) -> list[list[pl.PatchSpecs]]:
    loaders: Iterable = (loader(epoch) if callable(loader) else loader for epoch in range(n_epochs))
    return [
        [spec for batch in one for spec in decollate(batch.specs if len(batch.input.shape) > 3 else [batch.specs])]
        for one in loaders
    ]


@pytest.mark.parametrize("how", FOREIGN)
@pytest.mark.parametrize("kind", ["random", "stratified", "flipped tiles", "microsplit", "weights"])
def test_warning(how, kind, stacks):
    """Keys without an epoch give one warning, with the remedy."""
    dataset = {
        "random": lambda: PatchDataset(stacks, PLAN),
        "stratified": lambda: PatchDataset(stacks, pl.StratifiedPatching([SHAPE], (32, 32), seed=1, n_patches=40)),
        "flipped tiles": lambda: PatchDataset(stacks, TILES, augmentation=FlipRot90()),
        "microsplit": lambda: MicroSplitDataset(PLAN, targets=stacks),
        "weights": lambda: MicroSplitDataset(TILES, targets=stacks, alpha_ranges=[(0.1, 0.9), (0.2, 0.3)]),
    }[kind]()
    with pytest.warns(
        UserWarning, match=r"every epoch has the same patches.*sampler=EpochSampler\(dataset\)"
    ) as caught:
        epochs(FOREIGN[how](dataset), 5)
    assert len(caught) == 1


@pytest.mark.parametrize("how", FOREIGN)
@pytest.mark.parametrize("kind", ["tiles", "fixed", "fixed random", "chosen epoch", "microsplit of tiles"])
def test_same_epochs(how, kind, stacks):
    """Patches that are the same in every epoch give no warning."""
    dataset = {
        "tiles": lambda: PatchDataset(stacks, TILES),
        "fixed": lambda: PatchDataset(stacks, pl.FixedPatching(PLAN[:])),
        "fixed random": lambda: PatchDataset(stacks, pl.FixedRandomPatching([SHAPE], (16, 16), seed=1)),
        "chosen epoch": lambda: PatchDataset(stacks, PLAN, augmentation=FlipRot90()).at_epoch(3),
        "microsplit of tiles": lambda: MicroSplitDataset(TILES, targets=stacks),
    }[kind]()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        epochs(FOREIGN[how](dataset), 3)


@pytest.mark.parametrize(
    "sampler",
    [EpochSampler, lambda dataset: LocalitySampler(dataset.patching, [(1, 1, 64, 64)])],
    ids=["epoch", "locality"],
)
@pytest.mark.parametrize("loader", [DataLoader, PatchLoader])
def test_keys_with_epoch(sampler, loader, stacks):
    """Keys with an epoch give other patches in each epoch, and no warning."""
    dataset = PatchDataset(stacks, PLAN, augmentation=FlipRot90())
    options = {"collate_fn": collate} if loader is DataLoader else {}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        first, second, third = (
            sorted(map(str, specs)) for specs in epochs(loader(dataset, 8, sampler=sampler(dataset), **options), 3)
        )
    assert len({str(first), str(second), str(third)}) == 3


def test_single_patches(stacks):
    """Inspecting single patches gives no warning."""
    dataset = PatchDataset(stacks, PLAN)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(100):
            dataset[0]
            dataset[-1]
        epochs(FOREIGN["shuffle"](dataset), 1)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.parametrize("persistent", [False, True])
def test_workers(persistent, stacks):
    """Worker processes refuse keys without an epoch."""

    def loader(dataset, **options) -> DataLoader:
        return DataLoader(
            dataset,
            8,
            collate_fn=collate,
            num_workers=2,
            persistent_workers=persistent,
            multiprocessing_context="fork",
            **options,
        )

    dataset = PatchDataset(stacks, PLAN)
    for sampler in (RandomSampler(dataset), DistributedSampler(dataset, num_replicas=1, rank=0)):
        with pytest.raises(
            pl.ArgumentError, match=r"every epoch has the same patches.*sampler=EpochSampler\(dataset\)"
        ):
            epochs(loader(dataset, sampler=sampler), 1)
    first, second = epochs(loader(dataset, sampler=EpochSampler(dataset)), 2)
    assert sorted(map(str, first)) != sorted(map(str, second))
    first, second = epochs(loader(dataset.at_epoch(2), shuffle=True), 2)
    assert sorted(map(str, first)) == sorted(map(str, second)) == sorted(map(str, PLAN.at_epoch(2)))
    assert len(epochs(loader(PatchDataset(stacks, TILES)), 2)[1]) == len(TILES)
