"""A model that runs at the pixel size of its training: tiles are resampled for it, and its predictions back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import ceil, gcd, lcm
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchloom.axes import spatial_axes
from patchloom.errors import GeometryError, ModelError, ModelOutputError
from patchloom.prediction.models.model import Model, ModelDescription, check_batch, describe
from patchloom.prediction.models.outputs import as_array, as_outputs
from patchloom.prediction.models.rescaling.resampling import Grid, half_width, nearest, resample

MOST_PARTS = 32
"""Largest denominator of a ratio, or of its inverse."""

TOLERANCE = Fraction(1, 50)
"""How far a ratio may be off, by which pixel sizes are rounded: 2 %."""


def pixel_ratio(exact: float) -> Fraction:
    """Return a ratio of small whole numbers near the ratio of two pixel sizes.

    The smaller number is the smallest, up to 32, for which the ratio is off by at most 2 %.

    Parameters
    ----------
    exact : float
        Voxels of the image for one pixel of the network, along one axis.

    Examples
    --------
    >>> pixel_ratio(1.99), pixel_ratio(0.65 / 0.3), pixel_ratio(0.3)
    (Fraction(2, 1), Fraction(11, 5), Fraction(3, 10))
    """
    wanted = Fraction(exact)
    return 1 / _ratio_above_1(1 / wanted) if wanted < 1 else _ratio_above_1(wanted)


def _ratio_above_1(wanted: Fraction) -> Fraction:
    candidates = [Fraction(round(wanted * parts), parts) for parts in range(1, MOST_PARTS + 1)]
    near = (candidate for candidate in candidates if abs(candidate - wanted) <= TOLERANCE * wanted)
    return next(near, candidates[-1])


@dataclass(frozen=True, slots=True)
class PixelGrid:
    """The grid of the pixels of a network in an image, with the sizes of tiles on it.

    Parameters
    ----------
    steps : tuple of Fraction
        Voxels of the image for one pixel of the network, along each spatial axis.
    """

    steps: tuple[Fraction, ...]

    @property
    def halo(self) -> tuple[int, ...]:
        """Voxels at each end of a tile whose prediction depends on the end, along each axis, because of both interpolations."""
        return tuple(0 if step == 1 else ceil(half_width(step) + half_width(1 / step) * step) for step in self.steps)

    def pixels_of(self, sizes: Sequence[int]) -> tuple[int, ...]:
        """Return the size in pixels of an image, `(z,) y, x`; part of a pixel counts as one."""
        return tuple(ceil(size / step) for size, step in zip(sizes, self.steps, strict=True))

    def tile_size(self, network_size: Sequence[int]) -> tuple[int, ...]:
        """Return the largest tile, in voxels, that fits into the tile of the network on the grid.

        Raises
        ------
        GeometryError
            If the tile of the network is too small for the ratio of the pixel sizes.
        """
        sizes = []
        for size, step, axis in zip(network_size, self.steps, spatial_axes(len(self.steps)), strict=True):
            if size < step.denominator:
                raise GeometryError(
                    f"patch_size is {size} along {axis}, and {step.denominator} pixels of the network cover "
                    f"{step.numerator} voxels of the image: take a patch_size of at least {step.denominator}"
                )
            sizes.append(size // step.denominator * step.numerator)
        return tuple(sizes)

    def overlaps(self, of_network: Sequence[int]) -> tuple[int, ...]:
        """Return the overlap of tiles in voxels that gives the network an overlap in pixels, with the halo on both sides."""
        return tuple(
            2 * (halo + ceil(Fraction(voxels, 2) * step))
            for halo, voxels, step in zip(self.halo, of_network, self.steps, strict=True)
        )

    def halos(self, of_network: Sequence[int]) -> tuple[int, ...]:
        """Return the voxels at each end of a tile that hold a halo of the network in pixels, and what depends on it by interpolation."""
        return tuple(
            ceil(pixels * step) + halo if pixels else 0
            for halo, pixels, step in zip(self.halo, of_network, self.steps, strict=True)
        )

    def origin_multiples(self, of_network: Sequence[int]) -> tuple[int, ...]:
        """Return what tiles have to start on multiples of, in voxels, so that they do in pixels of the network."""
        return tuple(
            step.numerator * multiple // gcd(step.denominator, multiple)
            for multiple, step in zip(of_network, self.steps, strict=True)
        )


@dataclass(frozen=True, slots=True)
class RescaledModel:
    """A model that gets tiles at another pixel size than that of the image.

    A tile is resampled to the pixels of the network, and the prediction is resampled back. If a tile has fewer pixels than the network
    takes, its last rows are repeated. Integers and truth values that the network returns are labels: of these, the nearest is taken.

    Parameters
    ----------
    model : callable
        The network.
    steps : tuple of Fraction
        Voxels of the image for one pixel of the network, along each spatial axis.
    network_size : tuple of int
        Size of the tiles that the network gets, in pixels.

    Examples
    --------
    >>> halved = RescaledModel(lambda batch: batch, (Fraction(2), Fraction(2)), network_size=(4, 4))
    >>> halved(np.full((1, 1, 8, 8), 7, np.uint8)).shape
    (1, 1, 8, 8)
    """

    model: Model
    steps: tuple[Fraction, ...]
    network_size: tuple[int, ...]

    @property
    def description(self) -> ModelDescription:
        """What the network declares, in its own pixels."""
        return describe(self.model)

    def __call__(self, batch: NDArray[Any], /) -> Any:
        """Predict a batch; see `Model`.

        Raises
        ------
        ModelError
            If the size of the tiles is not that of whole pixels, on which the weights repeat.
        ModelOutputError
            If the scale of an output is not known.
        """
        check_batch(batch)
        size = batch.shape[2:]
        if any(side % step.numerator for side, step in zip(size, self.steps, strict=True)):
            raise ModelError(
                f"tiles have size {size}: it must be a multiple of {[step.numerator for step in self.steps]}"
            )
        outputs = as_outputs(self.model(self._pixels(batch)))
        back = {name: self._back(as_array(output), name, size) for name, output in outputs.items()}
        return back[""] if back.keys() == {""} else back

    def _pixels(self, batch: NDArray[Any]) -> NDArray[Any]:
        """Resample a batch to pixels of the network."""
        covered = [int(side / step) for side, step in zip(batch.shape[2:], self.steps, strict=True)]
        grids = [Grid(0, count, step) for count, step in zip(covered, self.steps, strict=True)]
        pixels = np.empty((*batch.shape[:2], *map(max, covered, self.network_size)), batch.dtype)
        for tile, target in zip(batch, pixels, strict=True):
            for channel, of_channel in zip(tile, target, strict=True):
                of_channel[tuple(map(slice, covered))] = resample(channel, grids)
        for axis, count in enumerate(covered, start=2):
            along = np.moveaxis(pixels, axis, 0)
            along[count:] = along[count - 1]
        return pixels

    def _back(self, output: NDArray[Any], name: str, size: Sequence[int]) -> NDArray[Any]:
        """Resample an output to voxels of the image."""
        if output.ndim != len(size) + 2:
            raise ModelOutputError(
                f"the model returned shape {output.shape}: it must be (B, C, {', '.join(spatial_axes(len(size)))})"
            )
        covered = [int(side / step) for side, step in zip(size, self.steps, strict=True)]
        taken = list(map(max, covered, self.network_size))
        declared = describe(self.model).scale
        grids = [
            self._grid_back(axis, out, side, (taken[axis], None if declared is None else declared[axis]), name)
            for axis, (out, side) in enumerate(zip(output.shape[2:], size, strict=True))
        ]
        take = resample if output.dtype.kind in "fc" else nearest
        back = np.empty((*output.shape[:2], *(grid.stop - grid.start for grid in grids)), output.dtype)
        for tile, target in zip(output, back, strict=True):
            for channel, of_channel in zip(tile, target, strict=True):
                of_channel[...] = take(channel, grids)
        return back

    def _grid_back(self, axis: int, out: int, side: int, taken: tuple[int, Fraction | None], name: str) -> Grid:
        """Return the samples of an output along one axis, without the margin that the network does not predict."""
        pixels, declared = taken
        scale = _scale(out, pixels, name) if declared is None else declared
        margin = (pixels - out / scale) / 2
        if margin < 0 or side * scale % 1:
            raise ModelOutputError(
                f"the model returned {out} pixels{_of(name)} for tiles of {pixels} along {spatial_axes(len(self.steps))[axis]}, which "
                f"cannot be rescaled to tiles of {side} voxels: take another patch_size, or declare scale in a ModelDescription"
            )
        step = 1 / self.steps[axis]
        lost = 0
        if margin:
            halo = PixelGrid(self.steps).halo[axis]
            whole = lcm(
                self.steps[axis].numerator, scale.denominator
            )  # so that tiles are read from where weights repeat
            lost = -(-(ceil(margin * self.steps[axis]) + halo) // whole) * whole
        if 2 * lost >= side:
            raise ModelOutputError(
                f"the model returned {out} pixels{_of(name)} for tiles of {pixels}, which leaves nothing of tiles of {side} voxels: "
                "take a larger patch_size"
            )
        return Grid(int(lost * scale), int((side - lost) * scale), step, margin * scale)


def _scale(out: int, pixels: int, name: str) -> Fraction:
    """Return the scale of an output that is not declared: larger by a factor, of the same size, or without a margin."""
    if out % pixels == 0:
        return Fraction(out // pixels)
    if out > pixels or pixels % out == 0:
        raise ModelOutputError(
            f"the model returned {out} pixels{_of(name)} for tiles of {pixels}, and with pixel_size the scale of such an output is not "
            "inferred: declare scale in a ModelDescription"
        )
    return Fraction(1)


def _of(name: str) -> str:
    return f" of output {name!r}" if name else ""
