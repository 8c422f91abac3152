"""Labels keep their value in every dtype, or are refused by name; what held them before is read as before."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import patchloom as pl
from patchloom.torch import MicroSplitDataset, PatchDataset, PatchLoader
from patchloom.torch.datasets.whole_numbers import cast, holds_all

SOURCES = ["bool", "u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f2", "f4", "f8", ">u4"]
TARGETS = ["bool", "u1", "i1", "i2", "i4", "i8", "u2", "u4", "u8", "f2", "f4", "f8", "c8", "c16"]


def labels(dtype: str, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Small ones and the largest that there are, and fractions among floats."""
    kind = np.dtype(dtype)
    if kind.kind == "b":
        return rng.integers(0, 2, shape).astype(kind)
    if kind.kind == "f":
        return rng.choice([0, 1, 2.5, -3, 60_000.0 if dtype == "f2" else 2.0**24, 2.0**11], shape).astype(kind)
    info = np.iinfo(kind)
    return rng.choice(np.array([0, 1, 7, info.max, info.max - 1, info.min, info.max // 2 + 1], kind), shape)


def is_same(one: Any, other: Any) -> bool:
    """Whether two numbers are equal, as Python knows them: exactly."""
    one, other = (number.item() for number in (one, other))
    return bool(one == other)


@settings(deadline=None, max_examples=120)
@given(source=st.sampled_from(SOURCES), target=st.sampled_from(TARGETS), seed=st.integers(0, 2**32))
def test_labels(source: str, target: str, seed: int) -> None:
    """Labels are the same in any dtype, or refused."""
    rng = np.random.default_rng(seed)
    image = labels(source, rng, (12, 12))
    if rng.random() < 0.5:
        image[6:] = 1
    elif rng.random() < 0.5:
        image[:] = image[0, 0]  # of which nothing tells that other numbers are not held
    plan = pl.FixedPatching(
        [{"data_idx": 0, "sample_idx": 0, "coords": (y, x), "patch_size": (6, 6)} for y in (0, 6) for x in (0, 6)]
    )
    stacks = [pl.ArrayStack(image, "YX", source="labels.tif")]
    dataset = PatchDataset(stacks, plan, stacks, dtype=bool, target_dtype=target)
    both_float = np.dtype(source).kind == "f" and np.dtype(target).kind in "fc"
    for index, spec in enumerate(plan):
        y, x = spec["coords"]
        expected = image[y : y + 6, x : x + 6]
        with np.errstate(all="ignore"):
            there = expected.astype(target)
        exact = target == "bool" or both_float or all(map(is_same, there.ravel(), expected.ravel()))
        if exact:
            with np.errstate(over="warn" if not both_float else "ignore"):
                assert np.array_equal(dataset[index].target[0].numpy(), there, equal_nan=True)
        else:
            with pytest.raises(
                pl.GeometryError, match=r"target_dtype is \w+, which does not hold .* of labels\.tif: take"
            ):
                dataset[index]


@pytest.mark.parametrize("dtype", [np.uint32, np.int64, np.uint64])
def test_large_labels(dtype: Any, tmp_path) -> None:
    """Large labels are refused by the default dtype, and kept by the dtype that the message names."""
    image = np.arange(2**24, 2**24 + 400, dtype=dtype).reshape(20, 20)
    np.save(tmp_path / "labels.npy", image)
    for stacks in ([pl.ArrayStack(image, "YX")], pl.open_stacks(tmp_path / "labels.npy", axes="YX")):
        plan = pl.RandomPatching([(1, 1, 20, 20)], (8, 8), seed=1, n_patches=12)
        with (
            PatchLoader(PatchDataset(stacks, plan), 4) as loader,
            pytest.raises(pl.GeometryError, match=r"dtype is float32, which does not hold 16777[0-9]* of"),
        ):
            list(loader)
        dataset = PatchDataset(stacks, plan, dtype="uint64" if dtype is np.uint64 else "int64")
        for patch, spec in zip([dataset[index] for index in range(12)], plan, strict=True):
            y, x = spec["coords"]
            assert np.array_equal(patch.input[0].numpy(), image[y : y + 8, x : x + 8])


def test_named_image(rng) -> None:
    """The message names the image that contains the label."""
    images = [rng.integers(0, 9, (2, 16, 16)).astype("i8") for _ in range(3)]
    images[1][1, 5, 5] = 2**40 + 1
    stacks = [pl.ArrayStack(image, "CYX", source=f"{number}.tif") for number, image in enumerate(images)]
    plan = pl.UncorrelatedPatching(
        pl.FixedPatching(
            [{"data_idx": number, "sample_idx": 0, "coords": (0, 0), "patch_size": (16, 16)} for number in (0, 1, 2)]
        ),
        n_channels=2,
        probability=0.0,
    )
    with pytest.raises(pl.GeometryError, match=r"does not hold 1099511627777 of 1\.tif"):
        PatchDataset(stacks, plan).__getitems__(range(3))
    assert len(PatchDataset(stacks, plan).__getitems__([0, 2])) == 2


def test_normalized(rng) -> None:
    """Intensities of any size are read if they are normalized."""
    image = rng.integers(2**30, 2**31, (16, 16)).astype("u4")

    class Values:
        scale, offset = 2.0**-31, 0.0

    plan = pl.RandomPatching([(1, 1, 16, 16)], (16, 16), seed=1)
    patch = PatchDataset([pl.ArrayStack(image, "YX")], plan, normalization=Values())[0]
    np.testing.assert_allclose(patch.input[0].numpy(), image / 2**31, rtol=1e-6)


def test_complex(rng) -> None:
    """Complex pixels need a complex dtype."""
    image = rng.random((16, 16)) + 1j * rng.random((16, 16))
    stacks = [pl.ArrayStack(image, "YX", source="phase.npy")]
    plan = pl.RandomPatching([(1, 1, 16, 16)], (16, 16), seed=1)
    with pytest.raises(pl.GeometryError, match=r"dtype is float32, but phase\.npy has complex pixels"):
        PatchDataset(stacks, plan)
    assert torch.equal(PatchDataset(stacks, plan, dtype="complex128")[0].input[0], torch.from_numpy(image))


@given(source=st.sampled_from(SOURCES[:9]), target=st.sampled_from(TARGETS[1:]))
def test_holds_all(source: str, target: str) -> None:
    """A dtype that holds all numbers of another holds its extremes."""
    kind = np.dtype(source)
    ends = [0, 1] if kind.kind == "b" else [np.iinfo(kind).min, np.iinfo(kind).max, np.iinfo(kind).max - 1]
    pixels = np.array(ends, kind)
    with np.errstate(all="ignore"):
        exact = all(map(is_same, pixels.astype(target), pixels))
    if holds_all(kind, np.dtype(target)):
        assert exact
    assert (cast(pixels, np.empty(len(ends), target)) is None) == exact


@pytest.mark.parametrize("way", ["targets", "inputs", "mixture"])
def test_microsplit(way: str, rng) -> None:
    """MicroSplit refuses whole numbers that float32 does not hold."""
    small, large = (rng.integers(0, 2**16, (2, 32, 32)).astype("u4") + base for base in (0, np.uint32(2**24)))
    plan = pl.RandomPatching([(1, 2, 32, 32)], (8, 8), seed=1)

    def dataset(image: np.ndarray, **options: Any) -> MicroSplitDataset:
        stacks, plain = ([pl.ArrayStack(pixels, "CYX", source="labels.tif")] for pixels in (image, small))
        series = {
            "targets": {"inputs": plain, "targets": stacks},
            "inputs": {"inputs": stacks},
            "mixture": {"targets": stacks},
        }[way]
        channels = {} if way == "mixture" else {"channels": [0]}
        return MicroSplitDataset(plan, n_scales=2, **series, **channels, **options)

    class Values:
        scale, offset = 1e-6, -20.0

    assert dataset(small)[0].input.shape == (2, 8, 8)
    with pytest.raises(
        pl.GeometryError, match=r"dtype is float32, which does not hold 16\d{6} of labels\.tif: give a normalization"
    ):
        dataset(large)[0]
    normalized = {"targets": {"target_normalization": Values()}, "inputs": {"normalization": Values()}}
    assert dataset(large, **normalized.get(way, {"target_normalization": Values()}))[0].input.shape == (2, 8, 8)


@pytest.mark.parametrize(
    ("number", "dtype", "target"),
    [(-(2**63), "i8", "f2"), (2**24 + 1, "u4", "c8"), (2**63, "u8", "i8"), (2**53 + 1, "i8", "c16")],
)
def test_round_trip(number, dtype, target):
    """A number that survives a round trip through infinity or another sign is refused."""
    assert not holds_all(np.dtype(dtype), np.dtype(target))
    assert cast(np.array([1, number], dtype), np.empty(2, target)) == (1,)
