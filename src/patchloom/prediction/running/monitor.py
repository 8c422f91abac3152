"""Reports the progress of a run, and stops the run if its caller asks for it.

Only the main thread of a run reports and asks: it calls functions of the user, which often touch a window. Work of another thread
(the pyramid of an image, in the thread that writes) is counted there, and reported by the main thread while it waits::

    main thread    phase("tiles") ── advance(n) ──► report, ask ── advance(n) ──► …
                                         ▲              │
    write thread   in_background("pyramid") ── advance(n): count; end if the main thread stops
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Protocol, Self

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from patchloom.errors import StoppedError
from patchloom.prediction.running.progress import Clock, Progress, ProgressLines, count_of

SECONDS_BETWEEN_CALLS = 0.1
"""A function of the user is called at most ten times a second, and at the beginning and the end of each phase."""

SECONDS_BETWEEN_POLLS = 0.2
"""While the main thread waits for another one, it reports and asks whether to stop as often as this."""

PATIENCE = 2.0
"""Seconds after which measuring and making a pyramid are shown on standard error; they are often done before."""


class Advance(Protocol):
    """Called after each step with the number of things done in it."""

    def __call__(self, number: int, /) -> None:
        """Count `number` more as done."""


class Stop(Protocol):
    """Something that is asked whether to stop, such as a `threading.Event`."""

    def is_set(self) -> bool:
        """Return whether to stop."""


@dataclass(slots=True)
class _Phase:
    """A part of a run that is counted."""

    label: str
    total: int
    began: float
    model_seconds: Callable[[], float] | None = None
    done: int = 0
    is_shown: bool = False
    lines: ProgressLines = field(default_factory=ProgressLines)
    bar: TaskID | None = None

    def progress(self, now: float) -> Progress:
        elapsed, done = now - self.began, min(self.done, self.total)
        return Progress(
            self.label,
            done,
            self.total,
            elapsed,
            remaining=elapsed * (self.total / done - 1) if done else None,
            device_use=min(1.0, self.model_seconds() / elapsed) if self.model_seconds and elapsed > 0 else None,
            device_memory=_device_memory(),
        )


class RunMonitor:
    """Reports the progress of a run and asks whether to stop; a context manager.

    Parameters
    ----------
    progress : bool or callable
        Whether to show progress on standard error, or a function that is called with a `Progress`.
    stop : Stop, optional
        What is asked whether to stop. If None, the run is not stopped.
    now : callable
        Clock, in seconds.
    console : Console, optional
        Where progress is shown: a bar on a terminal or in a notebook, elsewhere a line every ten seconds. If None, standard
        error.

    Examples
    --------
    >>> seen = []
    >>> with RunMonitor(progress=lambda progress: seen.append((progress.label, progress.done))) as monitor:
    ...     with monitor.phase("tiles", 3) as advance:
    ...         advance(3)
    >>> seen
    [('tiles', 0), ('tiles', 3)]
    """

    def __init__(
        self,
        *,
        progress: bool | Callable[[Progress], Any] = False,
        stop: Stop | None = None,
        now: Clock = time.monotonic,
        console: Console | None = None,
    ) -> None:
        self._report = progress if callable(progress) else None
        self._stop, self._now = stop, now
        self._console = (console or Console(stderr=True)) if progress is True else None
        self._bars: Bars | None = None
        self._last_call = -SECONDS_BETWEEN_CALLS
        self._thread = threading.get_ident()
        self._background: _Phase | None = None
        self._is_stopped = False

    def __enter__(self) -> Self:
        self.check()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._is_stopped = kind is not None
        if self._bars is not None:
            self._bars.stop()

    def check(self) -> None:
        """Ask whether to stop.

        Raises
        ------
        StoppedError
            If so.
        """
        if self._stop is not None and self._stop.is_set():
            self._is_stopped = True  # for the other threads
            raise StoppedError("the run was stopped before it wrote anything: run the same again")

    @contextmanager
    def phase(
        self, label: str, total: int, *, model_seconds: Callable[[], float] | None = None, patience: float = 0.0
    ) -> Iterator[Advance]:
        """Report on a part of the run.

        Parameters
        ----------
        label : str
            See `Progress`.
        total : int
            Number of things to do.
        model_seconds : callable, optional
            Returns the seconds that the model was computing.
        patience : float
            Seconds before anything is shown on standard error.

        Yields
        ------
        callable
            Called after each step with the number of things done in it; it raises a `StoppedError` if the run is to stop before
            all things are done.
        """
        phase = _Phase(label, total, self._now(), model_seconds)
        self._show(phase, patience, is_due=True)

        def advance(number: int) -> None:
            phase.done += number
            self._show(phase, patience)
            if phase.done < total:
                self.check()

        yield advance
        if phase.done < total:  # what a failed image left, or passes that were not needed
            phase.done = total
            self._show(phase, patience)

    def in_background(self, label: str, total: int) -> Advance:
        """Report on work of another thread, while `wait_for` waits for it; it is not shown if it is done soon.

        Parameters
        ----------
        label, total
            As in `phase`.

        Returns
        -------
        callable
            Called after each step, in the other thread, with the number of things done in it; it raises a `StoppedError` if the run
            ends meanwhile.
        """
        phase = self._background = _Phase(label, total, self._now())

        def advance(number: int) -> None:
            phase.done += number
            if threading.get_ident() == self._thread:
                self._poll()
            if self._is_stopped and phase.done < total:
                raise StoppedError("the run was stopped")

        return advance

    def wait_for(self, future: Future[Any]) -> None:
        """Wait for another thread, report on its work and ask whether to stop it.

        Parameters
        ----------
        future : Future
            What the other thread computes.

        Raises
        ------
        StoppedError
            If the run is to stop.
        """
        try:
            while not wait([future], SECONDS_BETWEEN_POLLS).done:
                self._poll()
        except BaseException:  # also Ctrl-C
            self._is_stopped = True
            raise

    def _poll(self) -> None:
        phase = self._background
        if phase is None or phase.done >= phase.total:  # blocks are written soon
            return
        if phase.is_shown or self._now() - phase.began >= PATIENCE:
            self._show(phase, PATIENCE)
        self.check()

    def _show(self, phase: _Phase, patience: float, *, is_due: bool = False) -> None:
        now, is_done = self._now(), phase.done >= phase.total
        if self._report is not None and (is_due or is_done or now - self._last_call >= SECONDS_BETWEEN_CALLS):
            self._last_call = now
            self._report(phase.progress(now))
        if self._console is not None and (phase.is_shown or now - phase.began >= patience):
            phase.is_shown = True
            self._print(phase, phase.progress(now), self._console)

    def _print(self, phase: _Phase, progress: Progress, console: Console) -> None:
        if not (console.is_terminal or console.is_jupyter):
            line = phase.lines.due(progress) if progress.done else None
            if line is not None:
                console.print(line, highlight=False)
            return
        if self._bars is None:
            columns = (BarColumn(), TextColumn("{task.description}"), TimeElapsedColumn(), TimeRemainingColumn())
            self._bars = Bars(*columns, console=console)
            self._bars.start()
        if phase.bar is None:
            phase.bar = self._bars.add_task(count_of(progress), total=phase.total)
        self._bars.update(phase.bar, completed=progress.done, description=count_of(progress))


def _device_memory() -> int | None:
    """Return the bytes that PyTorch holds on GPUs; None if it is not loaded or uses none. Nothing is imported or started."""
    torch = sys.modules.get("torch")
    try:
        if torch is not None and torch.cuda.is_initialized():
            return sum(int(torch.cuda.memory_reserved(device)) for device in range(torch.cuda.device_count()))
        if torch is not None and torch.backends.mps.is_available():
            return int(torch.mps.driver_allocated_memory())
    except (AttributeError, RuntimeError):  # a build without GPUs, or one that is still being imported
        pass
    return None
