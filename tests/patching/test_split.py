"""Training and validation never meet, whatever the margin, and nobody asks for more than there is."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from patchloom.errors import GeometryError, NotIntegerError
from patchloom.patching import FixedPatching, StratifiedPatching, split_training_validation
from patchloom.specs.spec_validation import validate_specs


def gaps(training: StratifiedPatching, validation: FixedPatching) -> np.ndarray:
    """Voxels between each training patch and the nearest validation patch of its sample, along the widest axis."""
    one, other = (plan.specs(range(len(plan))).columns for plan in (training, validation))
    apart = np.abs(one["coords"][:, None] - other["coords"][None]) - np.array(training.patch_size)
    same = np.ones(apart.shape[:2], dtype=bool)
    for name in ("data_idx", "sample_idx"):
        same &= one[name][:, None] == other[name][None]
    return apart.max(axis=2)[same]


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_apart(data: st.DataObject) -> None:
    """Training and validation patches never touch, and keep the margin."""
    n_dims = data.draw(st.integers(2, 3))
    patch = data.draw(st.tuples(*[st.integers(2, 6)] * n_dims))
    shapes = [
        (
            data.draw(st.integers(1, 2)),
            1,
            *(side * data.draw(st.integers(2, 5)) + data.draw(st.integers(0, 5)) for side in patch),
        )
        for _ in range(2)
    ]
    margin = data.draw(st.tuples(*[st.integers(0, 9)] * n_dims))
    whole = StratifiedPatching(shapes, patch, 1)
    try:
        training, validation = split_training_validation(whole, 3, seed=data.draw(st.integers(0, 99)), margin=margin)
    except GeometryError as error:
        assume("no cell is left for training" not in str(error))
        raise
    assert len(validation) == 3
    validate_specs(list(validation), shapes)
    for spec in validation:
        assert all(start % side == 0 for start, side in zip(spec["coords"], patch, strict=True))
        end = [start + side for start, side in zip(spec["coords"], patch, strict=True)]
        assert all(stop <= size for stop, size in zip(end, shapes[spec["data_idx"]][2:], strict=True)), "never outside"
    for epoch in range(3):
        one, other = (plan.specs(range(len(plan))).columns for plan in (training.at_epoch(epoch), validation))
        apart = np.abs(one["coords"][:, None] - other["coords"][None]) - np.array(patch)
        elsewhere = np.zeros(apart.shape[:2], dtype=bool)
        for name in ("data_idx", "sample_idx"):
            elsewhere |= one[name][:, None] != other[name][None]
        assert (elsewhere | (apart >= np.array(margin)).any(axis=2)).all()


def test_lateral_context() -> None:
    """With the documented margin, lateral context contains no validation voxel."""
    # Three scales: the widest covers four patch sizes, 1.5 of them on each side.
    patching = StratifiedPatching([(1, 1, 640, 640)], (32, 32), 1)
    training, validation = split_training_validation(patching, 4, seed=1, margin=48)
    for epoch in range(5):
        assert gaps(training.at_epoch(epoch), validation).min() >= 48
    bare, held_out = split_training_validation(patching, 4, seed=1)
    assert gaps(bare, held_out).min() < 48


def test_pure() -> None:
    """The given patching is not changed, and the same seed gives the same split."""
    patching = StratifiedPatching([(2, 1, 100, 100)], (10, 10), 1).at_epoch(3)
    before = list(patching)
    training, validation = split_training_validation(patching, 20, seed=5)
    assert list(patching) == before
    assert training.epoch == 3
    assert len(training) == 180
    again = split_training_validation(patching.at_epoch(8), 20, seed=5)[1]
    assert list(again) == list(validation)
    assert list(split_training_validation(patching, 20, seed=6)[1]) != list(validation)
    assert [spec["coords"] for spec in list(validation)[:3]] == [(10, 40), (20, 10), (20, 80)], "on every machine"


def test_probabilities() -> None:
    """Cells are held out in proportion to their probabilities."""
    patching = StratifiedPatching([(1, 1, 40, 100), (3, 1, 20, 20)], (10, 10), 1)
    patching.exclude_patches(0, 0, [(0, 0)])
    patching.set_region_probs(0, 0, {(1, 1): 0.0, (2, 2): 0.2})
    counts = np.zeros((4, 10))
    elsewhere = 0
    for seed in range(600):
        for spec in split_training_validation(patching, 5, seed=seed)[1]:
            if spec["data_idx"]:
                elsewhere += 1
            else:
                counts[tuple(coord // 10 for coord in spec["coords"])] += 1
    assert counts[0, 0] == counts[1, 1] == 0
    assert elsewhere / 3000 == pytest.approx(12 / 49.2, abs=0.03)
    usual = np.delete(counts.ravel(), [0, 11, 22])
    assert counts[2, 2] / usual.mean() == pytest.approx(0.2, abs=0.12)
    assert usual.std() < 1.3 * usual.mean() ** 0.5


def test_share() -> None:
    """A share of the cells is rounded down."""
    patching = StratifiedPatching([(1, 1, 50, 50)], (10, 10), 1)
    assert [len(split_training_validation(patching, share)[1]) for share in (0.04, 0.1, 0.5, 0.99)] == [1, 2, 12, 24]


@pytest.mark.parametrize(
    ("validation", "options", "error", "message"),
    [
        (10, {}, GeometryError, r"validation is 10, but the images hold 9 cells of size \(10, 10\) .* ask for 1 to 9"),
        (9, {}, GeometryError, "no cell is left for training: 9 of 9 cells are set aside"),
        (1, {"margin": 30}, GeometryError, r"no cell is left for training: 1 of 9 cells .* margin of \(30, 30\)"),
        (0, {}, GeometryError, "validation is 0"),
        (-2, {}, GeometryError, "validation is -2"),
        (0.1, {}, GeometryError, r"validation is 0\.1, which is not one patch: the images hold 9 cells"),
        (1.0, {}, GeometryError, r"validation is 1\.0: give a fraction above 0 and below 1"),
        (-0.5, {}, GeometryError, r"validation is -0\.5: give a fraction above 0 and below 1"),
        (True, {}, NotIntegerError, "validation is True"),
        ("3", {}, NotIntegerError, "validation is '3'"),
        (1, {"margin": -1}, GeometryError, "margin is -1 along Y"),
        (1, {"margin": (1, 2, 3)}, GeometryError, "margin is"),
        (1, {"margin": 1.5}, NotIntegerError, r"margin is 1\.5"),
        (1, {"seed": -1}, GeometryError, "seed is -1"),
    ],
)
def test_bad_arguments(validation: Any, options: dict[str, Any], error: type[Exception], message: str) -> None:
    """Numbers of cells that cannot be held out are refused."""
    patching = StratifiedPatching([(1, 1, 30, 35)], (10, 10), 1)
    with pytest.raises(error, match=message):
        split_training_validation(patching, validation, **options)
    assert len(patching) == 11


@settings(deadline=None, max_examples=60)
@given(data=st.data(), n_dims=st.integers(2, 3))
def test_margin(data: st.DataObject, n_dims: int) -> None:
    """The margin removes exactly the cells within it."""
    patch = data.draw(st.tuples(*[st.integers(1, 4)] * n_dims))
    shape = (2, 1, *(side * data.draw(st.integers(1, 9)) + data.draw(st.integers(0, side - 1)) for side in patch))
    margin = data.draw(st.tuples(*[st.one_of(st.integers(0, 20), st.just(10**12))] * n_dims))
    plan = StratifiedPatching([shape], patch, 1)
    try:
        training, validation = split_training_validation(plan, 1, seed=data.draw(st.integers(0, 99)), margin=margin)
    except GeometryError as error:
        assume("no cell is left for training" not in str(error))
        raise
    left = training.get_included_grid_coords()
    for key, cells in plan.get_all_grid_coords().items():
        held_out = [
            np.array(spec["coords"]) // patch for spec in validation if (spec["data_idx"], spec["sample_idx"]) == key
        ]
        apart = {
            cell
            for cell in cells
            if all(((np.abs(np.array(cell) - other) - 1) * patch >= margin).any() for other in held_out)
        }
        assert set(left[key]) == apart


def test_memory() -> None:
    """The memory for a margin does not grow with it."""
    plan = StratifiedPatching([(1, 1, 2048, 2048)], (16, 16), 1)
    peaks = []
    for margin in (16, 512):
        tracemalloc.start()
        try:
            split_training_validation(plan, 400 if margin == 16 else 4, margin=margin)
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
    tracemalloc.start()
    with pytest.raises(GeometryError, match="no cell is left"):
        split_training_validation(plan, 2000, margin=2000)
    peaks.append(tracemalloc.get_traced_memory()[1])
    tracemalloc.stop()
    assert max(peaks) < 8 << 20, "16,384 cells, and some hundred bytes for each"
