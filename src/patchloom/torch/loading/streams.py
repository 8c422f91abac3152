"""What the random numbers of training are for, each a stream of `CounterRandom`; see `patchloom.patching.Stream`."""

from __future__ import annotations

from enum import IntEnum


class Stream(IntEnum):
    """Streams beside those of the patchings, which are below 32 and from 256 up."""

    POSITION = 32
    """How a patch is flipped and turned."""

    TRANSFORM = 33
    """What a transform draws."""

    SUBSTITUTE = 34
    """Which patch stands in for one with a NaN."""

    ORDER = 35
    """In which order an epoch goes through its patches."""

    BLOCK_ORDER = 36
    """In which order an epoch goes through the blocks of the storage."""

    MIXTURE = 37
    """How much each channel weighs in a sum of channels."""
