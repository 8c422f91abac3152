"""Where there is nothing to predict: whether the model runs at all is decided for each block by itself.

A block that is skipped is filled with one value. All others come out the same as if none were skipped: every tile that
reaches into them runs, also where it lies over a skipped block for the most part.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from patchloom.argument_checks import instances, listed, real_number
from patchloom.axes import spatial_axes
from patchloom.errors import GeometryError
from patchloom.filters.score_files import fingerprint
from patchloom.geometry.checks import whole_number
from patchloom.image_stacks import HasFiles, ImageStack
from patchloom.prediction.blocks import Block
from patchloom.prediction.source_scan import scan_source


@runtime_checkable
class SkipRule(Protocol):
    """Something that tells of a block whether it can be skipped."""

    @property
    def identity(self) -> str:
        """All that the decisions depend on but the image itself, as JSON."""

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

    def skips(self, image_stacks: Sequence[ImageStack], data_idx: int, block: Block, context: Sequence[int]) -> bool:
        """Decide on one block. The answer depends on nothing but the arguments and the pixels.

        Parameters
        ----------
        image_stacks : sequence of ImageStack
            The series, which was checked.
        data_idx : int
            Which image stack.
        block : Block
            The block, in voxels of the image.
        context : sequence of int
            How far around it, `(z,) y, x`, tiles that reach into it see.

        Returns
        -------
        bool
            Whether the model need not run.

        Raises
        ------
        SourceError
            If pixels cannot be read.
        """


@dataclass(frozen=True)
class SkipOutside:
    """Skip blocks in which a mask is 0 everywhere.

    Only the block itself counts, not what lies around it: nobody asked for a result outside the mask. A mask may be coarser
    than its image, by a whole number of its own along each axis; its last voxel then stands for what is left of the image.
    Where sizes do not divide and several whole numbers fit (a mask of 3 voxels may be that of 10 by 3 or by 4), a block is
    skipped only if all of them say so.

    Parameters
    ----------
    masks : sequence of ImageStack
        One for each image stack of the series, with as many samples or with one for all. All channels count. NaN is not 0.

    Examples
    --------
    >>> from patchloom import ArrayStack
    >>> image, mask = np.ones((8, 8)), np.zeros((2, 2), np.uint8)
    >>> mask[0, 1] = 1
    >>> rule = SkipOutside([ArrayStack(mask, axes="YX")])
    >>> series = [ArrayStack(image, axes="YX")]
    >>> rule.check(series)
    >>> [rule.skips(series, 0, Block(0, (slice(0, 4), slice(x, x + 3))), (0, 0)) for x in (0, 1, 2)]
    [True, True, False]
    """

    masks: tuple[ImageStack, ...]

    def __post_init__(self) -> None:
        masks = instances("masks", self.masks, ImageStack, "a sequence of image stacks; open_stacks makes them")
        object.__setattr__(self, "masks", tuple(masks))

    @property
    def identity(self) -> str:
        """The masks: of local files their names, sizes and times of change, of others all their voxels."""
        return json.dumps({"skip": "outside", "masks": [_stack_identity(mask) for mask in self.masks]})

    def check(self, image_stacks: Sequence[ImageStack]) -> None:
        """Refuse images that the masks do not fit; see `SkipRule.check`."""
        instances("image_stacks", image_stacks, ImageStack, "a sequence of image stacks; open_stacks makes them")
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

    def skips(
        self,
        image_stacks: Sequence[ImageStack],
        data_idx: int,
        block: Block,
        context: Sequence[int],  # noqa: ARG002  # a result outside the mask is not wanted, whatever lies around
    ) -> bool:
        """Decide on one block; see `SkipRule.skips`."""
        mask = self.masks[data_idx]
        sizes = zip(block.window, image_stacks[data_idx].data_shape[2:], mask.data_shape[2:], strict=True)
        window = [coarse_window(part, size, coarse) for part, size, coarse in sizes]
        sample_idx = block.sample_idx if mask.data_shape[0] > 1 else 0
        pieces = scan_source(mask, samples=range(sample_idx, sample_idx + 1), window=window)
        return not any(bool(piece.any()) for _, piece in pieces)


@dataclass(frozen=True)
class SkipDark:
    """Skip blocks in and around which no voxel is brighter than a threshold.

    What lies around a block counts as far as its tiles see, so that a model that is blind to voxels up to the threshold loses
    nothing. NaN is not bright.

    Parameters
    ----------
    threshold : float
        The highest grey value that is dark, in grey values of the source.
    channels : sequence of int, optional
        Which channels are looked at; all by default.

    Raises
    ------
    GeometryError
        If the threshold is NaN, or there is no channel, or one is no whole number or below 0.

    Examples
    --------
    >>> from patchloom import ArrayStack
    >>> series = [ArrayStack(np.array([[0, 0, 0, 0, 9, 0]]), axes="YX")]
    >>> rule = SkipDark(threshold=3)
    >>> [rule.skips(series, 0, Block(0, (slice(0, 1), slice(0, 3))), (0, reach)) for reach in (1, 2)]
    [True, False]
    """

    threshold: float
    channels: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
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
    def identity(self) -> str:
        """Threshold and channels."""
        return json.dumps({"skip": "dark", "threshold": self.threshold, "channels": self.channels})

    def check(self, image_stacks: Sequence[ImageStack]) -> None:
        """Refuse images without these channels, or without an order of grey values; see `SkipRule.check`."""
        what = "a sequence of image stacks; open_stacks makes them"
        for stack in instances("image_stacks", image_stacks, ImageStack, what):
            if self.channels is not None and self.channels[-1] >= stack.data_shape[1]:
                raise GeometryError(
                    f"channels has {self.channels[-1]}, but {stack.source} has {stack.data_shape[1]}, counted from 0"
                )
            if np.dtype(stack.data_dtype).kind == "c":
                raise GeometryError(f"{stack.source} is complex, and only real numbers can be above a threshold")

    def skips(self, image_stacks: Sequence[ImageStack], data_idx: int, block: Block, context: Sequence[int]) -> bool:
        """Decide on one block; see `SkipRule.skips`."""
        stack = image_stacks[data_idx]
        window = [
            slice(max(part.start - reach, 0), min(part.stop + reach, size))
            for part, reach, size in zip(block.window, context, stack.data_shape[2:], strict=True)
        ]
        samples = range(block.sample_idx, block.sample_idx + 1)
        return all(self.is_dark(pixels) for _, pixels in scan_source(stack, samples=samples, window=window))

    def is_dark(self, pixels: NDArray[Any]) -> bool:
        """Decide on pixels that are there already, `C(Z)YX` with all channels of the source."""
        for channel in range(len(pixels)) if self.channels is None else self.channels:
            values = pixels[channel]
            # Of floats one NaN would be the maximum and hide the others.
            bright = (values > self.threshold).any() if values.dtype.kind == "f" else values.max() > self.threshold
            if bright:
                return False
        return True


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


def _stack_identity(stack: ImageStack) -> list[Any]:
    if isinstance(stack, HasFiles) and stack.files:
        return [str(stack.source), stack.image_in_files, stack.original_axes, fingerprint(stack.files)]
    digest = hashlib.sha256(repr((tuple(stack.data_shape), str(np.dtype(stack.data_dtype)))).encode())
    for _, pixels in scan_source(stack):
        digest.update(pixels.data)
    return [str(stack.source), digest.hexdigest()]
