"""Names of inputs and targets: another order is noticed, and no layout in use gives a false alarm."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import patchloom as pl
from patchloom.torch import MicroSplitDataset, PatchDataset
from patchloom.torch.datasets.pairing import misplaced_pair

LAYOUTS = {
    "a folder a kind": ("/data/raw/{}.tif", "/data/masks/{}.tif"),
    "an ending": ("{}.tif", "{}_mask.tif"),
    "a beginning": ("img_{}.tif", "label_{}.tif"),
    "both": ("data/x_{}_raw.ome.tif", "data/y_{}_gt.tif"),
    "a folder an image": ("/data/{}/raw.tif", "/data/{}/mask.tif"),
    "images in a store": ("/data/{}.zarr/0", "/data/{}.ome.zarr/labels/0"),
    "of another system": ("C:\\data\\raw\\{}.tif", "C:\\data\\masks\\{}.png"),
    "remote": ("https://a.org/raw/{}.zarr", "s3://bucket/masks/{}.zarr/"),
    "in capitals": ("{}.TIF", "{}_MASK.tif"),
}
NAMES = [
    ["a", "b", "c"],
    ["cell 1", "cell 2", "cell 10"],
    ["t08", "t09", "t10", "t11"],
    ["x_1", "x_1_2", "y_1"],
    ["fov1-c1", "fov1-c2", "fov2-c1"],
    ["zebra", "apple"],
    ["Ähre", "µ", "日本"],
]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("names", NAMES, ids=str)
def test_order(layout: str, names: list[str]) -> None:
    """The same order gives no warning, and any other order gives one."""
    one, other = LAYOUTS[layout]
    inputs, targets = [one.format(name) for name in names], [other.format(name) for name in names]
    assert misplaced_pair(inputs, targets) is None
    for first in range(len(names) - 1):
        swapped = targets.copy()
        swapped[first], swapped[-1] = swapped[-1], swapped[first]
        assert misplaced_pair(inputs, swapped) == first
    assert misplaced_pair(inputs, targets[1:] + targets[:1]) == 0


@given(
    numbers=st.lists(st.integers(0, 2000), min_size=2, max_size=12, unique=True),
    widths=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    data=st.data(),
)
def test_numbers(numbers: list[int], widths: tuple[int, int], data: st.DataObject) -> None:
    """Numbers are compared with or without leading zeros."""
    order = data.draw(st.permutations(range(len(numbers))))
    inputs = [f"raw/img{number:0{widths[0]}}.tif" for number in numbers]
    targets = [f"mask/m_{numbers[place]:0{widths[1]}}_seg.tif" for place in order]
    expected = next((i for i, place in enumerate(order) if i != place), None)
    assert misplaced_pair(inputs, targets) == expected


def test_missing_image() -> None:
    """An image that is missing on one side is found."""
    inputs = [f"raw/{name}.tif" for name in "abcde"]
    assert misplaced_pair(inputs, [f"mask/{name}.tif" for name in "acdef"]) == 1
    assert misplaced_pair(inputs, [f"mask/{name}.tif" for name in "abcdx"]) == 4


@pytest.mark.parametrize(
    ("inputs", "targets"),
    [
        ([], []),
        (["a.tif"], ["b.tif"]),
        (["array", "array"], ["array", "array"]),
        (["array", "array"], ["a.tif", "b.tif"]),
        (["a.tif", "b.tif"], ["first.tif", "second.tif"]),
        (["a.tif", "a.tif", "b.tif"], ["a_mask.tif", "a_mask.tif", "b_mask.tif"]),
        (["", "/"], ["", "/"]),
    ],
)
def test_unrelated_names(inputs: list[str], targets: list[str]) -> None:
    """Names without common parts give no warning."""
    assert misplaced_pair(inputs, targets) is None


def stacks(names: list[str]) -> list[pl.ImageStack]:
    return [pl.ArrayStack(np.zeros((40, 40), np.float32), "YX", source=name) for name in names]


def test_warning() -> None:
    """Datasets warn of another order."""
    plan = pl.RandomPatching([(1, 1, 40, 40)] * 2, (8, 8), seed=1)
    inputs = stacks(["a.tif", "b.tif"])
    for make in (
        lambda targets: PatchDataset(inputs, plan, targets),
        lambda targets: MicroSplitDataset(plan, inputs=inputs, targets=targets),
    ):
        with pytest.warns(UserWarning, match=r"pair 0 differ: the input is a\.tif, the target b_mask\.tif; sort both"):
            make(stacks(["b_mask.tif", "a_mask.tif"]))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            make(stacks(["a_mask.tif", "b_mask.tif"]))
