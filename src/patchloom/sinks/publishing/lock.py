"""One output, one writer: a lock that the system lets go of when its holder dies, however it dies.

Held is an open file beside the output, under the output's name with `.lock` added, not the file's being there: one that
a killed process left behind locks nobody out. Whoever lets go of the lock removes the file.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Self
from weakref import WeakSet

from patchloom.argument_checks import file_path
from patchloom.errors import SinkError
from patchloom.sinks.publishing.destination import check_folder, lock_path
from patchloom.sinks.write_failure import why

if sys.platform == "win32":
    import msvcrt

    def _lock(file: IO[bytes]) -> None:
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
else:
    import fcntl

    def _lock(file: IO[bytes]) -> None:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


_HELD: WeakSet[OutputLock] = WeakSet()
"""The locks that this process holds."""


class OutputLock:
    """The right to write one output, held until `release` or the end of the process.

    Works among processes and within one. A forked child does not hold the locks of its parent. Other machines are kept out as well where the file system shares its locks
    (NFS and SMB do).

    Parameters
    ----------
    path : str or Path
        Where the output is to be; it need not exist, its folder must.

    Raises
    ------
    SinkError
        At once, if somebody else holds the lock, or if there can be none at that place.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     with OutputLock(Path(folder, "a.zarr")):
    ...         OutputLock(Path(folder, "a.zarr"))
    Traceback (most recent call last):
        ...
    patchloom.errors.SinkError: ...a.zarr: another run is writing this output: wait for it or choose another output
    """

    def __init__(self, path: str | Path) -> None:
        file_path("path", path, error=SinkError)
        check_folder(path)
        self.path = lock_path(path)
        self._file: IO[bytes] | None = _locked_file(path, self.path)
        _HELD.add(self)

    @property
    def is_held(self) -> bool:
        """Whether this process holds the lock."""
        return self._file is not None

    def release(self) -> None:
        """Let go; may be called twice."""
        if self._file is None:
            return
        if sys.platform == "win32":  # where an open file cannot be removed
            self._file.close()
        # Removed while it is held, so that nobody else's is.
        with suppress(OSError):
            self.path.unlink()
        self._file.close()
        self._file = None

    def _leave_to_parent(self) -> None:
        """Close the copy that a forked child has of the file; the file and its lock stay with the parent."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def __del__(self) -> None:
        """Let go without a word, as the end of the process would."""
        if getattr(self, "_file", None) is not None:
            self.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()


def _leave_locks_to_parent() -> None:
    for lock in list(_HELD):
        lock._leave_to_parent()  # noqa: SLF001  # of this module


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_locks_to_parent)


def _locked_file(path: str | Path, place: Path) -> IO[bytes]:
    while True:
        try:
            file = place.open("ab")
        except OSError as error:
            raise SinkError(f"{path}: cannot make {place}: {why(error)}") from error
        try:
            _lock(file)
        except OSError as error:
            file.close()
            if isinstance(error, (BlockingIOError, PermissionError)):
                raise SinkError(
                    f"{path}: another run is writing this output: wait for it or choose another output"
                ) from error
            raise SinkError(
                f"{path}: cannot lock {place}: {error.strerror}: write to another disk and copy it from there"
            ) from error
        # A holder may have removed the file between our opening and locking it; then it locks nothing.
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), place.stat()):
                return file
        file.close()
