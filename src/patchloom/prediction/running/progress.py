"""Progress of a long run, as values and as text, and the time of its stages."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from rich.console import Console

_SECONDS_BETWEEN_LINES = 10.0


@dataclass(frozen=True, slots=True)
class Progress:
    """The progress of a run at one moment, as the function `progress` of `predict` gets it.

    Parameters
    ----------
    label : str
        What is being done: `"measuring"` (voxels whose statistics are measured), `"tiles"` (tiles that go through the model or
        are skipped) or `"pyramid"` (parts of the lower levels of an OME-Zarr).
    done, total : int
        Number of these things that are done, and that are to be done. A resumed run counts only what was left.
    elapsed : float
        Seconds since this began.
    remaining : float, optional
        Seconds that are probably left for this, at the speed so far. None until that is known.
    device_use : float, optional
        Fraction of the time that the model was computing, from 0 to 1; the rest is waiting for reads and writes, and stitching.
        None unless `label` is `"tiles"`, and while a GPU, or one of several devices, computes beside this process: its use is not
        known.
    device_memory : int, optional
        Bytes that PyTorch holds on all GPUs for this process. None if it uses none.

    Examples
    --------
    >>> Progress("tiles", done=30, total=40, elapsed=6.0, remaining=2.0).fraction
    0.75
    """

    label: str
    done: int
    total: int
    elapsed: float
    remaining: float | None = None
    device_use: float | None = None
    device_memory: int | None = None

    @property
    def fraction(self) -> float:
        """The part that is done, from 0 to 1."""
        return self.done / self.total if self.total else 1.0


def warn_user(message: str) -> None:
    """Report in one line what a run does in another way than planned: as a `RuntimeWarning`, in every run."""
    # With a registry of its own, as Python shows a warning only once for each line of code.
    warnings.warn_explicit(message, RuntimeWarning, "patchloom", 1, registry={})


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


def show_text(text: str) -> None:
    """Print a text on standard error.

    Parameters
    ----------
    text : str
        One line or several.
    """
    Console(stderr=True, soft_wrap=True).print(text, highlight=False, markup=False)


class ProgressLines:
    """Plain lines of progress, at most one every ten seconds and one at the end.

    Examples
    --------
    >>> lines = ProgressLines()
    >>> moments = [(1, 5.0), (20, 30.0), (40, 60.0)]
    >>> [lines.due(Progress("tiles", done, 40, elapsed, remaining=30.0)) for done, elapsed in moments]
    [None, '20/40 tiles, 50 %, 0:30 elapsed, about 0:30 left', '40/40 tiles, 100 %, 1:00 elapsed']
    """

    def __init__(self) -> None:
        self._last_line = 0.0

    def due(self, progress: Progress) -> str | None:
        """Return the line that is due, if any."""
        is_finished = progress.done >= progress.total
        if not is_finished and progress.elapsed - self._last_line < _SECONDS_BETWEEN_LINES:
            return None
        self._last_line = progress.elapsed
        line = f"{count_of(progress)}, {int(100 * progress.fraction)} %, {_clock(progress.elapsed)} elapsed"
        if is_finished or progress.remaining is None:
            return line
        return f"{line}, about {_clock(progress.remaining)} left"


def count_of(progress: Progress) -> str:
    """Write what is done: with numbers if it consists of tiles, whose number a user knows."""
    return f"{progress.done}/{progress.total} tiles" if progress.label == "tiles" else progress.label


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

    def of_model(self) -> float:
        """Return the seconds that the model was computing."""
        return self.seconds.get("model", 0.0)

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
