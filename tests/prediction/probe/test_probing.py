"""A probe finds what a model accepts, and where its predictions differ."""

from __future__ import annotations

import json
import time
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch

import patchloom as pl
from patchloom.errors import ArgumentError


def blurred(batch: np.ndarray) -> np.ndarray:
    """Average over 3 × 3 voxels; outside the tile there are zeros."""
    sums = batch.astype(np.float64)
    for axis in (-2, -1):
        widths = [(1, 1) if other == axis % batch.ndim else (0, 0) for other in range(batch.ndim)]
        sums = np.lib.stride_tricks.sliding_window_view(np.pad(sums, widths), 3, axis=axis).mean(axis=-1)
    return sums


def enlarged(batch: np.ndarray, factor: int) -> np.ndarray:
    for axis in range(2, batch.ndim):
        batch = batch.repeat(factor, axis)
    return batch


MODELS: dict[str, tuple[Any, Fraction, Fraction]] = {
    "same": (blurred, Fraction(1), Fraction(0)),
    "margin": (lambda batch: batch[..., 5:-5, 5:-5], Fraction(1), Fraction(5)),
    "odd margin": (lambda batch: batch[..., 3:, 3:], Fraction(1), Fraction(3, 2)),
    "larger": (lambda batch: enlarged(batch, 3), Fraction(3), Fraction(0)),
    "smaller": (lambda batch: batch[..., ::4, ::4], Fraction(1, 4), Fraction(0)),
    "larger with margin": (lambda batch: enlarged(batch[..., 7:-7, 7:-7], 2), Fraction(2), Fraction(7)),
    "half with margin": (lambda batch: batch[..., 6:-6:2, 6:-6:2], Fraction(1, 2), Fraction(6)),
    "margin as large as the gain": (lambda batch: enlarged(batch[..., 32:-32, 32:-32], 2), Fraction(2), Fraction(32)),
}


@pytest.mark.parametrize("name", MODELS)
def test_outputs(name: str) -> None:
    """Scale and margin are the slope and the intercept of the size of the output."""
    model, scale, margin = MODELS[name]
    (output,) = pl.probe(model, n_dims=2).outputs
    assert (output.scale, output.margin) == ((scale,) * 2, (margin,) * 2)


def test_table_and_json() -> None:
    """A probe goes to JSON and back; its table has a row for each measurement."""
    found = pl.probe(blurred, n_dims=2)
    again = pl.ModelProbe.from_dict(json.loads(json.dumps(found.to_dict())))
    assert again == found
    rows = dict(found.rows())
    assert rows["tile sizes"] == "Y: 1 and more; X: 1 and more"
    assert rows["output"] == "1 channel of float64, as large as the tile"
    assert rows["tile border"].startswith("the outer 1 × 1 voxels")
    assert (rows["run twice"], rows["in a batch"]) == ("the same", "the same")
    assert all(name in str(found) for name in rows)


def test_drawing() -> None:
    """A model that draws random numbers is not deterministic."""
    rng = np.random.default_rng(0)
    found = pl.probe(lambda batch: batch + rng.normal(size=batch.shape), n_dims=2)
    assert found.repeat_difference > 0.1
    assert "differs" in dict(found.rows())["run twice"]


def test_batches() -> None:
    """It is found that a tile depends on the others in its batch, and that a model takes one tile only."""
    assert pl.probe(lambda batch: batch - batch.mean(), n_dims=2).batch_difference > 1e-3  # type: ignore[operator]
    assert pl.probe(blurred, n_dims=2).batch_difference == 0

    def single(batch: np.ndarray) -> np.ndarray:
        assert len(batch) == 1
        return batch

    found = pl.probe(single, n_dims=2)
    assert (found.takes_batches, found.batch_difference) == (False, None)
    assert dict(found.rows())["in a batch"] == "takes one tile at a time"


def test_tile_sizes() -> None:
    """The middle of a tile of a model that looks at its mean differs less in larger tiles."""
    found = pl.probe(lambda batch: batch - batch.mean(axis=(2, 3), keepdims=True), n_dims=2, tolerance=1e-6)
    differences = [size.difference for size in found.size_differences]
    assert len(differences) >= 2
    assert differences[-1] < differences[0] / 2
    assert found.sufficient_size is None
    local = pl.probe(blurred, n_dims=2)
    assert local.sufficient_size == local.size_differences[0].size


def test_refusing() -> None:
    """A model that refuses every tile is reported."""

    def model(batch: np.ndarray) -> np.ndarray:
        raise ValueError("no")

    found = pl.probe(model)
    assert (found.sizes, found.outputs) == ((), ())
    assert "ValueError: no" in str(found)
    assert pl.ModelProbe.from_dict(json.loads(json.dumps(found.to_dict()))) == found


def test_hanging_and_printing() -> None:
    """A model that does not return for one size, or prints, is reported."""

    def model(batch: np.ndarray) -> np.ndarray:
        print("a line")
        if batch.shape[-1] == 129:
            time.sleep(5)
        return batch

    found = pl.probe(model, n_dims=2, seconds=2)
    assert found.sizes[0].modulus == 1
    assert any("did not return in time for a tile of 129 × 129" in remark for remark in found.remarks)
    assert any("printed" in remark and "a line" in remark for remark in found.remarks)


@pytest.mark.parametrize(("n_dims", "n_channels"), [(2, 3), (3, 1), (3, 4)])
def test_axes_and_channels(n_dims: int, n_channels: int) -> None:
    """Numbers of axes and channels that are not given are found by trying."""

    def model(batch: np.ndarray) -> np.ndarray:
        assert batch.shape[1] == n_channels
        assert batch.ndim == 2 + n_dims
        return batch

    found = pl.probe(model)
    assert (found.n_dims, found.n_channels, len(found.sizes)) == (n_dims, n_channels, n_dims)


def test_declared() -> None:
    """What a model declares is taken as it is."""

    class Model:
        description = pl.ModelDescription(min_size=(20, 40), size_step=(10, 20), in_channels=2)

        def __call__(self, batch: np.ndarray) -> np.ndarray:
            return batch

    found = pl.probe(Model())
    assert [(rule.least, rule.modulus) for rule in found.sizes] == [(20, 10), (40, 20)]
    assert found.n_channels == 2


def test_image() -> None:
    """An image decides about axes, channels and dtype, and its pixels are used; a 2D model gets a plane of it."""
    seen = []

    def model(batch: np.ndarray) -> np.ndarray:
        seen.append((batch.dtype, float(batch.max())))
        return batch

    image = np.random.default_rng(0).integers(0, 1000, (2, 90, 70), np.uint16)
    found = pl.probe(model, image=image, axes="CYX")
    assert (found.n_channels, found.n_dims, found.dtype) == (2, 2, "uint16")
    assert max(value for _, value in seen) > 500
    assert pl.probe(model, image=image, axes="ZYX", n_dims=2).n_channels == 1
    with pytest.raises(ArgumentError, match="series of 2"):
        pl.probe(model, image=[image, image], axes="CYX")


@pytest.mark.parametrize(
    ("network", "context", "stride"),
    [
        (torch.nn.Conv2d(1, 1, (3, 7), padding=(1, 3)), ((1, 1), (3, 3)), (1, 1)),
        (
            torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.ReLU(), torch.nn.Conv2d(2, 1, 3)),
            ((2, 2),) * 2,
            (1, 1),
        ),
        (torch.nn.Sequential(torch.nn.AvgPool2d(4), torch.nn.Upsample(scale_factor=4)), ((3, 3),) * 2, (4, 4)),
        (torch.nn.Conv2d(1, 1, 4, stride=(2, 3)), ((1, 1), (1, 0)), (2, 3)),  # and a margin of 1
    ],
    ids=["lopsided kernel", "valid", "pooled", "strided"],
)
def test_reach(network: torch.nn.Module, context: Any, stride: Any) -> None:
    """Reach and stride of networks of PyTorch are those of their layers."""
    found = pl.probe(network)
    assert found.reach is not None
    assert (found.stride, found.is_certain, found.is_global) == (stride, True, False)
    assert found.reach.context == context


def test_lower_bound() -> None:
    """The reach of a callable is a lower bound, and the table contains that."""
    found = pl.probe(blurred, n_dims=2)
    assert found.reach is not None
    assert (found.reach.context, found.is_certain) == (((1, 1),) * 2, False)
    assert "lower bound" in dict(found.rows())["reach"]
