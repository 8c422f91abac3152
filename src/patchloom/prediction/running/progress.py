"""Progress of a long run, and the time of its stages."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

_SECONDS_BETWEEN_LINES = 10.0


class Advance(Protocol):
    """Called after each step with the number of things done in it."""

    def __call__(self, number: int, /) -> None:
        """Count `number` more as done."""


@contextmanager
def show_progress(label: str, total: int, *, shown: bool) -> Iterator[Advance]:
    """Show progress on standard error: a bar on a terminal or in a notebook, elsewhere a line every ten seconds.

    Parameters
    ----------
    label : str
        Name of the things that are counted, such as `"tiles"`.
    total : int
        Number of them.
    shown : bool
        Whether to show anything.

    Yields
    ------
    callable
        Called after each step with the number of things done in it.
    """
    if not shown:
        yield lambda _number: None
        return
    console = Console(stderr=True)
    if console.is_terminal or console.is_jupyter:
        columns = (BarColumn(), MofNCompleteColumn(), TextColumn(label), TimeElapsedColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console) as bar:
            task = bar.add_task(label, total=total)
            yield lambda number: bar.advance(task, number)
        return
    lines = ProgressLines(label, total, now=time.monotonic)

    def print_line(number: int) -> None:
        for line in lines.advance(number):
            console.print(line, highlight=False)

    yield print_line


def show_summary(seconds: Mapping[str, float], n_skipped: int, n_tiles: int) -> None:
    """Print the time of each stage of a run and the number of skipped tiles on standard error.

    Parameters
    ----------
    seconds : mapping of str to float
        Seconds of each stage.
    n_skipped, n_tiles : int
        Number of tiles that were skipped, and of all tiles.
    """
    parts = [f"{stage} {spent:.1f} s" for stage, spent in seconds.items()]
    if n_skipped:
        parts.append(f"{n_skipped} of {n_tiles} tiles skipped")
    if parts:
        Console(stderr=True, soft_wrap=True).print(", ".join(parts), highlight=False)


class ProgressLines:
    """Plain lines of progress, at most one every ten seconds and one at the end.

    Parameters
    ----------
    label : str
        Name of the things that are counted.
    total : int
        Number of them.
    now : callable
        Clock, in seconds.

    Examples
    --------
    >>> seconds = iter([0.0, 5.0, 30.0, 60.0])
    >>> lines = ProgressLines("tiles", 40, now=lambda: next(seconds))
    >>> [list(lines.advance(number)) for number in (1, 19, 20)]
    [[], ['20/40 tiles, 50 %, 0:30 elapsed, about 0:30 left'], ['40/40 tiles, 100 %, 1:00 elapsed']]
    """

    def __init__(self, label: str, total: int, now: Clock) -> None:
        self._label, self._total, self._now = label, total, now
        self._done = 0
        self._started = self._last_line = now()

    def advance(self, number: int) -> Iterator[str]:
        """Count `number` more as done, and yield the line that is due, if any."""
        self._done += number
        now = self._now()
        finished = self._done >= self._total
        if not finished and now - self._last_line < _SECONDS_BETWEEN_LINES:
            return
        self._last_line = now
        elapsed = now - self._started
        line = (
            f"{self._done}/{self._total} {self._label}, {100 * self._done // self._total} %, {_clock(elapsed)} elapsed"
        )
        yield line if finished else f"{line}, about {_clock(elapsed * (self._total / self._done - 1))} left"


class StageTimes:
    """Seconds that the main thread spent in each stage.

    Reading and writing have threads of their own: their stages contain only the time that the main thread waited for them. A
    stage that begins within another interrupts it, so no second counts twice.

    Parameters
    ----------
    now : callable
        Clock, in seconds.

    Examples
    --------
    >>> times = StageTimes()
    >>> with times.spent("model"):
    ...     pass
    >>> list(times.seconds)
    ['model']
    """

    def __init__(self, now: Clock = time.perf_counter) -> None:
        self.seconds: dict[str, float] = {}
        self._now = now
        self._stage: str | None = None
        self._since = 0.0

    @contextmanager
    def spent(self, stage: str) -> Iterator[None]:
        """Count the time of a block of code to a stage."""
        outer = self._switch(stage)
        try:
            yield
        finally:
            self._switch(outer)

    def _switch(self, stage: str | None) -> str | None:
        """Begin a stage; return the one before it."""
        now, before = self._now(), self._stage
        if before is not None:
            self.seconds[before] = self.seconds.get(before, 0.0) + now - self._since
        self._stage, self._since = stage, now
        return before


class Clock(Protocol):
    """A source of time."""

    def __call__(self) -> float:
        """Return seconds since some fixed moment."""


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
