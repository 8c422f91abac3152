"""The lock of an output: one writer at a time.

A lock is held through an open file beside the output, which has the output's name with `.lock` added. The operating system
releases it when the process ends, also if it is killed. A lock file that a killed process left behind locks out no other
run. The holder removes the file when it releases the lock.
"""

from __future__ import annotations

import os
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self
from weakref import finalize

from filelock import FileLock, Timeout

from patchloom.argument_checks import file_path
from patchloom.errors import SinkError
from patchloom.sinks.publishing.destination import check_folder, lock_path
from patchloom.sinks.write_errors import explain


class OutputLock:
    """The right to write one output, held until `release` or the end of the process.

    It excludes other processes and other locks in this one. A forked child does not hold the locks of its parent. It also
    excludes other machines if the file system shares its locks, as NFS and SMB do.

    Parameters
    ----------
    path : str or Path
        The output. It need not exist, but its folder must.

    Raises
    ------
    SinkError
        Immediately, if another run holds the lock, or if the file system cannot lock a file there.

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
        # Any thread may release it. A soft lock would survive a kill.
        self._lock = FileLock(
            self.path, thread_local=False, fallback_to_soft=False, on_acquired=partial(_check_in_place, self.path)
        )
        try:
            self._lock.acquire(blocking=False)
        except Timeout as error:
            if self.path.exists():
                raise SinkError(
                    f"{path}: another run is writing this output: wait for it or choose another output"
                ) from error
            raise SinkError(f"{path}: cannot make {self.path}: try again, or choose another output") from error
        except OSError as error:
            raise SinkError(f"{path}: cannot lock {self.path}: {explain(error)}") from error
        self._end = finalize(self, _remove_and_release, self._lock)

    @property
    def is_held(self) -> bool:
        """Whether this process holds the lock."""
        return self._lock.is_locked

    def release(self) -> None:
        """Release the lock; may be called twice."""
        self._end()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()


def _check_in_place(path: Path, descriptor: int) -> None:
    """Refuse a lock on a file that its last holder removed after this process had opened it."""
    with suppress(FileNotFoundError):
        if os.path.samestat(os.fstat(descriptor), path.stat()):
            return
    raise Timeout(str(path))


def _remove_and_release(lock: FileLock) -> None:
    """Release a lock, unless it is the copy that a forked child has of its parent's lock."""
    if lock.is_locked:
        # Removed while it is locked, so that it cannot be the file of another holder. An open file cannot be removed on
        # Windows; there filelock removes it after the release.
        with suppress(OSError):
            Path(lock.lock_file).unlink()
        lock.release()
