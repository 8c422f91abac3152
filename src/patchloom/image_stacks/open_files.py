"""A bounded number of open files, so that a series of a thousand images does not use all descriptors of the process."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Generic, TypeVar

from patchloom.errors import SourceError
from patchloom.image_stacks.fingerprint import Fingerprint, fingerprint
from patchloom.image_stacks.protocols import Storage

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
    """A cache of the open files of all stacks of one class; the least recently used file is evicted first.

    An evicted file stays open until its last reader releases it, and is opened again when it is needed.

    Parameters
    ----------
    most : int
        Largest number of files that are kept open.

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


def file_fingerprint(source: str | Path, path: Path) -> Fingerprint:
    """Identify a file, to notice whether it is still the one that was opened; a copy with the same times counts as the same.

    Raises
    ------
    SourceError
        If the file is gone.
    """
    try:
        return fingerprint(Storage((path,)), level="portable")
    except OSError as error:
        raise SourceError(f"{source} cannot be read: {error.strerror}") from error


def check_unchanged(source: str | Path, path: Path, opened: Fingerprint) -> None:
    """Check that a file that is opened again is the one that was opened before.

    Raises
    ------
    SourceError
        If it has changed or is gone.
    """
    if file_fingerprint(source, path) != opened:
        raise SourceError(f"{source} has changed since it was opened: open it again")


def share_of_descriptors(share: float) -> int:
    """Return a share of the number of files that this process may have open.

    Examples
    --------
    >>> share_of_descriptors(0.25) >= 1
    True
    """
    return max(1, int(share * _limit()))
