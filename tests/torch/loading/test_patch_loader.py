"""The loader: the dataset's batches, ready ahead of time; nothing left behind, whatever happens."""

from __future__ import annotations

import gc
import itertools
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, RandomSampler

import patchloom as pl
from patchloom.torch import EpochSampler, Patch, PatchDataset, PatchLoader, collate, decollate


def at_epoch(dataset: PatchDataset, epoch: int) -> PatchLoader:
    """Make a loader of one batch, of an epoch."""
    loader = PatchLoader(dataset, 24, shuffle=True)
    loader.sampler.set_epoch(epoch)
    return loader


def loader_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("patchloom")]


@pytest.fixture(autouse=True)
def _nothing_left_behind():
    yield
    if loader_threads():
        gc.collect()
    assert not loader_threads()


@pytest.mark.parametrize("drop_last", [False, True])
def test_batches(dataset, drop_last):
    """Batches are those of a DataLoader."""
    expected = DataLoader(dataset, 5, sampler=EpochSampler(dataset, seed=1), collate_fn=collate, drop_last=drop_last)
    with PatchLoader(dataset, 5, sampler=EpochSampler(dataset, seed=1), drop_last=drop_last) as loader:
        assert len(loader) == len(expected) == (4 if drop_last else 5)
        for _ in range(2):
            for batch, other in zip(loader, expected, strict=True):
                assert decollate(batch.specs) == decollate(other.specs)
                assert torch.equal(batch.input, other.input)
                assert torch.equal(batch.target, other.target)


def test_samplers(dataset, patching):
    """Any sampler can be used; without one, patches come in order."""
    assert [spec for batch in PatchLoader(dataset, 7) for spec in decollate(batch.specs)] == list(patching.at_epoch(0))
    indices = [
        int(spec["coords"][0]) for batch in PatchLoader(dataset, 7, sampler=[3, 1]) for spec in decollate(batch.specs)
    ]
    assert indices == [patching[3]["coords"][0], patching[1]["coords"][0]]
    drawn = PatchLoader(dataset.at_epoch(0), 7, sampler=RandomSampler(dataset), drop_last=True)
    assert [len(batch.input) for batch in drawn] == [7, 7, 7]


def test_held_batches(dataset):
    """A batch in use is never overwritten."""
    with PatchLoader(dataset, 3, shuffle=True) as loader:
        held = [batch for _ in range(4) for batch in loader]
        half = [batch.input[1:].numpy() for batch in loader]  # of the batch itself nothing is held
        for _ in range(3):
            for _ in loader:
                pass

    specs = [decollate(batch.specs) for batch in held]
    for batch, expected in zip(held, specs, strict=True):
        single = pl.PatchExtractor(dataset.image_stacks).extract_batch(expected)
        np.testing.assert_array_equal(batch.input, single.astype(np.float32))
    assert len({part.__array_interface__["data"][0] for part in half}) == len(half)


@pytest.mark.parametrize("pin_memory", [False, not torch.cuda.is_available()])
def test_reused_memory(dataset, pin_memory):
    """Memory is reused once nothing refers to it."""
    with PatchLoader(dataset, 6, pin_memory=pin_memory) as loader:
        addresses = [batch.input.data_ptr() for _ in range(10) for batch in loader]

    assert len(set(addresses)) <= 2 * (2 + 3)  # input and target take turns


def test_prefetch(dataset, monkeypatch):
    """The number of batches prepared ahead is bounded."""
    read = []
    batches = dataset._read
    monkeypatch.setattr(dataset, "_read", lambda *arguments: read.append(0) or batches(*arguments))
    epoch = iter(PatchLoader(dataset, 1, prefetch=3))

    next(epoch)
    deadline = time.monotonic() + 20
    while len(read) < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.2)  # a fifth batch would have been read

    assert len(read) == 4
    del epoch


def test_prepared_ahead(dataset, monkeypatch):
    """The next batch is prepared before it is requested."""
    prepared = [threading.Event() for _ in range(24)]
    count, read = iter(prepared), dataset._read
    monkeypatch.setattr(dataset, "_read", lambda *arguments: next(count).set() or read(*arguments))
    epoch = iter(PatchLoader(dataset, 1))

    next(epoch)

    assert prepared[1].wait(10)
    del epoch


def test_lazy_start(dataset):
    """An epoch starts when its first batch is requested."""
    loader = PatchLoader(dataset, 24, shuffle=True)
    epoch = iter(loader)

    loader.sampler.set_epoch(5)

    assert not loader_threads()
    assert decollate(next(epoch).specs) == decollate(next(iter(at_epoch(dataset, 5))).specs)
    epoch = iter(loader)
    del epoch


def explode(patch: Patch, random: np.random.Generator) -> Patch:
    raise ArithmeticError("boom")


def test_error(inputs, patching):
    """An exception reaches the consumer, with the specification of the patch."""
    loader = PatchLoader(PatchDataset(inputs, patching, transform=explode), 4)

    epoch = iter(loader)
    with pytest.raises(pl.TransformError, match=r"boom") as caught:
        next(epoch)

    assert str(patching[0]) in str(caught.value)
    assert not loader_threads()
    with pytest.raises(StopIteration):
        next(epoch)


def test_abandoned_epoch(dataset):
    """An abandoned epoch ends its thread."""
    for _ in PatchLoader(dataset, 2):
        break
    assert not loader_threads()

    loader = PatchLoader(dataset, 2)
    epoch = iter(loader)
    next(epoch)
    assert len(loader_threads()) == 1
    loader.close()
    assert not loader_threads()
    assert list(epoch) == []
    assert len(list(loader)) == 12  # it may be iterated again


def test_resume(dataset):
    """A loader resumed in mid-epoch continues after the batches that were iterated over."""

    def new() -> PatchLoader:
        return PatchLoader(dataset, 5, sampler=EpochSampler(dataset, seed=3))

    def specs(batches) -> list[pl.PatchSpecs]:
        return [spec for batch in batches for spec in decollate(batch.specs)]

    undisturbed = new()
    expected = specs(undisturbed) + specs(undisturbed)
    for n_batches in (0, 1, 3, 5):
        killed, restarted = new(), new()
        epoch = iter(killed)
        used = [next(epoch) for _ in range(n_batches)]
        restarted.load_state_dict(killed.state_dict())
        killed.close()
        assert (specs(used) + specs(restarted) + specs(restarted))[: len(expected)] == expected


def test_resume_twice(dataset):
    """A loader can be resumed a second time."""
    loaders = [PatchLoader(dataset, 5, sampler=EpochSampler(dataset, seed=3)) for _ in range(4)]
    expected = [decollate(batch.specs) for batch in loaders[3]]
    given = []

    for loader, following in itertools.pairwise(loaders[:3]):
        given.append(decollate(next(iter(loader)).specs))
        following.load_state_dict(loader.state_dict())

    assert given + [decollate(batch.specs) for batch in loaders[2]] == expected


def test_state_after_drop_last(dataset):
    """After an epoch whose last patches were dropped, the state is that of the next epoch."""
    loader, restarted = (PatchLoader(dataset, 7, shuffle=True, drop_last=True) for _ in range(2))
    list(loader)

    restarted.load_state_dict(loader.state_dict())

    assert len(list(restarted)) == 3
    assert restarted.sampler.epoch == 1


def test_wrong_arguments(dataset, patching):
    """Wrong arguments are refused."""
    for options in ({"batch_size": 0}, {"prefetch": 0}, {"batch_size": 1.5}):
        with pytest.raises(pl.GeometryError, match=next(iter(options))):
            PatchLoader(dataset, **options)
    with pytest.raises(pl.GeometryError, match="would be empty"):
        PatchLoader(dataset, 25, drop_last=True)
    with pytest.raises(pl.GeometryError, match="would be empty"):
        PatchLoader(PatchDataset(dataset.image_stacks, pl.FixedPatching([])), 25)
    with pytest.raises(pl.GeometryError, match="DataLoader"):
        PatchLoader(list(range(10)))
    with pytest.raises(pl.GeometryError, match="shuffle"):
        PatchLoader(dataset, sampler=[1], shuffle=True)
    with pytest.raises(pl.GeometryError, match="has no state_dict"):
        PatchLoader(dataset, sampler=[1]).state_dict()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is an accelerator")
def test_pin_without_accelerator(dataset):
    """Without an accelerator, pinning changes nothing."""
    with PatchLoader(dataset, 5) as loader, PatchLoader(dataset, 5, pin_memory=True) as pinning:
        for batch, other in zip(loader, pinning, strict=True):
            assert torch.equal(batch.input, other.input)
            assert not other.input.is_pinned()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no accelerator")
def test_pin_memory(dataset):
    """With an accelerator, memory is pinned."""
    with PatchLoader(dataset, 5, pin_memory=True) as loader:
        assert all(batch.input.is_pinned() and batch.target.is_pinned() for batch in loader)


def open_files() -> int:
    folder = Path("/proc/self/fd")
    return len(list(folder.iterdir())) if folder.exists() else 0


def shared_memory() -> set[Path]:
    return set(Path("/dev/shm").glob("*torch*"))


def test_no_leaks(tmp_path, rng):
    """Many loaders leave no thread, open file or shared memory behind."""
    path = tmp_path / "cells.ome.zarr"
    image = rng.integers(0, 255, (64, 64), np.uint8)
    pl.predict(lambda batch: batch, image, path, axes="YX", patch_size=(32, 32), progress=False)
    dataset = PatchDataset(pl.open_stacks(path), pl.RandomPatching([(1, 1, 64, 64)], (16, 16), n_patches=12))

    def cycle(number: int) -> None:
        with PatchLoader(dataset, 2, shuffle=True) as loader:
            for position, _ in enumerate(loader):
                if position == number % 7:
                    break

    cycle(6)
    before = open_files(), threading.active_count(), shared_memory()
    for number in range(100):
        cycle(number)

    assert (open_files(), threading.active_count(), shared_memory()) == before


SCRIPT = """
import sys
import numpy as np
import patchloom as pl
from patchloom.torch import PatchDataset, PatchLoader

stacks = pl.open_stacks(sys.argv[1])
loader = PatchLoader(PatchDataset(stacks, pl.RandomPatching([s.data_shape for s in stacks], (16, 16), n_patches=500)), 4)
epoch = iter(loader)
next(epoch)
print("abandoned", flush=True)
if sys.argv[2] == "raise":
    raise SystemExit(3)
"""


@pytest.mark.parametrize("how", ["end", "raise"])
def test_exit(tmp_path, rng, how):
    """A process that abandons an epoch exits at once, without messages."""
    path = tmp_path / "cells.ome.zarr"
    image = rng.integers(0, 255, (256, 256), np.uint8)
    pl.predict(lambda batch: batch, image, path, axes="YX", patch_size=(64, 64), progress=False)

    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(path), how], check=False, capture_output=True, text=True, timeout=60
    )

    assert (done.stdout, done.stderr, done.returncode) == ("abandoned\n", "", 3 if how == "raise" else 0)


@pytest.mark.parametrize("state", [None, {}, {"sampler": None}, {"sampler": {}}, "state"])
def test_not_a_state(state, dataset):
    """An object that is not the state of a loader is refused."""
    with (
        PatchLoader(dataset, batch_size=4) as loader,
        pytest.raises(pl.GeometryError, match="the state lacks"),
    ):
        loader.load_state_dict(state)
