"""A bounded number of files that stay open: a series of a thousand images does not use up the process's descriptors."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Generic, TypeVar

from patchloom.errors import SourceError

if sys.platform == "win32":

    def _limit() -> int:
        return _UNLIMITED
else:
    import resource

    def _limit() -> int:
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        return min(limit, _UNLIMITED) if limit > 0 else _UNLIMITED


_Handle = TypeVar("_Handle")

_UNLIMITED = 8192


class OpenFiles(Generic[_Handle]):
    """The open files of all stacks of one kind, the least recently used of which is dropped when there are too many.

    A file that was dropped stays open until the last reader lets go of it, and is opened anew when it is asked for again.

    Parameters
    ----------
    most : int
        Number of files that are kept open.

    Examples
    --------
    >>> class Image:
    ...     pass
    >>> files, images = OpenFiles(most=2), [Image() for _ in range(3)]
    >>> [files.of(image, lambda: object()) is not None for image in images], len(files)
    ([True, True, True], 2)
    """

    def __init__(self, most: int) -> None:
        self.most = most
        # There is no lock, which a forked process could inherit locked: each step on a dictionary is a single one.
        self._open: dict[weakref.ref[Any], _Handle] = {}

    def of(self, owner: Any, open_file: Callable[[], _Handle]) -> _Handle:
        """Return the open file of a stack; `open_file` opens it if it is not open."""
        key = weakref.ref(owner, self._forget)
        handle = self._open.pop(key, None)
        if handle is None:
            handle = open_file()
        self._open[key] = handle  # the last of all, as the most recently used
        while len(self._open) > self.most:
            with suppress(KeyError, StopIteration, RuntimeError):  # another thread may have been faster
                self._open.pop(next(iter(self._open)))
        return handle

    def _forget(self, key: weakref.ref[Any]) -> None:
        self._open.pop(key, None)

    def __len__(self) -> int:
        return len(self._open)


def file_state(source: str | Path, path: Path) -> tuple[int, int]:
    """Return the size and the time of change of a file, which tell whether it is still the one that was opened.

    Raises
    ------
    SourceError
        If there is no such file any more.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise SourceError(f"{source} cannot be read: {error.strerror}") from error
    return status.st_size, status.st_mtime_ns


def check_unchanged(source: str | Path, path: Path, state: tuple[int, int]) -> None:
    """Refuse to open a file again that has changed.

    Raises
    ------
    SourceError
        If it has another state, or is gone.
    """
    if file_state(source, path) != state:
        raise SourceError(f"{source} has changed since it was opened: open it again")


def share_of_descriptors(share: float) -> int:
    """Return a share of the number of files that this process may have open.

    Examples
    --------
    >>> share_of_descriptors(0.25) >= 1
    True
    """
    return max(1, int(share * _limit()))
