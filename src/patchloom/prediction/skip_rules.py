"""Rules that decide on which tiles the model need not run.

A tile that is skipped counts as one for which the model returned `fill` everywhere. All others run and come out as if none
were skipped. What is skipped depends on the tiles of the plan and on the images, and on nothing else: not on memory, blocks,
batches, or what an earlier run finished.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, Protocol, Self, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from patchloom.argument_checks import instance, listed, real_number, shown
from patchloom.axes import spatial_axes
from patchloom.errors import ArgumentError, GeometryError, PatchloomError
from patchloom.extraction import PatchExtractor
from patchloom.geometry.checks import whole_number
from patchloom.image_stacks import ImageStack, fingerprint, listed_stacks
from patchloom.prediction.candidate_tiles import CandidateTiles


@runtime_checkable
class SkipRule(Protocol):
    """A rule that decides on which tiles the model need not run."""

    @property
    def images(self) -> Sequence[ImageStack]:
        """Image stacks that the rule reads besides the series, such as masks."""

    @property
    def identity(self) -> str:
        """All that the decisions depend on but the image itself, as JSON."""

    @property
    def fill(self) -> float:
        """Value of the output where tiles are skipped."""

    def check(self, image_stacks: Sequence[ImageStack]) -> None:
        """Refuse images that the rule does not fit, before anything runs.

        Parameters
        ----------
        image_stacks : sequence of ImageStack
            The series.

        Raises
        ------
        GeometryError
            If it does not fit one of them; the message names both.
        """

    def skips(self, tiles: CandidateTiles) -> Sequence[bool]:
        """Decide on tiles, each by itself: the answer depends on the tile and the images only.

        Parameters
        ----------
        tiles : CandidateTiles
            The tiles, of a series that was checked.

        Returns
        -------
        sequence of bool
            For each tile, whether it is skipped.

        Raises
        ------
        SourceError
            If pixels cannot be read.
        """


@dataclass(frozen=True)
class SkipOutside:
    """Skip tiles in which a mask is 0 everywhere.

    Only the part of the image that a tile predicts counts, not a margin around it: a result outside the mask is not wanted.
    Every tile that touches the mask runs, so that cropped or blended, the result inside the mask is as without skipping.

    A mask may be coarser than its image, by a whole number of its own along each axis; its last voxel then stands for what is
    left of the image. Where sizes do not divide and several whole numbers fit (a mask of 3 voxels may be that of 10 by 3 or
    by 4), a tile is skipped only if it lies outside the mask for each of them.

    Parameters
    ----------
    masks : sequence of ImageStack
        One for each image stack of the series, with as many samples or with one for all. All channels count. NaN is not 0.
    fill : float
        Value of the output where tiles are skipped.

    Examples
    --------
    >>> import patchloom as pl
    >>> image, mask = np.ones((8, 8)), np.zeros((2, 2), np.uint8)
    >>> mask[0, 1] = 1
    >>> options = {"axes": "YX", "patch_size": (4, 4), "overlaps": (0, 0), "progress": False}
    >>> rule = SkipOutside([pl.ArrayStack(mask, axes="YX")])
    >>> pl.predict(lambda batch: batch, image, skip=rule, **options)[::4, ::4].tolist()
    [[0.0, 1.0], [0.0, 0.0]]
    """

    masks: tuple[ImageStack, ...]
    fill: float = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "fill", check_fill(self.fill))
        masks = listed_stacks("masks", self.masks)
        object.__setattr__(self, "masks", tuple(masks))

    @property
    def images(self) -> Sequence[ImageStack]:
        """The masks."""
        return self.masks

    @property
    def identity(self) -> str:
        """The masks, by their `"portable"` fingerprints."""
        masks = [
            (str(mask.source), mask.original_axes, mask.data_shape, fingerprint(mask, level="portable").digest)
            for mask in self.masks
        ]
        return json.dumps({"skip": "outside", "masks": masks})

    def check(self, image_stacks: Sequence[ImageStack]) -> None:
        """Refuse images that the masks do not fit; see `SkipRule.check`."""
        listed_stacks("image_stacks", image_stacks)
        if len(self.masks) != len(image_stacks):
            raise GeometryError(f"there are {len(self.masks)} masks and {len(image_stacks)} images: give one for each")
        for mask, stack in zip(self.masks, image_stacks, strict=True):
            shapes = f"mask {mask.source} has shape SC(Z)YX {tuple(mask.data_shape)} and {stack.source} {tuple(stack.data_shape)}"
            if len(mask.data_shape) != len(stack.data_shape):
                raise GeometryError(f"{shapes}: both must be 2D or both 3D")
            if mask.data_shape[0] not in {1, stack.data_shape[0]}:
                raise GeometryError(f"{shapes}: a mask has as many samples as its image, or one for all")
            sizes = zip(stack.data_shape[2:], mask.data_shape[2:], spatial_axes(len(stack.data_shape) - 2), strict=True)
            for size, coarse, axis in sizes:
                if not fitting_factors(size, coarse):
                    raise GeometryError(f"{shapes}: along {axis} no whole number scales {coarse} to {size}")

    def skips(self, tiles: CandidateTiles) -> Sequence[bool]:
        """Decide on tiles; see `SkipRule.skips`."""
        mask, shape = self.masks[tiles.data_idx], tiles.image_stacks[tiles.data_idx].data_shape[2:]
        extractor = PatchExtractor([mask], "constant", cache=tiles.cache)
        skipped = []
        for spec, window in zip(tiles.specs, tiles.windows, strict=True):
            sample_idx = spec["sample_idx"] if mask.data_shape[0] > 1 else 0
            coarse = [coarse_window(*axis) for axis in zip(window, shape, mask.data_shape[2:], strict=True)]
            starts, sizes = [part.start for part in coarse], [part.stop - part.start for part in coarse]
            skipped.append(not extractor.extract_patch(0, sample_idx, starts, sizes).any())
        return skipped


@dataclass(frozen=True)
class SkipDark:
    """Skip tiles of which no voxel is brighter than a threshold.

    All voxels that the model would get count, also voxels that padding brings in from the other side of the image (`"wrap"`)
    included, so that a model that is blind to voxels up to the threshold loses nothing. Zeros around the image
    (`"constant"`) do not count. NaN is not bright.

    Parameters
    ----------
    threshold : float
        The highest gray value that is dark, in gray values of the source.
    fill : float
        Value of the output where tiles are skipped.
    channels : sequence of int, optional
        Channels that count, from 0. If None, all count.

    Raises
    ------
    GeometryError
        If the threshold is NaN, or there is no channel, or one is not a whole number or below 0.

    Examples
    --------
    >>> import patchloom as pl
    >>> image = np.array([[0, 1, 2, 0, 0, 9, 0, 0]])
    >>> options = {"axes": "YX", "patch_size": (1, 4), "overlaps": (0, 0), "progress": False}
    >>> pl.predict(lambda batch: batch + 1, image, skip=SkipDark(threshold=3, fill=0), **options).tolist()
    [[0, 0, 0, 0, 1, 10, 1, 1]]
    """

    threshold: float
    fill: float = 0
    channels: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "fill", check_fill(self.fill))
        object.__setattr__(self, "threshold", real_number("threshold", self.threshold, finite=False))
        if self.channels is None:
            return
        given = listed("channels", self.channels, "a sequence of whole numbers, such as [0, 2]")
        numbers = tuple(sorted({whole_number("channels", channel) for channel in given}))
        if not numbers or numbers[0] < 0:
            raise GeometryError(
                f"channels is {self.channels}: name at least one, counted from 0, or leave it out for all"
            )
        object.__setattr__(self, "channels", numbers)

    @property
    def images(self) -> Sequence[ImageStack]:
        """None: only the series is read."""
        return ()

    @property
    def identity(self) -> str:
        """Threshold and channels."""
        return json.dumps({"skip": "dark", "threshold": self.threshold, "channels": self.channels})

    @classmethod
    def from_identity(cls, identity: str, fill: float) -> Self:
        """Return the rule of an identity.

        Parameters
        ----------
        identity : str
            The `identity` of a `SkipDark`.
        fill : float
            Its fill value.

        Raises
        ------
        ArgumentError
            If it is the identity of another rule.
        """
        values = json.loads(identity) if identity.startswith("{") else {}
        if not isinstance(values, dict) or values.get("skip") != "dark":
            raise ArgumentError(f"the plan skips tiles by {shown(identity)}: give the same rule as skip")
        return cls(values["threshold"], fill, values["channels"])

    def check(self, image_stacks: Sequence[ImageStack]) -> None:
        """Refuse images without these channels, or without an order of gray values; see `SkipRule.check`."""
        for stack in listed_stacks("image_stacks", image_stacks):
            if self.channels is not None and self.channels[-1] >= stack.data_shape[1]:
                raise GeometryError(
                    f"channels has {self.channels[-1]}, but {stack.source} has {stack.data_shape[1]}, counted from 0"
                )
            if np.dtype(stack.data_dtype).kind == "c":
                raise GeometryError(f"{stack.source} is complex, and only real numbers can be above a threshold")

    def skips(self, tiles: CandidateTiles) -> Sequence[bool]:
        """Decide on tiles; see `SkipRule.skips`."""
        return [self.is_dark(pixels) for pixels in tiles.read()]

    def is_dark(self, pixels: NDArray[Any]) -> bool:
        """Return whether no voxel is bright, of `C(Z)YX` pixels with all channels of the source."""
        for channel in range(len(pixels)) if self.channels is None else self.channels:
            values = pixels[channel]
            # Of floats one NaN would be the maximum and hide the others.
            bright = (values > self.threshold).any() if values.dtype.kind == "f" else values.max() > self.threshold
            if bright:
                return False
        return True


def parse_skip_rule(value: Any) -> SkipRule | None:
    """Parse what `skip` of `predict` may be.

    Parameters
    ----------
    value : str, SkipRule or None
        A text is `dark:THRESHOLD` or `dark:THRESHOLD,fill=VALUE`, for a `SkipDark`.

    Raises
    ------
    ArgumentError
        If it is something else.

    Examples
    --------
    >>> parse_skip_rule("dark:100,fill=-1")
    SkipDark(threshold=100.0, fill=-1, channels=None)
    """
    if value is None:
        return None
    if not isinstance(value, str):
        rule: SkipRule = instance("skip", value, SkipRule, "give one, such as SkipDark(10)")
        return rule
    text = re.fullmatch(r"dark:([^,]+)(?:,fill=(.+))?", value)
    try:
        threshold, fill = float(text[1]), text[2] or "0"  # type: ignore[index]  # no match is a TypeError
        return SkipDark(threshold, int(fill) if re.fullmatch(r"[-+]?\d+", fill) else float(fill))
    except (TypeError, ValueError) as error:
        if isinstance(error, PatchloomError):
            raise
        raise ArgumentError(f"skip is {shown(value)}: write dark:100, or dark:100,fill=5") from error


def fitting_factors(size: int, coarse: int) -> range:
    """Whole numbers by which an axis may have become so much smaller: the exact one, or all that fit after rounding.

    Examples
    --------
    >>> list(fitting_factors(100, 50)), list(fitting_factors(10, 3)), list(fitting_factors(10, 7))
    ([2], [3, 4], [])
    """
    if size % coarse == 0:
        return range(size // coarse, size // coarse + 1)
    largest = size if coarse == 1 else -(-size // (coarse - 1)) - 1
    return range(size // (coarse + 1) + 1, largest + 1)


def coarse_window(part: slice, size: int, coarse: int) -> slice:
    """Find which voxels of a coarser axis may lie over a part of an axis; at least one.

    Examples
    --------
    >>> coarse_window(slice(4, 8), size=10, coarse=3), coarse_window(slice(9, 10), size=10, coarse=3)
    (slice(1, 3, None), slice(2, 3, None))
    """
    factors = fitting_factors(size, coarse)
    start = min(part.start // factors[-1], coarse - 1)
    return slice(start, max(min(-(-part.stop // factors[0]), coarse), start + 1))


def check_fill(fill: Any) -> float:
    """Check that a fill value is a number, NaN and infinities included.

    Raises
    ------
    ArgumentTypeError
        If it is not one.

    Examples
    --------
    >>> check_fill(np.uint8(3)), check_fill(0.5)
    (3, 0.5)
    """
    if isinstance(fill, (np.generic, np.ndarray)) and fill.ndim == 0:
        fill = fill.item()
    if not isinstance(fill, Real):
        raise GeometryError(f"fill is {shown(fill)}: it must be a real number")
    return fill  # type: ignore[return-value]  # an int stays one, as a float may not hold it


def check_fill_fits(fill: float, dtype: np.dtype[Any]) -> None:
    """Check that a dtype can hold a fill value.

    Raises
    ------
    GeometryError
        If it cannot: of integers the value must be whole and in their range, of truth values 0 or 1, and of floats it must
        not overflow.

    Examples
    --------
    >>> check_fill_fits(255, np.dtype("uint8"))
    >>> check_fill_fits(0.7, np.dtype("uint8"))
    Traceback (most recent call last):
        ...
    patchloom.errors.GeometryError: fill is 0.7, and the output has dtype uint8: it must be a whole number from 0 to 255
    """
    finite = isinstance(fill, int) or math.isfinite(fill)
    if dtype.kind == "b":
        fits, allowed = fill in (0, 1), "it must be 0 or 1"
    elif dtype.kind in "iu":
        info = np.iinfo(dtype)
        fits = finite and fill == int(fill) and info.min <= fill <= info.max
        allowed = f"it must be a whole number from {info.min} to {info.max}"
    else:
        largest = float(np.finfo(dtype).max)
        fits = not finite or abs(fill) <= largest
        allowed = f"it must not be beyond {largest}"
    if not fits:
        raise GeometryError(f"fill is {shown(fill)}, and the output has dtype {dtype}: {allowed}")
