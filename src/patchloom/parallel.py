"""Work on pixels that several threads share."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

Runner = Callable[[Sequence[Callable[[], Any]]], None]
"""Runs calls at the same time, waits until all have ended, and raises the first error."""

MIN_PARALLEL_VOXELS = 2**22
"""Number of voxels of a batch below which waking threads takes longer than the work."""

MOST_THREADS = 4
"""Copying and adding are limited by the memory bandwidth, which a few cores exhaust."""


def n_threads() -> int:
    """Return the number of threads for work limited by memory: the cores this process may use, at most four."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, MOST_THREADS)


def run_serially(calls: Sequence[Callable[[], Any]]) -> None:
    """Run calls one after the other, in this thread."""
    for call in calls:
        call()


@contextmanager
def thread_runner() -> Iterator[Runner]:
    """Return a runner that uses several threads and the calling one; the threads end with the context.

    Examples
    --------
    >>> done = []
    >>> with thread_runner() as runner:
    ...     runner([lambda: done.append("here"), lambda: done.append("there")])
    >>> sorted(done)
    ['here', 'there']
    """
    with ThreadPoolExecutor(max(1, n_threads() - 1), thread_name_prefix="patchloom-pixels") as executor:

        def runner(calls: Sequence[Callable[[], Any]]) -> None:
            others = [executor.submit(call) for call in calls[1:]]
            try:
                run_serially(calls[:1])
            finally:
                failures = [other.exception() for other in others]
            for failure in failures:
                if failure is not None:
                    raise failure

        yield runner


def split_range(size: int, n_parts: int) -> list[slice]:
    """Split a range into parts of about equal size; none is empty.

    Examples
    --------
    >>> split_range(5, 2), split_range(1, 2)
    ([slice(0, 2, None), slice(2, 5, None)], [slice(0, 1, None)])
    """
    count = max(1, min(size, n_parts))
    ends = [size * number // count for number in range(count + 1)]
    return [slice(start, stop) for start, stop in pairwise(ends)]
