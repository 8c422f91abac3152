"""How much memory a process may take here."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_SHARE_OF_FREE = 2
"""By default a run takes at most one in so many of the bytes that are free."""


def default_memory_limit() -> int:
    """Return the memory limit of a run for which none is given: half of what is free, in bytes."""
    return max(free_memory() // _SHARE_OF_FREE, 2**28)


def free_memory() -> int:
    """Return the number of bytes that a process may still take, by the system and its control group; 4 GiB if neither is known."""
    return min([*_free_of_system(), *_free_of_control_group(), *_free_of_address_space()], default=4 * 2**30)


def _free_of_system() -> Iterator[int]:
    with suppress(OSError, ValueError, IndexError):
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        yield next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
        return
    with suppress(OSError, ValueError, AttributeError):
        yield os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def _free_of_control_group() -> Iterator[int]:
    folder = Path("/sys/fs/cgroup")
    with suppress(OSError, ValueError):  # "max" means that there is no limit
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
