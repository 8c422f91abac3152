"""PyTorch's own loader with worker processes: the same patches for any number of them, and forks refused in words."""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

import patchloom as pl
from patchloom.torch import EpochSampler, FlipRot90, PatchDataset, PatchLoader, collate, decollate


@pytest.fixture(scope="module", autouse=True)
def _quick_workers():
    multiprocessing.set_forkserver_preload(["patchloom.torch"])  # imported once, not by every worker


@pytest.fixture
def dataset(tmp_path, rng) -> PatchDataset:
    """Return a dataset over a Zarr that this process has read."""
    path = tmp_path / "cells.ome.zarr"
    image = rng.integers(0, 255, (2, 96, 80), np.uint8)
    pl.predict(lambda batch: batch, image, path, axes="CYX", patch_size=(32, 32), progress=False)
    stacks = pl.open_stacks(path)
    patching = pl.RandomPatching([stacks[0].data_shape], (16, 16), n_patches=22, seed=6)
    return PatchDataset(stacks, patching, augmentation=FlipRot90(), seed=2)


def shared_memory() -> set[str]:
    folder = Path("/dev/shm")
    return {path.name for path in folder.glob("torch_*")}


def two_epochs(loader) -> list[tuple[list[pl.PatchSpecs], torch.Tensor]]:
    return [(decollate(batch.specs), batch.input.clone()) for _ in range(2) for batch in loader]


@pytest.mark.filterwarnings("ignore:This DataLoader will create 4 worker processes")  # there may be fewer processors
def test_any_number_of_workers(dataset):
    """Two epochs are the same with any number of workers."""
    with PatchLoader(dataset, 4, sampler=EpochSampler(dataset, seed=8)) as loader:
        expected = two_epochs(loader)
    memory = shared_memory()

    for n_workers, persistent in ((0, False), (2, False), (2, True), (4, True)):
        options = {"multiprocessing_context": "forkserver", "persistent_workers": persistent} if n_workers else {}
        loader = DataLoader(
            dataset,
            4,
            sampler=EpochSampler(dataset, seed=8),
            collate_fn=collate,
            num_workers=n_workers,
            **options,
        )
        for (specs, pixels), (other_specs, other_pixels) in zip(two_epochs(loader), expected, strict=True):
            assert specs == other_specs
            assert torch.equal(pixels, other_pixels)
        del loader

    assert shared_memory() <= memory


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_forked_workers(dataset):
    """Forked workers are refused, and the message contains the remedy."""
    dataset[0]

    with pytest.raises(pl.ForkedProcessError, match="multiprocessing_context='forkserver'"):
        next(iter(DataLoader(dataset, 4, collate_fn=collate, num_workers=1, multiprocessing_context="fork")))
