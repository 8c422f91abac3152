"""An output on its way: locked, out of sight, until it is published or discarded."""

from __future__ import annotations

import os
from pathlib import Path

from patchloom.errors import SinkError
from patchloom.local_paths import normalize_path
from patchloom.sinks.output_kinds import OutputKind
from patchloom.sinks.publishing.destination import (
    check_destination,
    partial_path,
    publish,
    remove,
    sync_folder,
    undo_interrupted_replacement,
)
from patchloom.sinks.publishing.lock import OutputLock
from patchloom.sinks.write_errors import explain


class PendingOutput:
    """The place that a sink writes to, from the claim to the end.

    Parameters
    ----------
    path : str or Path
        Where the output is to be.
    kind : OutputKind
        What is written.
    overwrite : bool
        Whether what is there may be replaced, and what a killed run left be discarded.
    resume : bool
        Whether what a killed run left is kept and gone on with.
    lock : OutputLock, optional
        The lock on this output, if the caller holds it already, and goes on to; else one is taken and let go of here.

    Raises
    ------
    OutputExistsError, SinkError
        As `check_destination`; if another run is writing there; or if there is nothing to resume.
    """

    def __init__(
        self,
        path: str | Path,
        kind: OutputKind,
        *,
        overwrite: bool = False,
        resume: bool = False,
        lock: OutputLock | None = None,
    ) -> None:
        self.path = Path(normalize_path(path))
        self.kind = kind
        self.overwrite = overwrite
        self.state = "open"
        self._destination = self.path.resolve()  # stays where it is when the working directory does not
        self.partial = partial_path(self._destination)
        """Where to write."""
        self._owns_lock = lock is None
        self._lock = OutputLock(path) if lock is None else lock
        try:
            self._claim(resume=resume)
        except BaseException:
            self._release("closed")
            raise

    def _claim(self, *, resume: bool) -> None:
        if resume or self.overwrite:
            undo_interrupted_replacement(self._destination)
        check_destination(self.path, overwrite=self.overwrite, resume=resume, kind=self.kind)
        if resume and not os.path.lexists(self.partial):
            raise SinkError(f"{self.path}: nothing to resume: {self.partial} does not exist")
        if not resume:
            remove(self.partial)

    def make_folder(self) -> None:
        """Make the place a folder.

        Raises
        ------
        SinkError
            If it cannot be made.
        """
        try:
            self.partial.mkdir(exist_ok=True)
            sync_folder(self.partial.parent)
        except OSError as error:
            raise SinkError(f"{self.path}: cannot make {self.partial}: {explain(error)}") from error

    def check_open(self) -> None:
        """Check that the output is still on its way.

        Raises
        ------
        SinkError
            If not.
        """
        if self.state != "open":
            raise SinkError(f"{self.path}: the sink is closed: it was {self.state}")
        if not self._lock.is_held:
            raise SinkError(f"{self.path}: the sink belongs to the process that this one was forked from: write there")

    def publish(self) -> None:
        """Show the complete output.

        Raises
        ------
        SinkError
            If that cannot be done. It is still on its way then.
        """
        publish(self._destination, self.kind, overwrite=self.overwrite)
        self._release("finalized")

    def abort(self) -> None:
        """Remove it, unless it is published, closed or another process's; may be called twice."""
        if self.state == "open":
            try:
                if self._lock.is_held:
                    remove(self.partial)
            finally:
                self._release("aborted")

    def close(self) -> None:
        """Leave it as it is, for another sink to resume; may be called twice."""
        if self.state == "open":
            self._release("closed")

    def _release(self, state: str) -> None:
        self.state = state
        if self._owns_lock:
            self._lock.release()
