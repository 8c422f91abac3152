"""Weights from label images: voxels are counted once, and rare classes weigh as much as frequent ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from patchloom import ArrayStack, WeightedPatching, label_weights
from patchloom.errors import ArgumentError, ArgumentTypeError
from patchloom.image_stacks import Region


class Labels(ArrayStack):
    """Labels in memory that count how they are read."""

    def __init__(self, array: NDArray[Any]) -> None:
        super().__init__(array, axes="SCZYX" if array.ndim == 5 else "SCYX")
        self.voxels_read = 0
        self.largest_read = 0

    def read_region(self, region: Region) -> NDArray[Any]:
        patch = super().read_region(region)
        self.voxels_read += patch.size
        self.largest_read = max(self.largest_read, patch.size)
        return patch


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.uint64, np.float32])
@pytest.mark.parametrize("block", [1, 100, 10**6])
def test_counts(dtype: Any, block: int, rng: np.random.Generator) -> None:
    """Weights are numbers of voxels, each read once, whatever fits into memory."""
    shapes, cell_size = [(2, 1, 23, 31), (1, 1, 40, 17)], (5, 7)
    stacks = [Labels((rng.integers(0, 5, shape) * rng.integers(0, 2, shape)).astype(dtype)) for shape in shapes]
    everything = np.concatenate([stack.array.ravel() for stack in stacks])
    max_bytes = block * np.dtype(dtype).itemsize
    foreground = label_weights(stacks, cell_size, max_bytes=max_bytes)
    classes = label_weights(stacks, cell_size, balance="classes", max_bytes=max_bytes)
    totals = np.bincount(everything.astype(int))
    for stack, by_voxels, by_class in zip(stacks, foreground, classes, strict=True):
        for sample, row, column in np.ndindex(by_voxels.shape):
            cell = stack.array[sample, 0, row * 5 : row * 5 + 5, column * 7 : column * 7 + 7].astype(int)
            counts = np.bincount(cell.ravel(), minlength=5)[1:]
            assert by_voxels[sample, row, column] == pytest.approx(counts.sum() / (everything > 0).sum())
            assert by_class[sample, row, column] == pytest.approx((counts / totals[1:]).sum() / 4)
        assert stack.voxels_read == 2 * stack.array.size, "once for each of the two"
        assert stack.largest_read <= max(block, 35)


def test_memory(rng: np.random.Generator) -> None:
    """Weights are the same to the last bit, however much is read at once."""
    labels = ArrayStack(rng.integers(0, 7, (3, 1, 50, 61)), axes="SCYX")
    (whole,) = label_weights([labels], (8, 8), balance="classes", share=0.7)
    for max_bytes in (1, 3000, 10_000):
        (piecewise,) = label_weights([labels], (8, 8), balance="classes", share=0.7, max_bytes=max_bytes)
        assert np.array_equal(piecewise, whole)


def test_three_dimensions() -> None:
    """A single voxel gives all the weight to its cell."""
    labels = np.zeros((1, 1, 6, 8, 10), dtype=np.uint8)
    labels[0, 0, 4, 7, 9] = 7
    (weights,) = label_weights([Labels(labels)], (4, 4, 4), balance="classes")
    assert weights.shape == (1, 2, 2, 3)
    assert np.argwhere(weights).tolist() == [[0, 1, 1, 2]]


def test_rare_classes() -> None:
    """Patches show a rare class as often as a frequent one, or as often as the share says."""
    labels = np.zeros((1, 1, 128, 128), dtype=np.uint8)
    labels[0, 0, :64, 64:] = 1
    labels[0, 0, 100:104, 20:24] = 2

    def rare(**options: Any) -> float:
        weights = label_weights([Labels(labels)], (4, 4), **options)
        patching = WeightedPatching([labels.shape], (8, 8), weights, (4, 4), 3, n_patches=4000)
        coords = patching.specs(range(4000)).columns["coords"]
        windows = np.lib.stride_tricks.sliding_window_view(labels[0, 0], (8, 8))[tuple(coords.T)]
        return float((windows == 2).any(axis=(1, 2)).mean())

    assert rare(balance="classes") == pytest.approx(0.5, abs=0.03)
    assert rare(balance="foreground") < 0.02
    assert rare(balance="classes", share=0.4) == pytest.approx(0.2, abs=0.03)
    assert rare(share=0.0) < 0.02


@pytest.mark.parametrize(
    ("labels", "options", "message"),
    [
        (np.ones((1, 2, 40, 40)), {}, r"labels\[0\] has 2 channels"),
        (np.zeros((1, 1, 40, 40)), {}, "labels are 0 everywhere"),
        (np.ones((1, 1, 40, 40)), {"share": 1.5}, "share is 1.5: it must be from 0 to 1"),
        (np.ones((1, 1, 40, 40)), {"balance": "even"}, "balance is 'even': it must be one of 'foreground', 'classes'"),
        (np.ones((1, 1, 40, 40)), {"cell_size": (4, 4, 4)}, "image stack 0 is 2D"),
    ],
)
def test_refused(labels: NDArray[Any], options: dict[str, Any], message: str) -> None:
    """Labels and options that make no sense are refused with a reason."""
    with pytest.raises(ArgumentError, match=message):
        label_weights([Labels(labels)], **{"cell_size": (4, 4), **options})


def test_other_things() -> None:
    """What is not an image stack is refused by its place."""
    with pytest.raises(ArgumentTypeError, match=r"labels\[0\]"):
        label_weights([np.zeros((4, 4))], (2, 2))  # type: ignore[list-item]
