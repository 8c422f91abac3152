"""Scale and margin of a model are inferred from two tile sizes, or refused; no image is shifted without an error."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.lib.stride_tricks import sliding_window_view

from patchloom.errors import ModelOutputError
from patchloom.prediction import plan, predict
from patchloom.prediction.models.model import ModelDescription

Model = Callable[[np.ndarray], Any]


def quiet(model: Any, image: np.ndarray, **settings: Any) -> Any:
    return predict(model, image, axes="ZYX"[-image.ndim :], progress=False, **settings)


def cropped(*margins: tuple[int, int]) -> Model:
    """A model that returns its input without margins: before and after, along each axis."""
    return lambda batch: batch[
        (..., *(slice(before, size - after) for (before, after), size in zip(margins, batch.shape[2:], strict=True)))
    ]


def enlarged(batch: np.ndarray, factor: int) -> np.ndarray:
    return batch.repeat(factor, -1).repeat(factor, -2)


def averaged(batch: np.ndarray, factor: int) -> np.ndarray:
    """Means over squares; what is left over is cut off, as strided networks do."""
    height, width = (size // factor for size in batch.shape[2:])
    whole = batch[..., : height * factor, : width * factor]
    return whole.reshape(*batch.shape[:2], height, factor, width, factor).mean((3, 5))


@pytest.mark.parametrize("patch", [36, 40, 48, 50, 64, 66, 80, 128])
@pytest.mark.parametrize("blend", [None, "hann"])
def test_valid_models(patch: int, blend: Any, rng: np.random.Generator) -> None:
    """Valid models give the image, for all parts of a tile that they keep."""
    image = rng.random((100, 150), np.float32)
    model = cropped((16, 16), (16, 16))
    result = quiet(model, image, patch_size=(patch, patch), overlaps=(32, 32), blend=blend)
    assert result.shape == image.shape
    np.testing.assert_allclose(result, image, rtol=1e-6)


@pytest.mark.parametrize("margins", [((1, 1), (8, 8), (8, 8)), ((2, 2), (0, 0), (5, 5)), ((0, 0), (8, 8), (0, 0))])
def test_margins_by_axis(margins: Any, rng: np.random.Generator) -> None:
    """Margins may differ from axis to axis."""
    image = rng.random((9, 40, 50))
    np.testing.assert_array_equal(quiet(cropped(*margins), image, patch_size=(6, 32, 32)), image)


@pytest.mark.parametrize(("factor", "margin", "patch"), [(2, 7, 32), (4, 16, 64), (3, 16, 60), (8, 4, 16), (4, 24, 72)])
def test_larger(factor: int, margin: int, patch: int, rng: np.random.Generator) -> None:
    """Larger outputs are separated from margins."""
    image = rng.random((70, 90))
    crop = cropped((margin, margin), (margin, margin))
    result = quiet(lambda batch: enlarged(crop(batch), factor), image, patch_size=(patch, patch))
    np.testing.assert_array_equal(result, enlarged(image, factor))


@pytest.mark.parametrize("margin", [0, 1, 12])
@pytest.mark.parametrize(("factor", "patch"), [(2, 48), (3, 48), (3, 66), (4, 64), (8, 96), (5, 120)])
def test_smaller(factor: int, patch: int, margin: int, rng: np.random.Generator) -> None:
    """Smaller outputs are separated from margins."""
    patch += 2 * margin
    image = rng.random((6 * 120, 120))
    crop = cropped((margin, margin), (margin, margin))
    result = quiet(lambda batch: averaged(crop(batch), factor), image, patch_size=(patch, patch))
    np.testing.assert_allclose(result, averaged(image[None, None], factor)[0, 0], rtol=1e-12)


def test_origins_of_smaller(rng: np.random.Generator) -> None:
    """Tiles of a model that makes images smaller start on multiples of its factor."""
    image = rng.random((200, 130))
    options: dict[str, Any] = {"axes": "YX", "patch_size": (40, 40), "overlaps": (10, 10)}
    model = lambda batch: averaged(batch, 4)  # noqa: E731  # a model like those above
    prepared = plan(image, model=model, measure=True, **options)
    assert prepared.tiling.origin_multiple == (4, 4)
    assert all(start % 4 == 0 for spec in prepared.tiling for start in spec["coords"])


@pytest.mark.parametrize("multiple", [8, 16, 32])
def test_multiples_only(multiple: int, rng: np.random.Generator) -> None:
    """The outputs of a model that takes multiples only are inferred."""
    image = rng.random((150, 140))

    def model(batch: np.ndarray) -> np.ndarray:
        if any(size % multiple for size in batch.shape[2:]):
            raise ValueError("sizes do not fit")
        return batch[..., 24:-24, 24:-24]

    np.testing.assert_array_equal(quiet(model, image, patch_size=(96, 96)), image)


class Fixed:
    """A model that takes tiles of one size, and may declare it and its scale."""

    def __init__(self, model: Model, size: int, **declared: Any) -> None:
        self.model, self.size = model, size
        if declared:
            self.description = ModelDescription(**declared)

    def __call__(self, batch: np.ndarray) -> Any:
        assert batch.shape[2:] == (self.size, self.size)
        return self.model(batch)


def test_fixed_size(
    rng: np.random.Generator,
) -> None:
    """A model of one size with an ambiguous output is refused until it declares its scale."""
    image = rng.random((100, 120))
    crop = cropped((16, 16), (16, 16))
    for declared in ({}, {"patch_size": (64, 64)}):
        with pytest.raises(
            ModelOutputError, match=r"returned 32 voxels for tiles of 64 and accepts no other size.*declare its scale"
        ):
            quiet(Fixed(crop, 64, **declared), image, patch_size=(64, 64))
    one, half = (Fraction(1), Fraction(1)), (Fraction(1, 2), Fraction(1, 2))
    np.testing.assert_array_equal(quiet(Fixed(crop, 64, scale=one), image, patch_size=(64, 64)), image)
    smaller = quiet(Fixed(lambda batch: averaged(batch, 2), 64, scale=half), image, patch_size=(64, 64))
    np.testing.assert_allclose(smaller, averaged(image[None, None], 2)[0, 0], rtol=1e-12)
    # What leaves no doubt needs no declaration.
    np.testing.assert_array_equal(quiet(Fixed(crop, 70), image, patch_size=(70, 70)), image)
    np.testing.assert_array_equal(
        quiet(Fixed(lambda b: enlarged(b, 2), 64), image, patch_size=(64, 64)), enlarged(image, 2)
    )


def test_constant_size() -> None:
    """A model that returns one size for all tiles is refused."""
    with pytest.raises(
        ModelOutputError,
        match=r"returned 8 × 8 voxels for tiles of 32 × 32, 8 × 8 for .*, and no scale fits all of these.*at \(0, 0\)",
    ):
        quiet(lambda batch: batch[..., :8, :8], np.zeros((40, 40)), patch_size=(32, 32))


@settings(deadline=None, max_examples=100)
@given(
    before=st.tuples(st.integers(0, 9), st.integers(0, 9)),
    after=st.tuples(st.integers(0, 9), st.integers(0, 9)),
    factor=st.integers(1, 3),
    patch=st.integers(20, 48),
    dtype=st.sampled_from(["float32", "uint8", "bool", "int64"]),
    seed=st.integers(0, 99),
)
def test_no_shift(
    before: tuple[int, int], after: tuple[int, int], factor: int, patch: int, dtype: str, seed: int
) -> None:
    """An image is never shifted without an error."""
    image = (np.random.default_rng(seed).random((50, 53)) * 200).astype(dtype)
    image[:40, :40] = 0 if seed % 3 == 0 else image[:40, :40]  # the first tile may be dark all over
    crop = cropped(*zip(before, after, strict=True))
    lopsided, unseen = before != after, _is_as_large_as_the_tile(before, after, factor, patch)

    def model(batch: np.ndarray) -> np.ndarray:
        return enlarged(crop(batch), factor)

    if lopsided and not unseen:
        with pytest.raises(ModelOutputError, match="both sides"):
            quiet(model, image, patch_size=(patch, patch))
    elif not unseen:
        np.testing.assert_array_equal(quiet(model, image, patch_size=(patch, patch)), enlarged(image, factor))


def _is_as_large_as_the_tile(before: Any, after: Any, factor: int, patch: int) -> bool:
    """What the docs say is not seen: along each axis, what a larger scale adds is just what the margin takes."""
    return factor > 1 and all(factor * (patch - b - a) == patch for b, a in zip(before, after, strict=True))


def random_network(rng: np.random.Generator, depth: int) -> Model:
    """Valid convolutions with ReLUs between them, one of which may be dead; weights as a trained network may have them."""
    kernels = [rng.normal(rng.normal(0, 0.3), 1, (3, 3)) for _ in range(depth)]
    offsets = rng.normal(0, 2, depth)

    def model(batch: np.ndarray) -> np.ndarray:
        values = batch.astype(np.float64)
        for kernel, offset in zip(kernels, offsets, strict=True):
            values = np.maximum(
                np.einsum("...ij,ij->...", sliding_window_view(values, (3, 3), axis=(2, 3)), kernel) + offset, 0
            )
        return values.astype(np.float32)

    return model


def test_random_networks(rng: np.random.Generator) -> None:
    """Valid networks are not mistaken for models with different margins on the two sides."""
    image = rng.random((60, 60), np.float32)
    for depth in (1, 2, 3, 5, 8):
        for _ in range(12):
            (spec,) = plan(
                image, axes="YX", patch_size=(40, 40), model=random_network(rng, depth), measure=True
            ).survey.outputs[0]
            assert spec.margin == (depth, depth)


@pytest.mark.parametrize("stride", [2, 3, 4, 5])
@pytest.mark.parametrize("patch", range(41, 53))
def test_inner_grid(stride: int, patch: int, rng: np.random.Generator) -> None:
    """A grid within the network is not mistaken for different margins on the two sides."""

    # What is averaged and enlarged again answers in squares, off the changed voxel by up to half a stride.
    def model(batch: np.ndarray) -> np.ndarray:
        grid = averaged(np.pad(batch, [(0, 0), (0, 0), (0, stride), (0, stride)]), stride)
        return enlarged(grid, stride)[..., 6 : batch.shape[2] - 6, 6 : batch.shape[3] - 6]

    (spec,) = plan(
        rng.random((60, 60)), axes="YX", patch_size=(patch, patch), model=model, measure=True
    ).survey.outputs[0]
    assert spec.margin == (6, 6)


@pytest.mark.parametrize(("factor", "patch"), [(4, 50), (5, 52), (3, 50), (8, 66)])
def test_rest_of_stride(factor: int, patch: int) -> None:
    """A tile size that the stride does not divide is refused."""
    message = f"does not use 2 of the {patch} voxels along Y|the margin must be the same whole number"
    with pytest.raises(ModelOutputError, match=message):
        quiet(lambda batch: averaged(batch, factor), np.zeros((80, 80)), patch_size=(patch, patch))


def test_stride_rounds_up(rng: np.random.Generator) -> None:
    """A stride that rounds up, behind valid convolutions, has the result of the whole image, also with a declared scale."""
    image = rng.integers(0, 99, (61, 44))

    def every_second(batch: np.ndarray) -> np.ndarray:  # rounds up, as convolutions with a stride and padding do
        return batch[..., 3:-3:2, 3:-3:2]

    for model in (every_second, Fixed(every_second, 22, scale=(Fraction(1, 2),) * 2)):
        np.testing.assert_array_equal(quiet(model, image, patch_size=(22, 22)), image[::2, ::2])


def test_changing_names(rng: np.random.Generator) -> None:
    """Outputs whose names depend on the size of the tile are inferred."""

    def model(batch: np.ndarray) -> dict[str, np.ndarray]:
        return {"even" if batch.shape[-2] % 2 == 0 else "odd": averaged(batch, 2)[..., 2:-2, 2:-2]}

    image = rng.random((50, 50))
    result = quiet(model, image, patch_size=(24, 24))["even"]
    np.testing.assert_allclose(result, averaged(image[np.newaxis, np.newaxis], 2)[0, 0], rtol=1e-12)


def test_several_outputs(rng: np.random.Generator) -> None:
    """Outputs of different scales and margins lie on top of each other."""
    image = rng.random((96, 120))

    def model(batch: np.ndarray) -> dict[str, np.ndarray]:
        return {
            "fine": batch[..., 3:-3, 3:-3],
            "coarse": averaged(batch, 4),
            "large": enlarged(batch[..., 2:-2, 2:-2], 2),
        }

    for blend in (None, "linear"):
        result = quiet(model, image, patch_size=(48, 48), overlaps=(16, 16), blend=blend)
        np.testing.assert_allclose(result["fine"], image, rtol=1e-12)
        np.testing.assert_allclose(result["coarse"], averaged(image[None, None], 4)[0, 0], rtol=1e-12)
        np.testing.assert_allclose(result["large"], enlarged(image, 2), rtol=1e-12)


def test_runs_once() -> None:
    """A model whose output is as large as the tile runs once beforehand."""
    sizes: list[tuple[int, ...]] = []

    def model(batch: np.ndarray) -> np.ndarray:
        sizes.append(batch.shape)
        return batch

    plan(np.zeros((60, 60)), axes="YX", patch_size=(32, 32), model=model, measure=True)
    assert sizes == [(1, 1, 32, 32)]


def test_declared_scale() -> None:
    """A declared scale is not inferred."""
    one = (Fraction(1), Fraction(1))
    sizes: list[tuple[int, ...]] = []

    class Shifting:
        description = ModelDescription(scale=one)

        def __call__(self, batch: np.ndarray) -> np.ndarray:
            sizes.append(batch.shape)
            return batch[..., 3:-5, 5:-3]

    image = np.arange(3600.0).reshape(60, 60)
    result = quiet(Shifting(), image, patch_size=(32, 32))
    np.testing.assert_array_equal(result[4:-4, 4:-4], image[3:-5, 5:-3])  # as it declares, each voxel by one
    assert {shape[2:] for shape in sizes} == {(32, 32)}
