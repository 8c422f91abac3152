"""An unfinished output: locked and invisible until it is published or removed."""

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
    """The files of an output while a sink writes it.

    Parameters
    ----------
    path : str or Path
        The output.
    kind : OutputKind
        Kind of the output.
    overwrite : bool
        Whether an existing output is replaced, and one that a killed run left unfinished is discarded.
    resume : bool
        Whether the output that a killed run left unfinished is kept, to be resumed.
    lock : OutputLock, optional
        The lock on this output, if the caller holds it. If None, one is held until the output is published, aborted or closed.

    Raises
    ------
    OutputExistsError, SinkError
        As `check_destination`. Also if another run is writing the output, or if there is nothing to resume.
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
        self._destination = self.path.resolve()  # does not change with the working directory
        self.partial = partial_path(self._destination)
        """The path to write to."""
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
            raise SinkError(f"{self.path}: nothing to resume: {self.partial} does not exist: start without resume=True")
        if not resume:
            remove(self.partial)

    def make_folder(self) -> None:
        """Make the folder that the output is written to.

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
        """Check that the output may still be written to.

        Raises
        ------
        SinkError
            If it was published, aborted or closed, or belongs to the process that this one was forked from.
        """
        if self.state != "open":
            raise SinkError(f"{self.path}: the sink is closed: it was {self.state}")
        if not self._lock.is_held:
            raise SinkError(f"{self.path}: the sink belongs to the process that this one was forked from: write there")

    def publish(self) -> None:
        """Publish the complete output.

        Raises
        ------
        SinkError
            If that cannot be done. The output stays unfinished.
        """
        publish(self._destination, self.kind, overwrite=self.overwrite)
        self._release("finalized")

    def abort(self) -> None:
        """Remove the output, unless it is published, closed or belongs to another process; may be called twice."""
        if self.state == "open":
            try:
                if self._lock.is_held:
                    remove(self.partial)
            finally:
                self._release("aborted")

    def close(self) -> None:
        """Keep the unfinished output, to be resumed by another sink; may be called twice."""
        if self.state == "open":
            self._release("closed")

    def _release(self, state: str) -> None:
        self.state = state
        if self._owns_lock:
            self._lock.release()
