"""Checks of a model: its own test image, and tiles against the whole image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from patchloom.argument_checks import instance, shown
from patchloom.axes import spatial_axes
from patchloom.errors import ArgumentTypeError, GeometryError, ModelError
from patchloom.geometry.checks import one_per_axis
from patchloom.image_stacks import ArrayStack
from patchloom.prediction.api import PredictionPlan, plan, predict
from patchloom.prediction.models.expected_outputs import Difference, ExpectedOutputs, HasExpectedOutputs, Tolerance
from patchloom.prediction.models.model import Model, ModelDescription, describe, size_rule
from patchloom.prediction.models.outputs import as_array, as_outputs
from patchloom.prediction.models.prepare import prepare_model
from patchloom.prediction.normalization.measuring import measure_normalization
from patchloom.prediction.normalization.methods import NormalizationMethod

_USUAL_TILE = {2: 64, 3: 24}
"""Size of the tiles along each axis, if a model accepts any."""

_TILES_ALONG = {2: 2.5, 3: 1.6}
"""Size of the image that is made, in tiles along each axis."""


class ModelCheck(NamedTuple):
    """What `check_model` found.

    Examples
    --------
    >>> print(check_model(lambda batch: batch - batch.min()))       # it depends on the whole tile
    tiled, whole  ...  differs
    the model depends on more of a tile than its overlap of 16 × 16 voxels provides
    """

    expected: tuple[Difference, ...]
    """For each output, the result of the whole test image beside the expected one; empty if the model comes without test image."""

    tiled: tuple[Difference, ...]
    """For each output, the result of tiles beside that of the whole image; empty if the model accepts one size only."""

    tolerance: Tolerance
    """How far they may differ."""

    patch_size: tuple[int, ...]
    """Size of the tiles, `(z,) y, x`."""

    overlaps: tuple[int, ...]
    """Voxels that the tiles shared, `(z,) y, x`."""

    image_size: tuple[int, ...]
    """Size of the image that was tiled, `(z,) y, x`."""

    @property
    def passed(self) -> bool:
        """Whether no result differs by more than the tolerance."""
        return all(difference.passed for difference in (*self.expected, *self.tiled))

    def to_dict(self) -> dict[str, Any]:
        """Return plain values that go to JSON."""
        return {
            "passed": self.passed,
            "expected": [asdict(difference) for difference in self.expected],
            "tiled": [asdict(difference) for difference in self.tiled],
            "tolerance": asdict(self.tolerance),
            "patch_size": list(self.patch_size),
            "overlaps": list(self.overlaps),
            "image_size": list(self.image_size),
        }

    def rows(self) -> list[tuple[str, str, str, str, str]]:
        """Return a table: what was compared, the output, the largest difference, mismatched voxels, and the verdict."""
        named = [("whole, expected", entry) for entry in self.expected]
        named += [("tiled, whole", entry) for entry in self.tiled]
        return [
            (
                what,
                entry.output,
                f"{entry.largest:.3g}",
                f"{entry.n_mismatched} of {entry.n_voxels}",
                "equal" if entry.passed else "differs",
            )
            for what, entry in named
        ]

    def remarks(self) -> list[str]:
        """Return sentences about what failed, or was not checked."""
        remarks = []
        if not all(entry.passed for entry in self.expected):
            remarks.append("the model does not return the expected outputs for its own test image")
        if not all(entry.passed for entry in self.tiled):
            size = " × ".join(map(str, self.overlaps))
            remarks.append(f"the model depends on more of a tile than its overlap of {size} voxels provides")
        if not self.tiled:
            remarks.append("tiles are not compared with the whole image, as the model accepts one size only")
        return remarks

    def __str__(self) -> str:
        rows = self.rows()
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
        return "\n".join([*(line.rstrip() for line in lines), *self.remarks()])


def check_model(
    model: Model,
    image: NDArray[Any] | None = None,
    *,
    axes: str | None = None,
    patch_size: int | Sequence[int] | None = None,
    overlaps: int | Sequence[int] | None = None,
    tolerance: Tolerance | None = None,
) -> ModelCheck:
    """Check that a model returns the same for tiles as for the whole image, and what its package expects.

    If the model comes with a test image and the outputs for it, as a package of bioimage.io does, the whole image is predicted and
    compared with them. Then an image of some tiles is predicted tile by tile, with the overlap that the model declares, and as a
    single tile, and both are compared.

    Parameters
    ----------
    model : callable
        The model, as in `predict`.
    image : array, optional
        The image that is tiled. If None, the test image of the model, cut or enlarged by its mirror images; if
        there is none, random numbers.
    axes : str, optional
        Axes of `image`; needed if it is given.
    patch_size : int or sequence of int, optional
        Size of the tiles. If None, a small one that the model accepts.
    overlaps : int or sequence of int, optional
        Voxels that the tiles share. If None, what the model declares, else a quarter of the patch size.
    tolerance : Tolerance, optional
        How far results may differ. If None, as the package declares, else `Tolerance()`.

    Returns
    -------
    ModelCheck
        The differences; `passed` is the verdict.

    Raises
    ------
    ArgumentError
        If an argument has a value that is not allowed, or the image does not fit the model.
    ModelError
        If the model fails.

    Examples
    --------
    >>> check_model(lambda batch: batch * 2).passed
    True
    """
    model = prepare_model(model)
    if tolerance is not None and not isinstance(tolerance, Tolerance):
        raise ArgumentTypeError(f"tolerance is {shown(tolerance)}: give a Tolerance")
    if (image is None) != (axes is None):
        raise GeometryError("image and axes belong together: give both, or none")
    known = model.expected_outputs() if isinstance(model, HasExpectedOutputs) else None
    accepted = tolerance or (known.tolerance if known else Tolerance())
    expected = () if known is None else _compare_expected(model, known, accepted)
    tiled, planned = _compare_tiled(model, known, _given(image, axes), (patch_size, overlaps), accepted)
    margins = planned.layout.margin
    return ModelCheck(
        expected,
        tiled,
        accepted,
        planned.layout.patch_size,
        tuple(2 * lost + rule.overlap for lost, rule in zip(margins, planned.tiling.rules, strict=True)),
        planned.layout.stacks[0].data_shape[2:],
    )


class _Image(NamedTuple):
    pixels: NDArray[Any]
    axes: str


def _given(image: Any, axes: str | None) -> _Image | None:
    if image is None or axes is None:
        return None
    if not isinstance(image, np.ndarray):
        raise ArgumentTypeError(f"image is {shown(image)}: it must be a NumPy array")
    return _Image(image, instance("axes", axes, str))


def run_whole(
    model: Model, image: NDArray[Any], normalize: str | NormalizationMethod | None
) -> dict[str, NDArray[Any]]:
    """Run a model on a whole image, in one call.

    Parameters
    ----------
    model : callable
        The model.
    image : array
        `SC(Z)YX`.
    normalize : str, MeanStd or Percentiles, optional
        Normalize the image first, by its own statistics.

    Returns
    -------
    dict of str to array
        The outputs, by their names.
    """
    batch = image.copy()
    if normalize is not None:
        stack = ArrayStack(image, f"SC{''.join(spatial_axes(image.ndim - 2))}")
        measured = measure_normalization(stack, normalize)
        scale, offset = (
            np.reshape(table, (*image.shape[:2], *[1] * (image.ndim - 2)))
            for table in (measured.scale, measured.offset)
        )
        batch = (image * scale + offset).astype(np.float32)
    return {name: as_array(output) for name, output in as_outputs(model(batch)).items()}


def _compare_expected(model: Model, known: ExpectedOutputs, tolerance: Tolerance) -> tuple[Difference, ...]:
    found = run_whole(model, known.image, describe(model).normalize)
    return tuple(tolerance.compare(name, found[name], wanted) for name, wanted in known.outputs.items())


def _compare_tiled(
    model: Model,
    known: ExpectedOutputs | None,
    given: _Image | None,
    sizes: tuple[Any, Any],
    tolerance: Tolerance,
) -> tuple[tuple[Difference, ...], PredictionPlan]:
    """Predict an image as tiles and as a single tile."""
    description = describe(model)
    n_dims = description.n_dims or (3 if given is not None and "Z" in given.axes else 2)
    patch_size, overlaps = sizes
    size = (
        _small_tile(description, n_dims)
        if patch_size is None
        else one_per_axis("patch_size", patch_size, n_dims, least=1)
    )
    tiles = {"patch_size": size, "overlaps": overlaps}
    image, planned = _plan_image(model, known, given, tiles)
    if description.patch_size is not None:
        return (), planned
    if given is None:
        multiples = [rule.origin_multiple for rule in planned.tiling.rules]
        whole_size = _whole_tile(size, replace(description, origin_multiple=tuple(multiples)))
        image = _resized(
            image, [whole - 2 * lost for whole, lost in zip(whole_size, planned.layout.margin, strict=True)]
        )
    else:
        covered = [
            side + 2 * lost
            for side, lost in zip(planned.layout.stacks[0].data_shape[2:], planned.layout.margin, strict=True)
        ]
        whole_size = _accepted(covered, description)
    found, whole = (
        as_outputs(predict(model, image.pixels, axes=image.axes, progress=False, **arguments))
        for arguments in (tiles, {"patch_size": whole_size, "overlaps": 0})
    )
    differences = tuple(tolerance.compare(name, found[name], wanted) for name, wanted in whole.items())
    return differences, plan(image.pixels, model=model, axes=image.axes, measure=True, **tiles)


def _plan_image(
    model: Model, known: ExpectedOutputs | None, given: _Image | None, tiles: Mapping[str, Any]
) -> tuple[_Image, PredictionPlan]:
    """Plan the tiles of an image: that which is given, or the test image, or random numbers of a dtype that the model takes."""
    size = tiles["patch_size"]
    letters = f"SC{''.join(spatial_axes(len(size)))}"
    if given is not None:
        images = [given]
    elif known is not None:
        images = [_Image(known.image, letters)]
    else:
        rng = np.random.default_rng(0)
        pixels = rng.random((1, describe(model).in_channels or 1, *size), np.float32)
        images = [_Image(pixels, letters), _Image((pixels * 255).astype(np.uint8), letters)]
    errors = []
    for image in images:
        try:
            return image, plan(image.pixels, model=model, axes=image.axes, measure=True, **tiles)
        except ModelError as error:
            errors.append(error)
    raise errors[0]


def _small_tile(description: ModelDescription, n_dims: int) -> tuple[int, ...]:
    """Return a small tile that the model accepts."""
    if description.patch_size is not None:
        return description.patch_size
    shared = description.overlaps or (0,) * n_dims
    usual = _USUAL_TILE[n_dims]
    multiples = description.origin_multiple or (1,) * n_dims
    wanted = [
        max(usual, overlap + max(usual // 2, multiple)) for overlap, multiple in zip(shared, multiples, strict=True)
    ]
    return _accepted(wanted, description)


def _accepted(sizes: Sequence[int], description: ModelDescription) -> tuple[int, ...]:
    """Return the next larger sizes that the model accepts."""
    multiples = description.origin_multiple or (1,) * len(sizes)
    rule = size_rule(description) or tuple((multiple, multiple) for multiple in multiples)
    return tuple(
        least + -(-max(0, size - least) // step) * step for size, (least, step) in zip(sizes, rule, strict=True)
    )


def _whole_tile(size: Sequence[int], description: ModelDescription) -> tuple[int, ...]:
    """Return the size of a tile that covers an image of some smaller tiles; not a multiple of them, if the model accepts that."""
    return _accepted([int(_TILES_ALONG[len(size)] * side) + 3 for side in size], description)


def _resized(image: _Image, size: Sequence[int]) -> _Image:
    """Crop an image, or extend it: by its mirror images, or by further random numbers."""
    missing = [(0, max(0, side - there)) for side, there in zip(size, image.pixels.shape[2:], strict=True)]
    extended = np.pad(image.pixels, [(0, 0), (0, 0), *missing], mode="symmetric")
    return _Image(extended[(slice(None), slice(None), *map(slice, size))], image.axes)
