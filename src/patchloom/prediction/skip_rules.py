"""Skip rules: they decide on which tiles the model is not run.

A skipped tile counts as a tile for which the model returned `fill` everywhere; predictions of other tiles do not change. The
decisions depend on the tiles of the plan and on the images only, not on memory, blocks, batches or an earlier run.
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
from patchloom.geometry.coarse_axis import coarse_window, fitting_factors
from patchloom.image_stacks import ImageStack, listed_stacks
from patchloom.image_stacks.fingerprint import fingerprint
from patchloom.prediction.candidate_tiles import CandidateTiles


@runtime_checkable
class SkipRule(Protocol):
    """A rule that decides on which tiles the model is not run.

    Any object with these members can be given as `skip` of `pl.predict`. A decision must depend on the tile and on the images
    only, so that the result is the same with any memory limit, and after a run is resumed.

    Examples
    --------
    >>> import patchloom as pl
    >>> class SkipLeft:
    ...     images, identity, fill = (), "left half", 0
    ...
    ...     def check(self, image_stacks):
    ...         pass
    ...
    ...     def skips(self, tiles):
    ...         return [spec["coords"][-1] < 4 for spec in tiles.specs]
    >>> options = {"axes": "YX", "patch_size": (1, 4), "overlaps": (0, 0), "progress": False}
    >>> pl.predict(lambda batch: batch + 1, np.zeros((1, 8)), skip=SkipLeft(), **options).tolist()
    [[0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0]]
    """

    @property
    def images(self) -> Sequence[ImageStack]:
        """Image stacks that the rule reads in addition to the series, such as masks."""

    @property
    def identity(self) -> str:
        """A text that contains all that the decisions depend on, except for the images of the series."""

    @property
    def fill(self) -> float:
        """Value of the output where tiles are skipped."""

    def check(self, image_stacks: Sequence[ImageStack]) -> None:
        """Check that the rule fits the images, before the model runs.

        Parameters
        ----------
        image_stacks : sequence of ImageStack
            The series.

        Raises
        ------
        GeometryError
            If it does not fit one of them. The message names the image.
        """

    def skips(self, tiles: CandidateTiles) -> Sequence[bool]:
        """Decide on tiles, each by itself.

        Parameters
        ----------
        tiles : CandidateTiles
            Tiles of a series that was checked.

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

    Only the region that a tile predicts counts, without the margin that it reads. Every tile that touches the mask is run, so the
    result inside the mask is the same as without skipping, cropped or blended.

    A mask may be coarser than its image, by a whole factor along each axis; its last voxel then covers the rest of the image. If
    sizes are not multiples and several factors fit (3 voxels may cover 10 by a factor of 3 or 4), a tile is skipped only if it is
    outside the mask for each of them.

    Parameters
    ----------
    masks : sequence of ImageStack
        A mask for each image stack of the series, with the same number of samples, or with one sample for all. All channels count.
        NaN is not 0.
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
        """Check that the masks fit the images; see `SkipRule.check`."""
        listed_stacks("image_stacks", image_stacks)
        if len(self.masks) != len(image_stacks):
            raise GeometryError(
                f"there are {len(self.masks)} masks and {len(image_stacks)} images: give a mask for each image"
            )
        for mask, stack in zip(self.masks, image_stacks, strict=True):
            shapes = f"mask {mask.source} has shape SC(Z)YX {tuple(mask.data_shape)} and {stack.source} {tuple(stack.data_shape)}"
            if len(mask.data_shape) != len(stack.data_shape):
                raise GeometryError(f"{shapes}: both must be 2D, or both 3D")
            if mask.data_shape[0] not in {1, stack.data_shape[0]}:
                raise GeometryError(
                    f"{shapes}: give a mask with the same number of samples, or with one sample for all"
                )
            sizes = zip(stack.data_shape[2:], mask.data_shape[2:], spatial_axes(len(stack.data_shape) - 2), strict=True)
            for size, coarse, axis in sizes:
                if not fitting_factors(size, coarse):
                    raise GeometryError(
                        f"{shapes}: along {axis}, no whole factor scales {coarse} to {size}; give a mask that is coarser by a whole factor"
                    )

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

    All voxels that the model would get count, including the margin, and voxels that padding repeats or reads from the other side of
    the image (`"wrap"`). Zeros around the image (`"constant"`) do not count. NaN is not bright.

    Parameters
    ----------
    threshold : float
        The highest pixel value that is dark, before normalization.
    fill : float
        Value of the output where tiles are skipped.
    channels : sequence of int, optional
        Indices of the channels that count, from 0. If None, all channels count.

    Raises
    ------
    GeometryError
        If the threshold is NaN, `channels` is empty, or a channel is not a whole number or is negative.

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
                f"channels is {self.channels}: give at least one channel, counted from 0, or leave it out for all"
            )
        object.__setattr__(self, "channels", numbers)

    @property
    def images(self) -> Sequence[ImageStack]:
        """Empty: only the series is read."""
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
        """Check that the images have these channels and are not complex; see `SkipRule.check`."""
        for stack in listed_stacks("image_stacks", image_stacks):
            if self.channels is not None and self.channels[-1] >= stack.data_shape[1]:
                raise GeometryError(
                    f"channels contains {self.channels[-1]}: it must be from 0 to {stack.data_shape[1] - 1}, as {stack.source} has "
                    f"{stack.data_shape[1]} channel(s)"
                )
            if np.dtype(stack.data_dtype).kind == "c":
                raise GeometryError(
                    f"{stack.source} is complex, and only real numbers can be above a threshold: use another skip rule"
                )

    def skips(self, tiles: CandidateTiles) -> Sequence[bool]:
        """Decide on tiles; see `SkipRule.skips`."""
        return [self.is_dark(pixels) for pixels in tiles.read()]

    def is_dark(self, pixels: NDArray[Any]) -> bool:
        """Return whether no voxel is bright.

        Parameters
        ----------
        pixels : array
            `C(Z)YX`, with all channels of the source.
        """
        for channel in range(len(pixels)) if self.channels is None else self.channels:
            values = pixels[channel]
            # The maximum of floats is NaN if one of them is.
            bright = (values > self.threshold).any() if values.dtype.kind == "f" else values.max() > self.threshold
            if bright:
                return False
        return True


def parse_skip_rule(value: Any) -> SkipRule | None:
    """Parse the argument `skip` of `predict`.

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
            raise type(error)(f"skip is {shown(value)}: {error}") from error
        raise ArgumentError(f"skip is {shown(value)}: write dark:100, or dark:100,fill=5") from error


def check_fill(fill: Any) -> float:
    """Return a fill value as a plain number; NaN and infinite numbers are allowed.

    Raises
    ------
    ArgumentTypeError
        If it is not a real number.

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
    """Check that a dtype can store a fill value.

    Raises
    ------
    GeometryError
        If it cannot: for integers, the value must be whole and within their range; for bool, 0 or 1; for floats, within their
        range or infinite.

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
        allowed = f"it must be from {-largest} to {largest}"
    if not fits:
        raise GeometryError(f"fill is {shown(fill)}, and the output has dtype {dtype}: {allowed}")
