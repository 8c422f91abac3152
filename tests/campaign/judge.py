"""Make one call with one wrong argument, and describe the faults of its outcome."""

from __future__ import annotations

import inspect
import os
import re
import resource
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from patchloom.errors import PatchloomError

from .entry import Entry

SECONDS = 10
"""Seconds that one call may take."""

MEGABYTES = 400
"""Bytes by which one call may raise the memory of the process."""


class TimeUpError(BaseException):
    """Raised in a call that takes too long; no handler of the library catches it."""


def judge(entry: Entry, argument: str, label: str) -> list[str]:
    """Call an entry with one argument replaced; return the faults of the outcome."""
    function, arguments = entry.make()
    value = entry.kinds[argument].values[label]()
    before = set(_tree())
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    faults: list[str] = []
    with _noises(faults), warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        try:
            with time_limit(SECONDS):
                result = _called(function, {**arguments, argument: value})
                faults.append(f"no error: returned {_short(result)}")
        except PatchloomError as error:
            faults += _faults_of(error, value, {argument, *entry.words.get(argument, ())})
        except TimeUpError:
            faults.append("hang")
        except MemoryError:
            faults.append(f"memory: {_where()}")
        except Exception as error:
            faults.append(f"raw: {type(error).__name__}: {_short(error)} {_where()}")
    faults += [f"warning: {_short(warning.message)}" for warning in warned]
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory) // 1024
    if grown > MEGABYTES:
        faults.append(f"memory: {grown} MB")
    left = sorted(set(_tree()) - before)
    if left:
        faults.append(f"left behind: {left[:4]}")
    return faults


def succeeds(entry: Entry) -> str | None:
    """Call an entry with valid arguments; return the fault, if there is one."""
    function, arguments = entry.make()
    try:
        with time_limit(6 * SECONDS), warnings.catch_warnings():
            warnings.simplefilter("error")
            _called(function, arguments)
    except (Exception, TimeUpError) as error:
        return f"{type(error).__name__}: {error} {_where()}"
    return None


def _called(function: Callable[..., Any], arguments: dict[str, Any]) -> Any:
    """Call a function with arguments by their names, also if it takes them by position only."""
    parameters = inspect.signature(function).parameters.values()
    by_place = [one.name for one in parameters if one.kind is one.POSITIONAL_ONLY]
    return function(
        *(arguments[name] for name in by_place),
        **{name: value for name, value in arguments.items() if name not in by_place},
    )


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Interrupt the main thread after a time, repeatedly, because a handler may swallow the first interrupt."""

    def ring(_number: int, _frame: Any) -> None:
        raise TimeUpError

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds, 1)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def _noises(faults: list[str]) -> Iterator[None]:
    """Count errors that no caller can catch: in threads, and while objects are deleted."""
    in_thread, unraisable = threading.excepthook, sys.unraisablehook
    threading.excepthook = lambda failed: faults.append(f"raw in a thread: {failed.exc_value!r}")
    sys.unraisablehook = lambda failed: faults.append(f"raw, unraisable: {failed.exc_value!r}")
    try:
        yield
    finally:
        threading.excepthook, sys.unraisablehook = in_thread, unraisable


def _faults_of(error: PatchloomError, value: Any, names: set[str]) -> Iterator[str]:
    message = str(error)
    if not isinstance(error, (TypeError, ValueError, IndexError, OSError, RuntimeError)):
        yield f"no built-in: {type(error).__name__}"
    plain = message.replace("-", "_")
    if not any(re.search(rf"(?<![A-Za-z]){name}", plain) for name in names):
        yield f"unnamed: {type(error).__name__}: {_short(message)}"
    elif not message.startswith("Usage:") and not _shows(message, value):  # which typer prints
        yield f"without the value: {type(error).__name__}: {_short(message)}"


def _shows(message: str, value: Any) -> bool:
    """Whether a message shows a value, or its type."""
    if not isinstance(value, (type(None), bool, int, float, complex, str)) or value in (10**30, -(10**30)):
        return True
    texts = {repr(value), str(value), type(value).__name__}
    if isinstance(value, str) and not value:
        return True
    if isinstance(value, str):
        texts |= {value[:20], repr(value[:20])[:-1], value.upper()[:20]}
    if value != value or value == "nan":
        texts.add("NaN")
    if isinstance(value, str):
        texts |= set(re.findall(r"\w+", value)) | _as_dtype(value)
    return any(text in message for text in texts if text) or value is None or not value


def _as_dtype(text: str) -> set[str]:
    """Return a dtype as NumPy writes it, because a message may contain that."""
    try:
        with warnings.catch_warnings(action="ignore"):
            return {str(np.dtype(text))}
    except (TypeError, ValueError, SyntaxError):
        return set()


def _tree() -> Iterator[str]:
    for folder, folders, files in os.walk("."):
        yield from (f"{folder}/{name}" for name in (*folders, *files))


def _short(value: Any) -> str:
    try:
        text = (
            value if isinstance(value, str) else str(value) if isinstance(value, (Exception, Warning)) else repr(value)
        )
    except Exception as error:
        text = f"<no text: {error!r}>"
    text = " ".join(text.split())
    return text if len(text) < 260 else f"{text[:250]} …"


def _where() -> str:
    """Return the innermost line of the library in the traceback of the current error."""
    frames = traceback.extract_tb(sys.exc_info()[2])
    ours = [frame for frame in frames if "patchloom" in frame.filename and "campaign" not in frame.filename]
    return f"[{Path(ours[-1].filename).name}:{ours[-1].lineno}]" if ours else ""


def settle() -> None:
    """Wait for threads that a failed call may have left, a moment at most."""
    until = time.monotonic() + 1
    while threading.active_count() > 1 and time.monotonic() < until:
        time.sleep(0.01)
