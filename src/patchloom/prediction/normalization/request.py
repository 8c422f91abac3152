"""What a user asks for by `normalize`, `percentiles` and `per`: which statistics of an image decide over its gray values."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any, NamedTuple, Self, get_args

import numpy as np

from patchloom.argument_checks import one_of, shown
from patchloom.errors import GeometryError
from patchloom.image_stacks import HasStorageGrid, ImageStack
from patchloom.prediction.normalization.normalization import (
    Method,
    Normalization,
    Per,
    check_measurable,
    checked_percentiles,
    measure_normalization,
)
from patchloom.prediction.normalization.source_scan import MAX_BYTES

_SHARE_OF_PIXELS = 24
"""Pixels take one in so many of the bytes allowed, several times: as they are decoded, as they are held, and as the allocator
keeps them."""

_SHARE_OF_CHUNK = 8
"""One stored chunk may take one in so many of them: in smaller pieces, it would be decoded several times."""

_SHARE_OF_COUNTS = 4
"""Counts of values take at most one in so many of them."""

USUAL_PERCENTILES = (1.0, 99.8)
"""Those that are taken where none are named."""


class NormalizationRequest(NamedTuple):
    """How images are to be measured; see `measure_normalization`.

    Examples
    --------
    >>> str(NormalizationRequest("percentiles", (1.0, 99.8), "channel"))
    'percentiles 1 and 99.8 per channel'
    """

    method: Method
    percentiles: tuple[float, ...]
    """Two of them for `"percentiles"`, else none."""
    per: Per

    @classmethod
    def of(cls, normalization: Normalization) -> Self:
        """Say what was asked for where this came out."""
        return cls(normalization.method, normalization.percentiles, normalization.per)

    def measure(self, stacks: Sequence[ImageStack], memory_limit: int) -> tuple[Normalization, ...]:
        """Measure all images, within a number of bytes.

        Parameters
        ----------
        stacks : sequence of ImageStack
            The images.
        memory_limit : int
            Bytes that measuring may take.

        Raises
        ------
        SourceError
            As `measure_normalization`.
        """
        return tuple(
            measure_normalization(
                stack,
                self.method,
                percentiles=self.percentiles or USUAL_PERCENTILES,
                per=self.per,
                max_bytes=pixel_bytes(stack, memory_limit),
                max_count_bytes=memory_limit // _SHARE_OF_COUNTS,
            )
            for stack in stacks
        )

    def unmeasured(self, stacks: Sequence[ImageStack]) -> tuple[Normalization, ...]:
        """Return what stands for the measurements of images until they are made, if all can be measured.

        Raises
        ------
        SourceError
            As `measure_normalization`.
        """
        for stack in stacks:
            check_measurable(stack)
        ones, zeros = ([((number,) * s.data_shape[1],) * s.data_shape[0] for s in stacks] for number in (1.0, 0.0))
        return tuple(
            Normalization(self.method, self.per, self.percentiles, scale, offset)
            for scale, offset in zip(ones, zeros, strict=True)
        )

    def __str__(self) -> str:
        numbers = " and ".join(f"{percentile:g}" for percentile in self.percentiles)
        return f"{f'percentiles {numbers}' if numbers else self.method} per {self.per}"


def normalization_request(
    normalize: Method | Sequence[Normalization] | None,
    percentiles: Sequence[float] | None = None,
    per: Per | None = None,
) -> NormalizationRequest | None:
    """Check what a user asks for; nothing is measured where nothing is asked for or all is known already.

    Parameters
    ----------
    normalize, percentiles, per
        As in `plan`.

    Raises
    ------
    GeometryError
        If one is none of those that exist, or would be of no effect.

    Examples
    --------
    >>> normalization_request("percentiles", per="sample")
    NormalizationRequest(method='percentiles', percentiles=(1.0, 99.8), per='sample')
    >>> normalization_request("mean_std", percentiles=(2, 98))
    Traceback (most recent call last):
        ...
    patchloom.errors.GeometryError: percentiles is (2, 98) and normalize is 'mean_std': they are for
    normalize='percentiles' (--normalize percentiles)
    """
    if isinstance(normalize, str):
        one_of("normalize", normalize, get_args(Method))
    if percentiles is not None and not (isinstance(normalize, str) and normalize == "percentiles"):
        raise GeometryError(
            f"percentiles is {shown(percentiles)} and normalize is {_named(normalize)}: they are for normalize='percentiles' "
            "(--normalize percentiles)"
        )
    if per is not None and not isinstance(normalize, str):
        raise GeometryError(
            f"per is {shown(per)} and normalize is {_named(normalize)}: say what is measured for it, with normalize='mean_std' "
            "or normalize='percentiles' (--normalize)"
        )
    if per is not None:
        one_of("per", per, get_args(Per))
    if not isinstance(normalize, str):
        return None
    if normalize == "mean_std":
        return NormalizationRequest("mean_std", (), per or "source")
    numbers = checked_percentiles(USUAL_PERCENTILES if percentiles is None else percentiles)
    return NormalizationRequest("percentiles", numbers, per or "source")


def pixel_bytes(stack: ImageStack, memory_limit: int) -> int:
    """Return how many bytes of pixels are held at once while an image is measured.

    Parameters
    ----------
    stack : ImageStack
        The image.
    memory_limit : int
        Bytes that measuring may take.
    """
    chunk_shape = stack.chunk_shape if isinstance(stack, HasStorageGrid) else ()
    chunk = prod(map(min, chunk_shape, stack.data_shape)) * np.dtype(stack.data_dtype).itemsize
    wanted = max(memory_limit // _SHARE_OF_PIXELS, min(chunk, memory_limit // _SHARE_OF_CHUNK))
    return max(1, min(wanted, MAX_BYTES))


def given_normalizations(normalize: Any, stacks: Sequence[ImageStack]) -> tuple[Normalization, ...]:
    """Check that what was measured by the user fits the images.

    Parameters
    ----------
    normalize : sequence of Normalization or None
        One for each image.
    stacks : sequence of ImageStack
        The images.

    Raises
    ------
    GeometryError
        If there are more or fewer, or one is none, or of other samples and channels than its image.
    """
    if normalize is None:
        return ()
    if not isinstance(normalize, Sequence) or not all(isinstance(one, Normalization) for one in normalize):
        raise GeometryError(
            f"normalize is {normalize!r}: name a method, or give a list of one Normalization for each image"
        )
    if len(normalize) != len(stacks):
        raise GeometryError(
            f"normalize has {len(normalize)} entries and there are {len(stacks)} images: give one for each"
        )
    for one, stack in zip(normalize, stacks, strict=True):
        measured = (len(one.scale), len(one.scale[0]))
        if measured != tuple(stack.data_shape[:2]):
            raise GeometryError(
                f"normalize is of {measured[0]} samples and {measured[1]} channels, and {stack.source} has "
                f"{stack.data_shape[0]} and {stack.data_shape[1]}: measure this image"
            )
    return tuple(normalize)


def _named(normalize: Method | Sequence[Normalization] | None) -> str:
    return repr(normalize) if normalize is None or isinstance(normalize, str) else "a sequence of Normalization"
