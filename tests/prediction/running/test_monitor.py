"""A monitor reports the progress of a run, and stops the run."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from io import StringIO
from threading import Event
from typing import Any

import pytest
from rich.console import Console

from patchloom.errors import StoppedError
from patchloom.prediction.running.monitor import PATIENCE, SECONDS_BETWEEN_CALLS, RunMonitor
from patchloom.prediction.running.progress import Progress


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_values(clock: Clock) -> None:
    """A function gets what is done, the time, and how much of it the model took."""
    seen: list[Progress] = []
    with RunMonitor(progress=seen.append, now=clock) as monitor:
        with monitor.phase("tiles", 40, model_seconds=lambda: (clock.now - 100) / 2) as advance:
            clock.now += 5
            advance(10)
            clock.now += 1
            advance(30)
        with monitor.phase("measuring", 7) as advance:
            clock.now += 1
    assert [(found.label, found.done, found.total, found.elapsed, found.remaining) for found in seen] == [
        ("tiles", 0, 40, 0, None),
        ("tiles", 10, 40, 5, 15),
        ("tiles", 40, 40, 6, 0),
        ("measuring", 0, 7, 0, None),
        ("measuring", 7, 7, 1, 0),  # what was not needed counts as done
    ]
    assert [found.device_use for found in seen] == [None, 0.5, 0.5, None, None]
    assert seen[1].fraction == 0.25


def test_rate(clock: Clock) -> None:
    """A function is called at most ten times a second, and at the end."""
    seen: list[int] = []
    with (
        RunMonitor(progress=lambda found: seen.append(found.done), now=clock) as monitor,
        monitor.phase("tiles", 1000) as advance,
    ):
        for _ in range(1000):
            clock.now += SECONDS_BETWEEN_CALLS / 99.5
            advance(1)
    assert seen == [0, *range(100, 1000, 100), 1000]


def test_stop(clock: Clock) -> None:
    """A run stops after the step in which it is told to, unless nothing is left to do."""
    stop = Event()
    with RunMonitor(stop=stop) as monitor, monitor.phase("tiles", 2) as advance:
        advance(1)
        stop.set()
        advance(1)
    with pytest.raises(StoppedError), RunMonitor(stop=stop):
        pytest.fail("it began")
    stop.clear()
    with RunMonitor(stop=stop) as monitor, monitor.phase("tiles", 2) as advance:
        stop.set()
        with pytest.raises(StoppedError):
            advance(1)


@pytest.mark.parametrize("how", ["stop", "Ctrl-C", "callback"])
def test_background(how: str) -> None:
    """Work of another thread is reported in the main thread, and ends when the main thread is told to stop."""
    stop, clock, threads = Event(), Clock(), []
    progresses: list[Progress] = []

    def report(progress: Progress) -> None:
        progresses.append(progress)
        threads.append(threading.get_ident())
        if progress.label == "pyramid":
            if how == "stop":
                stop.set()
            else:
                raise KeyboardInterrupt if how == "Ctrl-C" else ZeroDivisionError

    def work(advance: Any) -> None:
        while True:  # ends only by the error that `advance` raises
            advance(1)
            clock.now += PATIENCE
            time.sleep(0.001)

    expected = {"stop": StoppedError, "Ctrl-C": KeyboardInterrupt, "callback": ZeroDivisionError}[how]
    with ThreadPoolExecutor(1) as executor, RunMonitor(progress=report, stop=stop, now=clock) as monitor:
        future = executor.submit(work, monitor.in_background("pyramid", 10**9))
        with pytest.raises(expected):
            monitor.wait_for(future)
        assert isinstance(future.exception(timeout=60), StoppedError)
    assert {progress.label for progress in progresses} == {"pyramid"}
    assert set(threads) == {threading.get_ident()}


def test_background_in_main_thread(clock: Clock) -> None:
    """Work of the main thread itself is stopped as well."""
    stop = Event()
    with RunMonitor(stop=stop, now=clock) as monitor:
        advance = monitor.in_background("pyramid", 3)
        advance(1)
        stop.set()
        with pytest.raises(StoppedError):
            advance(1)


def console(*, is_terminal: bool) -> Console:
    return Console(file=StringIO(), force_terminal=is_terminal, width=100)


def written(shown: Console) -> str:
    assert isinstance(shown.file, StringIO)
    return shown.file.getvalue()


@pytest.mark.parametrize("is_terminal", [True, False])
def test_patience(is_terminal: bool, clock: Clock) -> None:
    """Measuring is shown only if it takes long, tiles are always shown."""
    for seconds in (PATIENCE / 2, 2 * PATIENCE):
        shown = console(is_terminal=is_terminal)
        with (
            RunMonitor(progress=True, now=clock, console=shown) as monitor,
            monitor.phase("measuring", 2, patience=PATIENCE) as advance,
        ):
            clock.now += seconds / 2
            advance(1)
            clock.now += seconds / 2
            advance(1)
        assert ("measuring" in written(shown)) == (seconds > PATIENCE)
    shown = console(is_terminal=is_terminal)
    with RunMonitor(progress=True, now=clock, console=shown) as monitor, monitor.phase("tiles", 2) as advance:
        advance(2)
    assert "2/2 tiles" in written(shown)
