"""Image stacks of some channels of another stack."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchloom.argument_checks import listed
from patchloom.errors import GeometryError
from patchloom.geometry.checks import whole_number
from patchloom.image_metadata import ImageMetadata
from patchloom.image_stacks.derived_stack import DerivedStack, HasDerivedGrid
from patchloom.image_stacks.protocols import (
    HasStorageGrid,
    HoldsPixels,
    ImageStack,
    Region,
    Storage,
    read_regions,
)


def select_channels(stack: ImageStack, channels: Sequence[int], *, repeats: bool = False) -> ImageStack:
    """Make a stack of some channels of another stack, which reads only these.

    Parameters
    ----------
    stack : ImageStack
        The whole image. The new stack has a storage grid (`HasStorageGrid`) if this one has one.
    channels : sequence of int
        Indices of the channels, in the order wanted.
    repeats : bool
        Whether a channel may be given more than once.

    Returns
    -------
    ImageStack
        A stack with the source and the original shape of the whole image.

    Raises
    ------
    GeometryError
        If a channel does not exist, none is given, or one is given more than once without `repeats`.

    Examples
    --------
    >>> import numpy as np
    >>> from patchloom.image_stacks import ArrayStack
    >>> stack = ArrayStack(np.arange(12).reshape(4, 1, 3), axes="CYX")
    >>> select_channels(stack, [3, 1]).extract_patch(0, None, (0, 0), (1, 2)).tolist()
    [[[9, 10]], [[3, 4]]]
    """
    chosen = _checked(stack, channels, repeats=repeats)
    if chosen == tuple(range(stack.data_shape[1])):
        return stack
    return _StoredChannels(stack, chosen) if isinstance(stack, HasStorageGrid) else _Channels(stack, chosen)


class _Channels(DerivedStack):
    """Channels of an image stack; an `ImageStack` that `ReadsRegions`."""

    def __init__(self, whole: ImageStack, chosen: tuple[int, ...]) -> None:
        super().__init__(whole, (whole.data_shape[0], len(chosen), *whole.data_shape[2:]))
        self.chosen = chosen

    @property
    def pixels(self) -> NDArray[Any] | None:
        """See `HoldsPixels.pixels`: a view, so None if the steps from channel to channel differ."""
        pixels = self.whole.pixels if isinstance(self.whole, HoldsPixels) else None
        first, steps = self.chosen[0], set(np.diff(self.chosen).tolist())
        if pixels is None or len(steps) > 1:
            return None
        step = steps.pop() if steps else 1
        if not step:
            return np.broadcast_to(pixels[:, first : first + 1], (len(pixels), len(self.chosen), *pixels.shape[2:]))
        stop = self.chosen[-1] + (1 if step > 0 else -1)
        return pixels[:, first : None if stop < 0 else stop : step]

    @property
    def metadata(self) -> ImageMetadata:
        """See `HasMetadata.metadata`."""
        metadata = super().metadata
        names, colors = (
            tuple(of_channels[channel] for channel in self.chosen) if of_channels else ()
            for of_channels in (metadata.channel_names, metadata.channel_colors)
        )
        is_rgb = metadata.is_rgb and self.chosen == (0, 1, 2)
        return replace(metadata, channel_names=names, channel_colors=colors, is_rgb=is_rgb)

    @property
    def image_in_files(self) -> str:
        """See `HasFiles.image_in_files`."""
        return f"{super().image_in_files}, channels {self.chosen}"

    @property
    def storage(self) -> Storage:
        """See `HasStorage.storage`."""
        of_whole = super().storage
        return replace(of_whole, part=f"{of_whole.part}, channels {self.chosen}")

    def extract_patch(
        self, sample_idx: int, channels: Sequence[int] | None, coords: Sequence[int], patch_size: Sequence[int]
    ) -> NDArray[Any]:
        """Read one patch; see `ImageStack.extract_patch`."""
        wanted = range(len(self.chosen)) if channels is None else [_channel(self, channel) for channel in channels]
        return self.whole.extract_patch(sample_idx, [self.chosen[channel] for channel in wanted], coords, patch_size)

    def read_regions(self, regions: Sequence[Region], out: Sequence[NDArray[Any]]) -> None:
        """Read regions together; see `ReadsRegions.read_regions`."""
        parts, targets, copies = [], [], []
        for region, target in zip(regions, out, strict=True):
            wanted = self.chosen[region.channels]
            distinct = list(dict.fromkeys(wanted))
            pixels = (
                target if len(distinct) == len(wanted) else np.empty((len(distinct), *target.shape[1:]), target.dtype)
            )
            place = 0
            for run in _runs(distinct):
                parts.append(region._replace(channels=run))
                targets.append(pixels[place : place + run.stop - run.start])
                place += run.stop - run.start
            if pixels is not target:
                copies.append((target, pixels, list(map(distinct.index, wanted))))
        read_regions(self.whole, parts, targets)
        for target, pixels, places in copies:  # a channel that is wanted more than once is read once
            target[...] = pixels[places]

    def __repr__(self) -> str:
        return f"{self.whole!r}, channels {self.chosen}"


class _StoredChannels(HasDerivedGrid, _Channels):
    """The same, of a stack that has a storage grid."""

    def derived_box(self, box: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of a chunk or shard; at most the channels chosen count."""
        return (box[0], min(box[1], len(self.chosen)), *box[2:])


def _runs(channels: Sequence[int]) -> list[slice]:
    """Return channels as slices of consecutive ones."""
    runs: list[slice] = []
    for channel in channels:
        if runs and runs[-1].stop == channel:
            runs[-1] = slice(runs[-1].start, channel + 1)
        else:
            runs.append(slice(channel, channel + 1))
    return runs


def _channel(stack: ImageStack, channel: int) -> int:
    number = whole_number("channels", channel)
    if not 0 <= number < stack.data_shape[1]:
        raise GeometryError(
            f"channels has {number}, but {stack.source} has {stack.data_shape[1]} channels, counted from 0: its shape SC(Z)YX "
            f"is {tuple(stack.data_shape)}"
        )
    return number


def _checked(stack: ImageStack, channels: Sequence[int], *, repeats: bool) -> tuple[int, ...]:
    given = listed("channels", channels, "a sequence of whole numbers, such as [0, 2]")
    chosen = tuple(_channel(stack, channel) for channel in given)
    if not chosen or (len(set(chosen)) < len(chosen) and not repeats):
        raise GeometryError(f"channels is {chosen}: give at least one channel, and none twice")
    return chosen
