"""How much memory a run may take, and how much it takes."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from patchloom.errors import GeometryError
from patchloom.geometry.checks import whole_number

_SHARE_OF_FREE = 2
"""By default a run takes at most one in so many of the bytes that are free."""

READ_AHEAD = 2
"""Batches that are read while the model is busy with another."""

WRITE_BEHIND = 1
"""Finished blocks that are being written, or wait for it, while the next one is computed."""

CACHE_BYTES = 2**30
"""Decoded chunks of the sources that are kept: at most this, and a quarter of what the run may take."""

SINK_BYTES = 16 * 2**20
"""What a sink compresses at once, but always a shard at least; what it has compressed may be as large."""


def free_memory() -> int:
    """Tell how many bytes a process may still take here, by the system and its control group; 4 GiB where nobody says."""
    return min([*_free_of_system(), *_free_of_control_group(), *_free_of_address_space()], default=4 * 2**30)


def check_memory_limit(memory_limit: int | None) -> int:
    """Return the limit in bytes: what is given, else half of what is free.

    Raises
    ------
    GeometryError
        If it is not a positive whole number.

    Examples
    --------
    >>> check_memory_limit("2GB")
    Traceback (most recent call last):
        ...
    patchloom.errors.NotIntegerError: memory_limit is '2GB': it must be a positive whole number of bytes, such as 2 * 2**30
    """
    if memory_limit is None:
        return max(free_memory() // _SHARE_OF_FREE, 2**28)
    try:
        return whole_number("memory_limit", memory_limit, least=1)
    except GeometryError as error:
        raise type(error)(
            f"memory_limit is {memory_limit!r}: it must be a positive whole number of bytes, such as 2 * 2**30"
        ) from None


def cache_bytes(wanted: int, memory_limit: int) -> int:
    """Return the size of the cache of decoded chunks: what is wanted, within a quarter of the limit."""
    return min(wanted, memory_limit // 4)


def least_limit(others: int, wanted_cache: int) -> int:
    """Return the smallest memory limit for a run whose parts, the cache aside, take `others` bytes.

    Examples
    --------
    >>> least = least_limit(10_001, wanted_cache=5_000)
    >>> least, [10_001 + cache_bytes(5_000, limit) <= limit for limit in (least - 1, least)]
    (13334, [False, True])
    """
    # If the cache takes a quarter of the limit, three quarters are left: the least L with L - L // 4 >= others.
    quarter = 4 * (others - 1) // 3 + 1 - others
    return others + min(wanted_cache, quarter)


@dataclass(frozen=True, slots=True)
class MemoryUse:
    """What the parts of a run take, in bytes; what the model needs itself is not known.

    Parameters
    ----------
    batches : int
        Batches of tiles that are read, waiting, or in the model, and what the storage decodes for one of them.
    predictions : int
        What the model makes of a batch.
    open_blocks : int
        Blocks that tiles are still added to.
    writing : int
        Finished blocks on their way to the output.
    cache : int
        Chunks of the sources, decoded, that are kept for the tiles to come.
    """

    batches: int
    predictions: int
    open_blocks: int
    writing: int
    cache: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.batches + self.predictions + self.open_blocks + self.writing + self.cache


def _free_of_system() -> Iterator[int]:
    with suppress(OSError, ValueError, IndexError):
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        yield next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
        return
    with suppress(OSError, ValueError, AttributeError):
        yield os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def _free_of_control_group() -> Iterator[int]:
    folder = Path("/sys/fs/cgroup")
    with suppress(OSError, ValueError):  # "max" is no number: there is no limit
        yield int((folder / "memory.max").read_text()) - int((folder / "memory.current").read_text())


def _free_of_address_space() -> Iterator[int]:
    if sys.platform == "win32":
        return
    import resource  # noqa: PLC0415  # there is none on Windows

    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY:
        with suppress(OSError, ValueError, IndexError):
            pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
            yield max(limit - pages * os.sysconf("SC_PAGE_SIZE"), 0)
