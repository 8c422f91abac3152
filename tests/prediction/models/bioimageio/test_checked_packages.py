"""The test tensors of a package are predicted, whole and tiled, and compared with those that it expects."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import patchloom as pl
from patchloom.errors import ModelError

Make = Callable[..., Any]

BLUR = "w = Constant <value = float[1, 1, 3, 3] {" + ", ".join(["0.125"] * 9) + "}> () "
SAME = ("float[N, 1, H, W]", f"{BLUR} y = Conv <pads = [1, 1, 1, 1]> (x, w)")
STEPS = [{"id": "zero_mean_unit_variance", "kwargs": {"axes": ["channel", "y", "x"], "eps": 1e-3}}]


@pytest.fixture
def tensors(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """An input, and the output of `SAME` after `STEPS`."""
    image = rng.normal(100, 20, (1, 1, 40, 48)).astype(np.float32)
    wide = (image.astype(np.float64) - image.mean(dtype=np.float64)) / (image.std(dtype=np.float64) + 1e-3)
    padded = np.pad(wide[0, 0], 1)
    sums = sum(padded[y : y + 40, x : x + 48] for y in range(3) for x in range(3))
    return image, (sums / 8)[None, None].astype(np.float32)


def halo(size: int) -> dict[str, Any]:
    return {"y": {"halo": size}, "x": {"halo": size}}


@pytest.mark.parametrize("as_zip", [False, True])
def test_good_package(as_zip: bool, tensors: Any, make_package: Make, out_axes: Make) -> None:
    """A package whose halo suffices passes."""
    package = make_package(
        network=SAME, outputs=out_axes("bcyx", **halo(1)), preprocessing=STEPS, test=tensors, as_zip=as_zip
    )
    found = pl.check_model(pl.load_model(package))
    assert found.passed, str(found)
    assert (found.expected[0].n_voxels, len(found.tiled)) == (40 * 48, 1)
    assert found.overlaps >= (2, 2)


def test_axes(tensors: Any, make_package: Make, axes: Make, out_axes: Make) -> None:
    """Test tensors have the axes of the package."""
    image, expected = (np.moveaxis(tensor, 1, -1) for tensor in tensors)
    network = (
        "float[N, H, W, 1]",
        f"{BLUR} a = Transpose <perm = [0, 3, 1, 2]> (x) b = Conv <pads = [1, 1, 1, 1]> (a, w) y = Transpose <perm = [0, 2, 3, 1]> (b)",
    )
    package = make_package(
        network=network,
        inputs=axes("byxc"),
        outputs=out_axes("byxc", **halo(1)),
        preprocessing=STEPS,
        test=(image, expected),
    )
    found = pl.check_model(pl.load_model(package))
    assert found.passed, str(found)


def test_wrong_expectation(tensors: Any, make_package: Make, out_axes: Make) -> None:
    """A package that describes another normalization than that of its test tensors fails."""
    package = make_package(network=SAME, outputs=out_axes("bcyx", **halo(1)), test=tensors)
    found = pl.check_model(pl.load_model(package))
    assert (found.passed, found.expected[0].passed, found.tiled[0].passed) == (False, False, True)


def test_small_halo(tensors: Any, make_package: Make, out_axes: Make, rng: np.random.Generator) -> None:
    """A package whose halo is too small fails."""
    weights = ", ".join(["0.01"] * 25)
    network = (
        "float[N, 1, H, W]",
        (
            f"w = Constant <value = float[1, 1, 5, 5] {{{weights}}}> () a = Conv <pads = [2, 2, 2, 2]> (x, w) "
            "b = Conv <pads = [2, 2, 2, 2]> (a, w) c = Conv <pads = [2, 2, 2, 2]> (b, w) d = Conv <pads = [2, 2, 2, 2]> (c, w) "
            "y = Conv <pads = [2, 2, 2, 2]> (d, w)"
        ),
    )
    package = make_package(network=network, outputs=out_axes("bcyx", **halo(1)))
    found = pl.check_model(pl.load_model(package), tolerance=pl.Tolerance(absolute=1e-9, relative=1e-6))
    assert not found.passed
    assert "depends on more of a tile" in str(found)


def test_declared_tolerance(tensors: Any, make_package: Make, out_axes: Make) -> None:
    """The tolerance of the package is used."""
    image, expected = tensors
    config = {"bioimageio": {"reproducibility_tolerance": [{"absolute_tolerance": 0.01, "relative_tolerance": 0.005}]}}
    package = make_package(
        network=SAME,
        outputs=out_axes("bcyx", **halo(1)),
        preprocessing=STEPS,
        test=(image, expected + 0.008),
        config=config,
    )
    found = pl.check_model(pl.load_model(package))
    assert (found.tolerance.absolute, found.passed) == (0.01, True)


def test_damaged_test_tensor(tensors: Any, make_package: Make) -> None:
    """A test tensor that is not an array, or a pickle, is one error; it is not opened before it is needed."""
    package = make_package(network=SAME, preprocessing=STEPS, test=tensors)
    (package / "test0.npy").write_bytes(b"not an array")
    model = pl.load_model(package)
    with pytest.raises(ModelError, match=r"test tensor of 'input' 'test0\.npy' has the SHA-256"):
        pl.check_model(model)


def test_pickled_test_tensor(tensors: Any, make_package: Make, rewrite: Make) -> None:
    """A test tensor of Python objects is not unpickled."""
    package = make_package(network=SAME, preprocessing=STEPS, test=tensors)
    np.save(package / "test0.npy", np.array([[print]], dtype=object), allow_pickle=True)
    rewrite(package, lambda content: content["inputs"][0]["test_tensor"].pop("sha256"))
    with pytest.raises(ModelError, match=r"the test tensor test0\.npy cannot be read"):
        pl.check_model(pl.load_model(package))
