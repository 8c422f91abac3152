"""What a user asks for by `normalise`, `percentiles` and `per`: which statistics of an image decide over its grey values."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any, NamedTuple, Self, get_args

import numpy as np

from patchloom.argument_checks import one_of, shown
from patchloom.errors import GeometryError
from patchloom.image_stacks import HasStorageGrid, ImageStack
from patchloom.prediction.normalisation import (
    Method,
    Normalisation,
    Per,
    check_measurable,
    checked_percentiles,
    measure_normalisation,
)
from patchloom.prediction.source_scan import MAX_BYTES

_SHARE_OF_PIXELS = 24
"""Pixels take one in so many of the bytes allowed, several times: as they are decoded, as they are held, and as the allocator
keeps them."""

_SHARE_OF_CHUNK = 8
"""One stored chunk may take one in so many of them: in smaller pieces, it would be decoded several times."""

_SHARE_OF_COUNTS = 4
"""Counts of values take at most one in so many of them."""

USUAL_PERCENTILES = (1.0, 99.8)
"""Those that are taken where none are named."""


class NormalisationRequest(NamedTuple):
    """How images are to be measured; see `measure_normalisation`.

    Examples
    --------
    >>> str(NormalisationRequest("percentiles", (1.0, 99.8), "channel"))
    'percentiles 1 and 99.8 per channel'
    """

    method: Method
    percentiles: tuple[float, ...]
    """Two of them for `"percentiles"`, else none."""
    per: Per

    @classmethod
    def of(cls, normalisation: Normalisation) -> Self:
        """Say what was asked for where this came out."""
        return cls(normalisation.method, normalisation.percentiles, normalisation.per)

    def measure(self, stacks: Sequence[ImageStack], memory_limit: int) -> tuple[Normalisation, ...]:
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
            As `measure_normalisation`.
        """
        return tuple(
            measure_normalisation(
                stack,
                self.method,
                percentiles=self.percentiles or USUAL_PERCENTILES,
                per=self.per,
                max_bytes=pixel_bytes(stack, memory_limit),
                max_count_bytes=memory_limit // _SHARE_OF_COUNTS,
            )
            for stack in stacks
        )

    def unmeasured(self, stacks: Sequence[ImageStack]) -> tuple[Normalisation, ...]:
        """Return what stands for the measurements of images until they are made, if all can be measured.

        Raises
        ------
        SourceError
            As `measure_normalisation`.
        """
        for stack in stacks:
            check_measurable(stack)
        ones, zeros = ([((number,) * s.data_shape[1],) * s.data_shape[0] for s in stacks] for number in (1.0, 0.0))
        return tuple(
            Normalisation(self.method, self.per, self.percentiles, scale, offset)
            for scale, offset in zip(ones, zeros, strict=True)
        )

    def __str__(self) -> str:
        numbers = " and ".join(f"{percentile:g}" for percentile in self.percentiles)
        return f"{f'percentiles {numbers}' if numbers else self.method} per {self.per}"


def normalisation_request(
    normalise: Method | Sequence[Normalisation] | None,
    percentiles: Sequence[float] | None = None,
    per: Per | None = None,
) -> NormalisationRequest | None:
    """Check what a user asks for; nothing is measured where nothing is asked for or all is known already.

    Parameters
    ----------
    normalise, percentiles, per
        As in `plan`.

    Raises
    ------
    GeometryError
        If one is none of those that exist, or would be of no effect.

    Examples
    --------
    >>> normalisation_request("percentiles", per="sample")
    NormalisationRequest(method='percentiles', percentiles=(1.0, 99.8), per='sample')
    >>> normalisation_request("mean_std", percentiles=(2, 98))
    Traceback (most recent call last):
        ...
    patchloom.errors.GeometryError: percentiles is (2, 98) and normalise is 'mean_std': they are for
    normalise='percentiles' (--normalise percentiles)
    """
    if isinstance(normalise, str):
        one_of("normalise", normalise, get_args(Method))
    if percentiles is not None and not (isinstance(normalise, str) and normalise == "percentiles"):
        raise GeometryError(
            f"percentiles is {shown(percentiles)} and normalise is {_named(normalise)}: they are for normalise='percentiles' "
            "(--normalise percentiles)"
        )
    if per is not None and not isinstance(normalise, str):
        raise GeometryError(
            f"per is {shown(per)} and normalise is {_named(normalise)}: say what is measured for it, with normalise='mean_std' "
            "or normalise='percentiles' (--normalise)"
        )
    if per is not None:
        one_of("per", per, get_args(Per))
    if not isinstance(normalise, str):
        return None
    if normalise == "mean_std":
        return NormalisationRequest("mean_std", (), per or "source")
    numbers = checked_percentiles(USUAL_PERCENTILES if percentiles is None else percentiles)
    return NormalisationRequest("percentiles", numbers, per or "source")


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


def given_normalisations(normalise: Any, stacks: Sequence[ImageStack]) -> tuple[Normalisation, ...]:
    """Check that what was measured by the user fits the images.

    Parameters
    ----------
    normalise : sequence of Normalisation or None
        One for each image.
    stacks : sequence of ImageStack
        The images.

    Raises
    ------
    GeometryError
        If there are more or fewer, or one is none, or of other samples and channels than its image.
    """
    if normalise is None:
        return ()
    if not isinstance(normalise, Sequence) or not all(isinstance(one, Normalisation) for one in normalise):
        raise GeometryError(
            f"normalise is {normalise!r}: name a method, or give a list of one Normalisation for each image"
        )
    if len(normalise) != len(stacks):
        raise GeometryError(
            f"normalise has {len(normalise)} entries and there are {len(stacks)} images: give one for each"
        )
    for one, stack in zip(normalise, stacks, strict=True):
        measured = (len(one.scale), len(one.scale[0]))
        if measured != tuple(stack.data_shape[:2]):
            raise GeometryError(
                f"normalise is of {measured[0]} samples and {measured[1]} channels, and {stack.source} has "
                f"{stack.data_shape[0]} and {stack.data_shape[1]}: measure this image"
            )
    return tuple(normalise)


def _named(normalise: Method | Sequence[Normalisation] | None) -> str:
    return repr(normalise) if normalise is None or isinstance(normalise, str) else "a sequence of Normalisation"
