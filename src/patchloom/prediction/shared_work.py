"""Work on pixels that is divided among the processor's cores."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

RunTogether = Callable[[Sequence[Callable[[], Any]]], None]
"""Runs calls at the same time, and returns when all have ended; raises what the first of those that failed raised."""

WORTH_SHARING = 2**22
"""Voxels of a batch below which it takes longer to wake threads than to do the work."""

MOST_THREADS = 4
"""Copying and adding up is bound by the memory, which a few cores use up."""


def n_threads() -> int:
    """Tell how many threads are worth having for work that waits for memory: the cores this process may use, up to four."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, MOST_THREADS)


def one_by_one(calls: Sequence[Callable[[], Any]]) -> None:
    """Run calls one after the other, in this thread."""
    for call in calls:
        call()


@contextmanager
def side_by_side() -> Iterator[RunTogether]:
    """Give a way to run calls in several threads, which have ended afterwards; the thread that asks takes part.

    Examples
    --------
    >>> done = []
    >>> with side_by_side() as run_together:
    ...     run_together([lambda: done.append("here"), lambda: done.append("there")])
    >>> sorted(done)
    ['here', 'there']
    """
    with ThreadPoolExecutor(max(1, n_threads() - 1), thread_name_prefix="patchloom-pixels") as executor:

        def run_together(calls: Sequence[Callable[[], Any]]) -> None:
            others = [executor.submit(call) for call in calls[1:]]
            try:
                one_by_one(calls[:1])
            finally:
                failures = [other.exception() for other in others]
            for failure in failures:
                if failure is not None:
                    raise failure

        yield run_together


def in_parts(size: int, n_parts: int) -> list[slice]:
    """Divide a range into parts as equal as they can be; none is empty.

    Examples
    --------
    >>> in_parts(5, 2), in_parts(1, 2)
    ([slice(0, 2, None), slice(2, 5, None)], [slice(0, 1, None)])
    """
    count = max(1, min(size, n_parts))
    ends = [size * number // count for number in range(count + 1)]
    return [slice(start, stop) for start, stop in pairwise(ends)]
