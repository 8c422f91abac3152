"""Patches of images and targets: equal to what NumPy cuts out by their specifications, and wrong input refused."""

from __future__ import annotations

import os
import pickle
import shutil
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import tensorstore as ts
import tifffile
import torch

import patchloom as pl
from patchloom.image_stacks import ZarrStack
from patchloom.torch import (
    FlipRot90,
    MicroSplitDataset,
    Patch,
    PatchDataset,
    PatchKey,
    PatchPair,
    collate,
    decollate,
)
from patchloom.torch.loading.patch_keys import PatchKeys


@dataclass
class Normalization:
    scale: object
    offset: object


def cut(stacks, spec) -> np.ndarray:
    """Cut a patch that lies inside its image out of the whole image."""
    whole = np.asarray(stacks[spec["data_idx"]].array)[spec["sample_idx"]]
    return whole[(slice(None), *(slice(c, c + p) for c, p in zip(spec["coords"], spec["patch_size"], strict=True)))]


@pytest.fixture
def targets(inputs, rng) -> list[pl.ImageStack]:
    return [pl.ArrayStack(rng.random((2, 2, *stack.data_shape[2:])), axes="SCYX") for stack in inputs]


def test_patches(inputs, patching, targets):
    """Patches contain the pixels at the places of their specifications."""
    dataset = PatchDataset(inputs, patching, targets)

    assert len(dataset) == len(patching)
    for index in range(len(dataset)):
        patch = dataset[index]
        assert patch.specs == patching[index]
        np.testing.assert_array_equal(patch.input, cut(inputs, patch.specs).astype(np.float32))
        np.testing.assert_array_equal(patch.target, cut(targets, patch.specs).astype(np.float32))


def test_batch_and_single_items(inputs, patching, targets):
    """A batch contains the items that are read singly."""
    dataset = PatchDataset(inputs, patching, targets)

    batch = collate(dataset.__getitems__([7, 2, 20]))

    for position, index in enumerate([7, 2, 20]):
        assert torch.equal(batch.input[position], dataset[index].input)
        assert torch.equal(batch.target[position], dataset[index].target)


def test_one_read_per_series(inputs, patching, targets, monkeypatch):
    """Each series is read in one call for a batch."""
    calls = []
    read = pl.PatchExtractor.extract_located
    monkeypatch.setattr(
        pl.PatchExtractor, "extract_located", lambda self, *args, **kw: calls.append(self) or read(self, *args, **kw)
    )

    PatchDataset(inputs, patching, targets).__getitems__(range(12))

    assert len(calls) == len(set(calls)) == 2


def test_key(inputs, patching):
    """A key with an epoch gives the patch of that epoch."""
    dataset = PatchDataset(inputs, patching)

    assert dataset[PatchKey(3, 5)].specs == patching.at_epoch(3)[5] != dataset[5].specs
    assert dataset.at_epoch(3)[5].specs == patching.at_epoch(3)[5]
    assert PatchDataset(inputs, patching.at_epoch(3))[5].specs == patching.at_epoch(3)[5]


def test_indices(inputs, patching):
    """Negative indices count from the end, and indices out of range are refused."""
    dataset = PatchDataset(inputs, patching)

    assert dataset[-1].specs == dataset[23].specs
    for beyond in (24, -25, PatchKey(0, 24), PatchKey(0, -1)):
        with pytest.raises(IndexError):
            dataset[beyond]
    with pytest.raises(pl.PatchIndexError, match="several epochs"):
        dataset.__getitems__([PatchKey(0, 1), PatchKey(1, 1)])


def test_channels_and_dtype(inputs, patching, targets):
    """Channels are chosen in order, and tensors have the given dtype."""
    dataset = PatchDataset(inputs, patching, targets, channels=[2, 0], target_channels=[1], target_dtype=np.float64)

    patch = dataset[4]

    np.testing.assert_array_equal(patch.input, cut(inputs, patch.specs)[[2, 0]].astype(np.float32))
    np.testing.assert_array_equal(patch.target, cut(targets, patch.specs)[[1]])
    assert patch.target.dtype == torch.float64


def test_labels(patching, inputs, rng):
    """Labels keep their values."""
    labels = [pl.ArrayStack(rng.integers(0, 2**40, (2, 1, *s.data_shape[2:])), axes="SCYX") for s in inputs]

    patch = PatchDataset(inputs, patching, labels, target_dtype=np.int64)[3]

    np.testing.assert_array_equal(patch.target, cut(labels, patch.specs))


@pytest.mark.parametrize("whole", ["one", "channels", "stacks", "samples"])
def test_normalization(inputs, patching, rng, whole):
    """Pixels are normalized by the numbers of their channel, sample and image."""
    scale, offset = (rng.random((2, 2, 3)) + 0.5 for _ in range(2))  # image, sample, channel
    if whole == "one":
        scale[...], offset[...] = 0.25, -2.0
        normalization = Normalization(0.25, -2.0)
    elif whole == "channels":
        scale[...], offset[...] = scale[0, 0], offset[0, 0]
        normalization = Normalization(scale[0, 0].tolist(), offset[0, 0].tolist())
    elif whole == "stacks":
        scale[...], offset[...] = scale[:, :1], offset[:, :1]
        normalization = [Normalization(scale[i, 0], offset[i, 0]) for i in range(2)]
    else:
        normalization = [Normalization(scale[i], offset[i]) for i in range(2)]
    uncorrelated = pl.UncorrelatedPatching(patching, n_channels=2)

    for patch in PatchDataset(inputs, patching, channels=[2, 1], normalization=normalization).__getitems__(range(24)):
        place = (patch.specs["data_idx"], patch.specs["sample_idx"], [2, 1])
        expected = cut(inputs, patch.specs)[[2, 1]] * scale[place][:, None, None] + offset[place][:, None, None]
        np.testing.assert_allclose(patch.input, expected, rtol=1e-5)
    for patch in PatchDataset(inputs, uncorrelated, channels=[2, 1], normalization=normalization).__getitems__(
        range(24)
    ):
        for number, channel in enumerate([2, 1]):
            data_idx, sample_idx = patch.specs["all_data_idx"][number], patch.specs["all_sample_idx"][number]
            own = patch.specs | {
                "data_idx": data_idx,
                "sample_idx": sample_idx,
                "coords": patch.specs["all_coords"][number],
            }
            expected = cut(inputs, own)[channel] * scale[data_idx, sample_idx, channel]
            np.testing.assert_allclose(patch.input[number], expected + offset[data_idx, sample_idx, channel], rtol=1e-5)


def test_normalization_of_batches(inputs, patching, rng):
    """Every batch of a run is normalized by the numbers of its own patches."""
    normalization = [Normalization(*(rng.random((2, 3)) + 0.5 for _ in range(2))) for _ in range(2)]
    for plan in (patching, pl.UncorrelatedPatching(patching, n_channels=3)):
        dataset = PatchDataset(inputs, plan, inputs, normalization=normalization).at_epoch(0)

        batches = list(dataset.read_batches(PatchKeys.of(range(24)), 7))

        assert [len(batch.input) for batch in batches] == [7, 7, 7, 3]
        for number, patch in enumerate(dataset.__getitems__(range(24))):
            batch, row = batches[number // 7], number % 7
            assert torch.equal(batch.input[row], patch.input)
            assert torch.equal(batch.target[row], patch.target)
            assert decollate(batch.specs)[row] == patch.specs


def test_pickle(inputs, patching, targets):
    """A pickled dataset has the same patches."""
    dataset = PatchDataset(inputs, patching, targets, augmentation=FlipRot90(), seed=3)

    copy = pickle.loads(pickle.dumps(dataset))

    one, other = dataset[PatchKey(2, 5)], copy[PatchKey(2, 5)]
    assert one.specs == other.specs
    assert torch.equal(one.input, other.input)


def jittered(patch: Patch, random: np.random.Generator) -> PatchPair:
    return PatchPair(patch.input + random.normal(), patch.input, patch.specs)


def test_transform(inputs, patching):
    """A transform draws the same numbers for the same (seed, epoch, index)."""
    dataset = PatchDataset(inputs, patching, transform=jittered, seed=1)
    again = pickle.loads(pickle.dumps(dataset))
    keys = [PatchKey(1, 4), PatchKey(1, 9)]

    together, alone = collate(dataset.__getitems__(keys)), again[keys[1]]
    added = [(patch.input - patch.target)[0, 0, 0].item() for patch in dataset.__getitems__(keys)]

    assert torch.equal(together.input[1], alone.input)
    assert added[0] != added[1]
    assert not torch.equal(alone.input, PatchDataset(inputs, patching, transform=jittered, seed=2)[keys[1]].input)


def broken(patch: Patch, random: np.random.Generator) -> Patch:
    if patch.specs["coords"] == (0, 0):
        return patch
    raise KeyError("no such key")


def test_failing_transform(inputs, patching):
    """The error of a transform names the patch."""
    dataset = PatchDataset(inputs, patching, transform=broken)

    with pytest.raises(pl.TransformError, match="KeyError") as caught:
        dataset[6]

    assert str(patching[6]) in str(caught.value)
    assert isinstance(caught.value.__cause__, KeyError)


def test_wrong_transform(inputs, patching):
    """A transform that does not return a patch is refused."""
    with pytest.raises(pl.TransformError, match="returned a Tensor"):
        PatchDataset(inputs, patching, transform=lambda patch, random: patch.input)[0]


def test_wrong_targets(inputs, patching, targets):
    """Targets that do not fit the inputs are refused."""
    with pytest.raises(pl.GeometryError, match="1 targets for 2 inputs"):
        PatchDataset(inputs, patching, targets[:1])
    with pytest.raises(pl.GeometryError, match=r"input 0.*\(2, 3, 70, 90\).*\(2, 2, 64, 50\)"):
        PatchDataset(inputs, patching, targets[::-1])


def test_wrong_plan(inputs, patching):
    """A plan for other images is refused."""
    with pytest.raises(pl.GeometryError, match="patching is for images"):
        PatchDataset(inputs[::-1], patching)


@pytest.mark.parametrize("channels", [[3], [-1], [0, 0], [], [0.5]])
def test_wrong_channels(inputs, patching, channels):
    """Channels that do not exist are refused."""
    with pytest.raises(pl.GeometryError, match="channels"):
        PatchDataset(inputs, patching, channels=channels)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"dtype": "U5"}, "PyTorch"),
        ({"dtype": np.int32, "normalization": Normalization(1, 0)}, "int32"),
        ({"normalization": 3}, "scale and an offset"),
        ({"normalization": [Normalization(1, 0)]}, "1 normalizations for 2"),
        ({"normalization": Normalization([1, 2], 0)}, "3 channels"),
        ({"normalization": Normalization(1, float("nan"))}, "finite"),
        ({"nan": "ignore"}, "nan is 'ignore'"),
        ({"padding": "mirror"}, "padding"),
    ],
)
def test_wrong_arguments(inputs, patching, wrong, message):
    """Other wrong arguments are refused."""
    with pytest.raises(pl.GeometryError, match=message):
        PatchDataset(inputs, patching, **wrong)


@pytest.fixture
def with_nan(rng) -> tuple[list[pl.ImageStack], pl.RandomPatching]:
    """Return images of which the left half has a NaN here and there, and a plan that meets some."""
    image = rng.random((2, 40, 80), dtype=np.float32)
    image[1, ::7, :40:9] = np.nan
    stacks = pl.open_stacks(image, axes="CYX")
    return stacks, pl.RandomPatching([stacks[0].data_shape], (8, 8), n_patches=40, seed=3)


def test_nan_raise(with_nan):
    """A NaN is an error that names its place."""
    stacks, patching = with_nan

    with pytest.raises(
        pl.SourceError, match=r"NaN in array \(image stack 0\), sample 0, channel 1, Y (\d+), X (\d+)"
    ) as caught:
        PatchDataset(stacks, patching).__getitems__(range(40))

    y, x = (int(word.strip(",:")) for word in np.array(str(caught.value).split())[[14, 16]])
    assert np.isnan(stacks[0].array[1, y, x])


def test_nan_keep(with_nan):
    """Patches with a NaN can be kept, with one warning."""
    stacks, patching = with_nan
    dataset = PatchDataset(stacks, patching, nan="keep").at_epoch(0)

    with pytest.warns(RuntimeWarning, match="patches with a NaN are kept"):
        dataset.__getitems__(range(40))

    batch = collate(dataset.__getitems__(range(40)))  # a second warning would be an error
    assert torch.isnan(batch.input).any()


def test_nan_skip(with_nan):
    """Patches with a NaN are replaced by others, which are always the same."""
    stacks, patching = with_nan
    dataset = PatchDataset(stacks, patching, nan="skip")
    untouched = [
        i for i in range(40) if not np.isnan(cut([pl.ArrayStack(stacks[0].array[None], "SCYX")], patching[i])).any()
    ]
    assert 0 < len(untouched) < 40

    with pytest.warns(RuntimeWarning, match="patches with a NaN are replaced by others"):
        patches = list(dataset.__getitems__(range(40)))
    alone = [dataset[index] for index in range(40)]  # a second warning would be an error

    for index, (patch, same) in enumerate(zip(patches, alone, strict=True)):
        assert (patch.specs == patching[index]) == (index in untouched)
        assert patch.specs == same.specs
        assert not torch.isnan(patch.input).any()
        y, x = patch.specs["coords"]
        np.testing.assert_array_equal(patch.input, stacks[0].array[:, y : y + 8, x : x + 8])


def test_nan_in_target(rng):
    """A NaN in the target counts too."""
    inputs = pl.open_stacks(rng.integers(0, 9, (20, 20), np.uint8), axes="YX")
    targets = pl.open_stacks(np.full((20, 20), np.nan), axes="YX")
    patching = pl.RandomPatching([(1, 1, 20, 20)], (8, 8))

    with pytest.raises(pl.SourceError, match="NaN"):
        PatchDataset(inputs, patching, targets)[0]
    with pytest.warns(RuntimeWarning), pytest.raises(pl.SourceError, match="in a row"):
        PatchDataset(inputs, patching, targets, nan="skip")[0]


@pytest.mark.parametrize("change", ["touch", "shorten", "replace", "remove"])
def test_changed_file(tmp_path: Path, rng, change):
    """A file that changes on disk is an error."""
    path = tmp_path / "cells.tif"
    tifffile.imwrite(path, rng.integers(0, 255, (40, 40), np.uint8), photometric="minisblack")
    stacks = pl.open_stacks(path, axes="YX")
    dataset = PatchDataset(stacks, pl.RandomPatching([stacks[0].data_shape], (8, 8)))
    dataset[0]

    if change == "touch":
        os.utime(path, (1, 1))
    elif change == "shorten":
        os.truncate(path, 700)
    else:
        path.unlink()
        if change == "replace":
            tifffile.imwrite(path, np.zeros((40, 40), np.uint8), photometric="minisblack")

    with pytest.raises(pl.SourceError, match=r"cells.tif has changed on disk"):
        dataset[0]


def test_watched_images(tmp_path: Path, rng):
    """Only the images of a batch are checked for changes."""
    paths = [tmp_path / "first.tif", tmp_path / "second.tif"]
    for path in paths:
        tifffile.imwrite(path, rng.integers(0, 255, (40, 40), np.uint8), photometric="minisblack")
    stacks = [stack for path in paths for stack in pl.open_stacks(path, axes="YX")]
    specs = [{"data_idx": number, "sample_idx": 0, "coords": (3, 4), "patch_size": (8, 8)} for number in (0, 1)]
    dataset = PatchDataset(stacks, pl.FixedPatching(specs))
    assert len(dataset.__getitems__([0, 1])) == 2

    paths[1].unlink()

    assert dataset[0].input.shape == (1, 8, 8)
    with pytest.raises(pl.SourceError, match=r"second.tif has changed on disk"):
        dataset[1]


@pytest.fixture
def zarr(tmp_path: Path) -> Path:
    path = tmp_path / "cells.ome.zarr"
    pl.predict(
        lambda batch: batch, np.full((40, 40), 7, np.uint8), path, axes="YX", patch_size=(40, 40), progress=False
    )
    return path


def microsplit(stacks, plan, **options):
    return MicroSplitDataset(plan, inputs=stacks, **options)


@pytest.mark.parametrize("change", ["metadata", "folder"])
def test_changed_zarr(zarr, change):
    """A Zarr array that is replaced is an error."""
    stacks = pl.open_stacks(zarr)
    dataset = PatchDataset(stacks, pl.RandomPatching([stacks[0].data_shape], (8, 8)))
    dataset[0]

    if change == "metadata":
        (zarr / "zarr.json").write_text((zarr / "zarr.json").read_text() + " ")
    else:
        shutil.move(zarr, zarr.with_name("before.ome.zarr"))
        shutil.copytree(zarr.with_name("before.ome.zarr"), zarr)

    with pytest.raises(pl.SourceError, match=r"cells.ome.zarr has changed on disk"):
        dataset[0]


@pytest.mark.parametrize("dataset_of", [PatchDataset, microsplit])
def test_cache(tmp_path, dataset_of, monkeypatch, rng):
    """Each chunk is decoded once by default, and every time with a cache of no chunks."""
    reads = []
    read_regions = ZarrStack.read_regions
    monkeypatch.setattr(
        ZarrStack, "read_regions", lambda *given: (reads.append(len(given[1])), read_regions(*given))[1]
    )
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(tmp_path / "a.zarr")}}
    store = ts.open(
        spec, create=True, dtype=ts.uint8, shape=[60, 64], chunk_layout=ts.ChunkLayout(chunk_shape=[16, 16])
    )
    store.result()[...] = rng.integers(0, 255, (60, 64), np.uint8)
    stacks = pl.open_stacks(tmp_path / "a.zarr", axes="YX")
    plan = pl.RandomPatching([stacks[0].data_shape], (8, 8), n_patches=100, seed=1)

    for options, expected in (({}, 4 * 4), ({"cache": pl.ChunkCache(1)}, len(plan))):
        reads.clear()
        dataset = dataset_of(stacks, plan, **options)
        for start in range(0, len(plan), 5):
            dataset.__getitems__(range(start, start + 5))
        assert sum(reads) == expected


def test_rewritten_chunks(zarr):
    """Chunks that are rewritten in place are not detected, and either version is read."""
    stacks = pl.open_stacks(zarr)
    dataset = PatchDataset(stacks, pl.RandomPatching([stacks[0].data_shape], (8, 8), n_patches=6))
    dataset[0]

    for array in sorted(zarr.rglob("c")):
        spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(array.parent)}}
        ts.open(spec, open=True, write=True).result()[...].write(9).result()

    assert {number for patch in dataset.__getitems__(range(6)) for number in patch.input.unique().tolist()} <= {7, 9}
    assert PatchDataset(pl.open_stacks(zarr), dataset.patching)[0].input.unique().tolist() in ([7], [9])


def test_no_nan_in_integers(inputs, patching):
    """Integers, which cannot be NaN, give no warning."""
    with warnings.catch_warnings(action="error"):
        PatchDataset(inputs, patching, nan="skip").__getitems__(range(24))


@pytest.mark.parametrize("dtype", ["u2", "u4", "i8", "f8", "f4"])
@pytest.mark.parametrize("differ", [False, True])
def test_large_pixels(dtype, differ, rng):
    """Normalization keeps the differences of large pixels."""
    level = {"u2": 60_000, "f4": 60_000}.get(dtype, 4_000_000_000)
    images = [(level + rng.integers(0, 100, (24, 30))).astype(dtype) for _ in range(2)]
    if dtype == "f8":
        images = [image + rng.random(image.shape) for image in images]
    stacks = [pl.ArrayStack(image, "YX") for image in images]
    values = [Normalization(1 / image.std(), -image.astype("f8").mean() / image.std()) for image in images]
    plan = pl.RandomPatching([(1, 1, 24, 30)] * 2, (8, 8), seed=1, n_patches=30)
    dataset = PatchDataset(stacks, plan, normalization=values if differ else values[0])
    for patch in dataset.__getitems__(range(30)):
        data_idx, (y, x) = patch.specs["data_idx"], patch.specs["coords"]
        used = values[data_idx if differ else 0]
        expected = images[data_idx][y : y + 8, x : x + 8].astype("f8") * used.scale + used.offset
        assert patch.input.dtype == torch.float32
        np.testing.assert_allclose(patch.input[0].numpy(), expected, atol=2e-5)
