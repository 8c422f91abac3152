"""Random patches: evenly spread, independent, and no more often in one image than in another."""

from __future__ import annotations

import tracemalloc
from collections import Counter
from collections.abc import Callable
from math import prod

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patchloom.errors import GeometryError
from patchloom.patching import FixedRandomPatching, RandomPatching

Departure = Callable[..., float]


def columns(patching: RandomPatching) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Stacks, samples and coordinates of all patches."""
    table = patching.specs(range(len(patching))).columns
    return table["data_idx"], table["sample_idx"], table["coords"]


def coverage_of(patching: RandomPatching, epochs: int) -> np.ndarray:
    """How often each voxel of the first sample is drawn, a mean over epochs."""
    patch, shape = patching.patch_size, patching.data_shapes[0][2:]
    starts = np.zeros([size + 2 * side for size, side in zip(shape, patch, strict=True)])
    for epoch in range(epochs):
        coords = columns(patching.at_epoch(epoch))[2]
        np.add.at(starts, tuple((coords + np.array(patch)).T), 1)
    for axis, side in enumerate(patch):  # from starts to voxels: a running sum over the patch
        sums = np.cumsum(starts, axis=axis)
        starts = sums - np.roll(sums, side, axis)
    inside = tuple(slice(side, side + size) for side, size in zip(patch, shape, strict=True))
    return starts[inside] / epochs


@settings(deadline=None, max_examples=60)
@given(st.data(), st.sampled_from(["inside", "uniform"]))
def test_coverage(data: st.DataObject, coverage: str) -> None:
    """Patches stay inside the image, or touch it, as `coverage` promises."""
    n_dims = data.draw(st.integers(2, 3))
    patch = data.draw(st.tuples(*[st.integers(1, 9)] * n_dims))
    low = [1] * n_dims if coverage == "uniform" else patch
    shape = tuple(size + data.draw(st.integers(0, 20)) for size in low)
    patching = RandomPatching([(1, 1, *shape)], patch, 1, n_patches=300, coverage=coverage)  # type: ignore[arg-type]
    coords = columns(patching)[2]
    if coverage == "inside":
        assert (coords >= 0).all()
        assert (coords + patch <= shape).all()
    else:
        assert (coords + patch > 0).all()
        assert (coords < shape).all()


def test_default_number() -> None:
    """By default there are as many patches as cover each sample."""
    shapes = [(2, 1, 100, 80), (3, 4, 64, 65)]
    patching = RandomPatching(shapes, (64, 32), 1)
    expected = Counter({(0, 0): 6, (0, 1): 6, (1, 0): 3, (1, 1): 3, (1, 2): 3})
    assert Counter(zip(*(column.tolist() for column in columns(patching)[:2]), strict=True)) == expected


@pytest.mark.parametrize("coverage", ["inside", "uniform"])
@pytest.mark.parametrize("shape", [(37, 29), (9, 14, 11)])
def test_uniform(coverage: str, shape: tuple[int, ...], departure: Departure) -> None:
    """Every position is equally likely, by a chi-square test."""
    patch = (6, 5, 4)[: len(shape)]
    patching = RandomPatching([(1, 1, *shape)], patch, 7, n_patches=50_000, coverage=coverage)  # type: ignore[arg-type]
    coords = columns(patching)[2] + (np.array(patch) - 1 if coverage == "uniform" else 0)
    sign = 1 if coverage == "uniform" else -1
    extents = [size + sign * (side - 1) for size, side in zip(shape, patch, strict=True)]
    places = np.bincount(np.ravel_multi_index(tuple(coords.T), extents), minlength=prod(extents))
    assert departure(places, 50_000 / prod(extents)) < 4
    for axis, extent in enumerate(extents):
        along = np.bincount(coords[:, axis], minlength=extent)
        assert departure(along, 50_000 / extent) < 4
        # A place that is a tenth more likely than the others in half the image would be seen.
        along[: extent // 2] = along[: extent // 2] * 1.1
        assert departure(along, along.sum() / extent) > 6


def test_independent(departure: Departure) -> None:
    """Axes, epochs, seeds and neighboring indices are independent."""
    patching = RandomPatching([(1, 1, 16, 16)], (9, 9), 7, n_patches=32_000)  # 8 places along each axis
    own = columns(patching)[2]
    others = {
        "the other axis": own[:, ::-1],
        "the next epoch": columns(patching.at_epoch(1))[2],
        "another seed": columns(RandomPatching([(1, 1, 16, 16)], (9, 9), 8, n_patches=32_000))[2],
        "the next patch": np.roll(own, 1, axis=0),
        "the same patch": own,
    }
    departures = {
        name: departure(np.bincount(own[:, 0] * 8 + other[:, 0], minlength=64), 500) for name, other in others.items()
    }
    assert departures.pop("the same patch") > 100, "the test sees what depends on each other"
    assert max(departures.values()) < 4, departures


def test_documented_frequency() -> None:
    """Voxels are drawn as often as the docstring states."""
    shape, patch, n = (40, 36), (12, 8), 4000
    inside = coverage_of(RandomPatching([(1, 1, *shape)], patch, 3, n_patches=n), epochs=50)
    amid = n * prod(patch) / prod(size - side + 1 for size, side in zip(shape, patch, strict=True))
    assert inside[12:28, 8:28].mean() == pytest.approx(amid, rel=0.01)
    assert inside.mean() == pytest.approx(n * prod(patch) / prod(shape), rel=1e-9)
    assert inside[0, 0] == pytest.approx(amid / prod(patch), rel=0.2)  # the corner: as often as it is a start

    uniform = coverage_of(RandomPatching([(1, 1, *shape)], patch, 3, n_patches=n, coverage="uniform"), epochs=50)
    anywhere = n * prod(patch) / prod(size + side - 1 for size, side in zip(shape, patch, strict=True))
    assert np.abs(uniform / anywhere - 1).max() < 0.05
    assert uniform[0, 0] == pytest.approx(anywhere, rel=0.04)


@pytest.mark.parametrize("coverage", ["inside", "uniform"])
def test_n_patches(coverage: str) -> None:
    """A given number of patches is distributed in proportion to the voxels."""
    shapes = [(3, 1, 20, 30), (1, 1, 70, 60), (50, 1, 16, 16)]
    patching = RandomPatching(shapes, (16, 16), 5, n_patches=40, coverage=coverage)  # type: ignore[arg-type]
    over = 15 if coverage == "uniform" else 0
    weights = np.repeat([prod(size + over for size in shape[2:]) for shape in shapes], [shape[0] for shape in shapes])
    counts = np.zeros(len(weights))
    for epoch in range(400):
        data_idx, sample_idx, _ = columns(patching.at_epoch(epoch))
        assert len(data_idx) == 40
        counts += np.bincount(np.array([0, 3, 4])[data_idx] + sample_idx, minlength=len(weights))
    shares = weights / weights.sum() * 40
    assert np.abs(counts / 400 - shares).max() < 4 * (0.25 / 400) ** 0.5, (
        "each sample is within one of its share, always"
    )
    assert (counts > 0).all(), "also samples with a share below one have their turn"


def test_epochs_and_seeds() -> None:
    """Different epochs and seeds differ, and the same ones repeat."""
    patching = RandomPatching([(1, 1, 500, 500)], (16, 16), 5)
    epochs = [columns(patching.at_epoch(epoch))[2].tolist() for epoch in range(5)]
    assert all(sum(map(lambda a, b: a == b, one, other)) < 5 for i, one in enumerate(epochs) for other in epochs[:i])
    assert patching.epoch == 0
    assert patching.at_epoch(3).epoch == 3
    assert columns(patching.at_epoch(3).at_epoch(1))[2].tolist() == epochs[1]


def test_recorded_patches() -> None:
    """Patches are the same on every machine."""
    patching = RandomPatching([(1, 1, 500, 400), (2, 1, 300, 700)], (64, 32), 2024)
    assert [patching.at_epoch(epoch)[index]["coords"] for epoch, index in ((0, 0), (0, 250), (9, 1))] == [
        (117, 133),
        (4, 277),
        (253, 298),
    ]


def test_seed_of_none() -> None:
    """With `seed=None` two patchings differ, and the drawn seed is an attribute that gives the same patches again."""
    patching = RandomPatching([(1, 1, 500, 500)], (16, 16), None)
    assert list(patching) == list(patching) == list(RandomPatching([(1, 1, 500, 500)], (16, 16), patching.seed))
    assert patching.seed != RandomPatching([(1, 1, 500, 500)], (16, 16), None).seed


def test_fixed() -> None:
    """Fixed random patches are those of epoch 0 in every epoch."""
    fixed = FixedRandomPatching([(2, 1, 100, 100)], (16, 16), 5)
    assert list(fixed) == list(fixed.at_epoch(7)) == list(fixed.fixed_patch_specs)
    assert list(fixed) == list(RandomPatching([(2, 1, 100, 100)], (16, 16), 5))


def test_memory() -> None:
    """A million patches take no memory."""
    tracemalloc.start()
    patching = FixedRandomPatching([(1, 1, 16_000, 16_000)], (16, 16), 1)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(patching) == 10**6
    assert peak < 2**20


def test_bad_coverage() -> None:
    """A value that is not a coverage is refused."""
    with pytest.raises(GeometryError, match="coverage is 'all': it must be one of 'inside', 'uniform'"):
        RandomPatching([(1, 1, 50, 50)], (16, 16), coverage="all")  # type: ignore[arg-type]
