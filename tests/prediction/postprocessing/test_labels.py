"""Lower levels of a pyramid show no label that was never predicted."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from patchloom.errors import ModelOutputError
from patchloom.prediction import predict
from patchloom.sinks import OmeZarr


def levels(output: Path) -> list[np.ndarray]:
    return [array[...] for _, array in sorted(zarr.open_group(output, mode="r").arrays())]


def mode_of_four(image: np.ndarray) -> np.ndarray:
    """The commonest of 2 × 2 neighbors, of equals the smallest."""
    four = np.sort(np.stack([image[y::2, x::2] for y in (0, 1) for x in (0, 1)]), axis=0)
    counts = (four[:, None] == four[None]).sum(axis=0)
    return np.take_along_axis(four, counts.argmax(axis=0)[None], axis=0)[0]


def test_oracle() -> None:
    """The expected mode is that of 2 × 2 neighbors."""
    assert mode_of_four(np.array([[2, 0, 7, 7], [0, 2, 1, 3]])).tolist() == [[0, 7]]


def argmax_of(dtype: str) -> Callable[[np.ndarray], np.ndarray]:
    return lambda batch: batch.argmax(axis=1, keepdims=True).astype(dtype)


@pytest.mark.parametrize(
    ("model", "options"),
    [
        (lambda batch: batch, {"postprocess": "argmax"}),
        (lambda batch: batch, {"postprocess": "argmax", "blend": "hann"}),
        (lambda batch: batch, {"postprocess": "channels:2,0|argmax|uint16"}),
        (lambda batch: batch, {"postprocess": "threshold:0.5@1"}),
        (argmax_of("uint8"), {}),
        (argmax_of("uint16"), {}),
        (argmax_of("int64"), {}),
        (argmax_of("int32"), {"postprocess": "uint16"}),
        (argmax_of("int64"), {"postprocess": "float32"}),
        (lambda batch: batch[:, 1:2] > 0.5, {}),
        (lambda batch: batch[:, 1:2] > 0.5, {"postprocess": "uint8"}),
    ],
)
def test_pyramid_of_labels(model: Any, options: dict[str, Any], rng: np.random.Generator, tmp_path: Path) -> None:
    """Each level of labels is the mode of the level above."""
    scores = rng.random((3, 520, 600)).astype(np.float32)
    output = predict(
        model, scores, tmp_path / "out.ome.zarr", axes="CYX", patch_size=(256, 256), progress=False, **options
    )
    found = [level.reshape(level.shape[-2:]) for level in levels(output)]
    assert len(found) == 3
    for above, below in itertools.pairwise(found):
        np.testing.assert_array_equal(below, mode_of_four(above))


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("options", [{}, {"blend": "hann"}, {"postprocess": "uint8*0.5"}, {"postprocess": "int32"}])
def test_pyramid_of_intensities(dtype: str, options: dict[str, Any], rng: np.random.Generator, tmp_path: Path) -> None:
    """Levels of intensities are means."""
    image = (rng.random((520, 600)) * 200).astype(dtype)
    output = predict(
        lambda batch: batch,
        image,
        tmp_path / "out.ome.zarr",
        axes="YX",
        patch_size=(256, 256),
        progress=False,
        **options,
    )
    full, half = levels(output)[:2]
    means = full.reshape(260, 2, 300, 2).astype(float).mean(axis=(1, 3))
    np.testing.assert_allclose(half, means if half.dtype.kind == "f" else means.round(), rtol=1e-6)


@pytest.mark.parametrize("pyramid", ["mean", "mode", "nearest"])
def test_given_pyramid(pyramid: Any, rng: np.random.Generator, tmp_path: Path) -> None:
    """A given `pyramid` is used for any output."""
    scores = rng.random((2, 600, 600)).astype(np.float32)
    output = predict(
        lambda batch: batch,
        scores,
        OmeZarr(tmp_path / "out.ome.zarr", pyramid=pyramid),
        axes="CYX",
        patch_size=(256, 256),
        postprocess="argmax",
        progress=False,
    )
    assert zarr.open_group(output, mode="r").attrs["ome"]["multiscales"][0]["type"] == pyramid


@pytest.mark.parametrize("dtype", ["uint8", "int32", "int64"])
@pytest.mark.parametrize("options", [{}, {"postprocess": "uint16"}, {"normalize": "mean_std"}])
@pytest.mark.parametrize("target", [None, "out.ome.zarr"])
def test_blend_of_labels(
    dtype: str, options: dict[str, Any], target: str | None, rng: np.random.Generator, tmp_path: Path
) -> None:
    """Labels are not blended; one tile is run to see the dtype."""
    scores = rng.random((3, 60, 70)).astype(np.float32)
    calls: list[int] = []

    def model(batch: np.ndarray) -> np.ndarray:
        calls.append(len(batch))
        return argmax_of(dtype)(batch)

    output = None if target is None else tmp_path / target
    options = {"axes": "CYX", "patch_size": (32, 32), "progress": False, **options}
    with pytest.raises(
        ModelOutputError, match=f"blend is 'hann', and the model returns {dtype} for float32, .*postprocess='argmax'"
    ):
        predict(model, scores, output, blend="hann", **options)
    assert len(calls) == 1, "one tile, to see what the model returns"
    assert not list(tmp_path.iterdir())
    assert np.array_equal(
        predict(model, scores, **options)[0], predict(model, scores, **options | {"patch_size": (60, 70)})[0]
    )


@pytest.mark.parametrize(
    ("model", "options"),
    [
        (lambda batch: batch, {}),
        (lambda batch: batch.astype("int8"), {"postprocess": "argmax"}),
        (lambda batch: batch.astype("int32"), {"postprocess": "float32"}),
        (lambda batch: batch > 2, {}),
    ],
)
def test_blend_of_intensities(model: Any, options: Any, rng: np.random.Generator) -> None:
    """Intensities, scores and booleans are blended."""
    image = rng.integers(0, 5, (2, 60, 70)).astype(np.uint16)
    tiles: dict[str, Any] = {"axes": "CYX", "patch_size": (32, 32), "progress": False}
    blended = predict(model, image, blend="hann", **tiles, **options)
    if "postprocess" not in options:
        np.testing.assert_allclose(
            blended.astype(float), predict(model, image, **tiles, **options).astype(float), rtol=1e-6
        )
