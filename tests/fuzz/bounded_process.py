"""A child process in which damaged files are opened, with a bound on its memory and on its time."""

from __future__ import annotations

import logging
import multiprocessing
import resource
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from archives import packed
from mutations import Seed, damaged
from patchloom.errors import PatchloomError

MEMORY_LIMIT = 512 << 20
"""Bytes that opening and reading a small file may allocate beyond what the sound seeds need."""

CPU_SECONDS = 5.0
"""Processor time that one file may take."""

WALL_SECONDS = 60.0
"""Time after which a child counts as hanging, also on a busy machine."""

FILES_PER_CHILD = 500
"""Number of files after which a child is replaced, so that caches do not add up."""


@dataclass(frozen=True)
class Finding:
    """A damaged file that led to something other than one of our errors."""

    index: int
    """Index of the mutant in its campaign."""

    kind: str
    """The outcome and its place: equal for all findings of one cause."""

    details: str
    """The traceback, if there is one."""


@dataclass(frozen=True)
class Target:
    """A format under test.

    Parameters
    ----------
    seeds : callable
        Make the sound images; the same bytes in every process.
    use : callable
        Open an image by its path, and read its metadata and some windows.
    share : float
        Share of the mutants that a short run opens: less than 1 where each takes long.
    """

    seeds: Callable[[], Sequence[Seed]]
    use: Callable[[Path], None]
    share: float = 1.0


def findings(target: Target, seed: int, indices: Sequence[int]) -> Iterator[Finding]:
    """Open mutants in child processes, and yield mutants that are not handled.

    Parameters
    ----------
    target : Target
        The format.
    seed : int
        Number of the campaign.
    indices : sequence of int
        Which mutants of it.
    """
    left = list(indices)
    while left:
        batch, left = left[:FILES_PER_CHILD], left[FILES_PER_CHILD:]
        unfinished = yield from _findings_of_one_child(target, seed, batch)
        left = unfinished + left


def _findings_of_one_child(target: Target, seed: int, indices: list[int]) -> Generator[Finding, None, list[int]]:
    """Yield findings, and return the indices that a child that died did not reach."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    child = context.Process(target=_serve, args=(target, seed, indices, theirs), daemon=True)
    child.start()
    theirs.close()
    try:
        _receive(ours, "the sound seeds")
        for done, index in enumerate(indices):
            try:
                finding = _receive(ours, f"mutant {index}")
            except (EOFError, TimeoutError) as error:
                child.kill()
                child.join()
                ended = "hangs" if isinstance(error, TimeoutError) else f"process ended with {child.exitcode}"
                yield Finding(index, ended, "")
                return indices[done + 1 :]
            if finding is not None:
                yield finding
        return []
    finally:
        child.kill()
        child.join()


def _receive(connection: Connection, what: str) -> Finding | None:
    if not connection.poll(WALL_SECONDS):
        raise TimeoutError(what)
    received = connection.recv()
    if isinstance(received, BaseException):
        raise received
    return received


def _serve(target: Target, seed: int, indices: Sequence[int], connection: Connection) -> None:
    """Run in the child: open the seeds, then one mutant after the other."""
    logging.disable()
    seeds = target.seeds()
    for sound in seeds:
        finding = _finding(target, sound, -1)
        if finding is not None:
            connection.send(RuntimeError(f"the sound seed {sound.name!r} cannot be used: {finding}"))
            return
    connection.send(None)
    _limit_memory()
    for index in indices:
        connection.send(_finding(target, damaged(seeds, seed, index), index))


def _limit_memory() -> None:
    """Bound private memory; maps of files do not count, and neither does what is in use already."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[5])
    limit = pages * resource.getpagesize() + MEMORY_LIMIT
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def _finding(target: Target, mutant: Seed, index: int) -> Finding | None:
    began = time.process_time()
    kind, details = "", ""
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder,
        warnings.catch_warnings(record=True) as warned,
    ):
        warnings.simplefilter("always")
        try:
            target.use(written(mutant, Path(folder)))
        except PatchloomError as error:
            if index < 0:  # a sound seed
                kind = f"refused: {error}"
        except BaseException as error:
            kind, details = f"{type(error).__name__} in {_innermost(error)}", "".join(traceback.format_exception(error))
    took = time.process_time() - began
    if not kind and took > CPU_SECONDS:
        kind = f"takes more than {CPU_SECONDS:g} s"
    if not kind and warned:
        kind = f"{warned[0].category.__name__} in {Path(warned[0].filename).name}:{warned[0].lineno}"
        details = str(warned[0].message)
    return Finding(index, kind, details) if kind else None


def _innermost(error: BaseException) -> str:
    """Name the innermost line of ours that an error passed, so that findings of one cause count as one."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "patchloom" in Path(frame.filename).parts] or frames[-1:]
    return f"{Path(ours[-1].filename).name}:{ours[-1].lineno}"


def written(seed: Seed, folder: Path) -> Path:
    """Write the files of a seed into a folder, and return the path to open."""
    for name, content in packed(seed.files).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder / seed.main
