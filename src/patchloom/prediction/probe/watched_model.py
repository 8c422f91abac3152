"""A model that is run under watch: with a time limit, and with what it prints, fails with and takes recorded."""

from __future__ import annotations

import io
import os
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, redirect_stderr, redirect_stdout
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchloom.errors import ModelError
from patchloom.prediction.models.model import Model
from patchloom.prediction.models.outputs import as_array, as_outputs

Outputs = Mapping[str, NDArray[Any]]
"""`(B, C, (Z), Y, X)`, by the name of the output."""

_SHARE_OF_CALL = 4
"""After the first call, one call may take at most one in so many parts of the time."""

_LOOK_EVERY = 0.002
"""Seconds between two looks at the memory of the process."""


class TimeIsUpError(ModelError):
    """The time of a probe is up, or a call took too long."""


class WatchedModel:
    """A model that is run in a thread of its own, so that a call that never returns is left behind.

    Parameters
    ----------
    model : callable
        The model.
    seconds : float
        Time for all calls together.

    Examples
    --------
    >>> watched = WatchedModel(lambda batch: batch[..., :-2, :-2], seconds=10)
    >>> watched(np.zeros((1, 1, 8, 8)))[""].shape, watched.n_calls
    ((1, 1, 6, 6), 1)
    """

    def __init__(self, model: Model, seconds: float) -> None:
        self.model = model
        self.seconds = seconds
        self.n_calls = 0
        self.printed = ""
        self.hung_at: list[tuple[int, ...]] = []
        self.last_seconds = 0.0
        self.bytes_per_voxel = 0.0
        self._until = time.monotonic() + seconds

    @property
    def seconds_left(self) -> float:
        """Time that is left."""
        return max(0.0, self._until - time.monotonic())

    def __call__(self, batch: NDArray[Any]) -> Outputs:
        """Run the model.

        Raises
        ------
        ModelError
            If the model fails or does not return arrays.
        TimeIsUpError
            If it takes too long, or no time is left.
        """
        limit = self.seconds_left if not self.n_calls else min(self.seconds_left, self.seconds / _SHARE_OF_CALL)
        if limit <= 0:
            raise TimeIsUpError("the time of the probe is up")
        self.n_calls += 1
        size, n_values = tuple(batch.shape[2:]), batch.shape[0] * prod(batch.shape[2:])
        answer: list[Any] = []
        printed = io.StringIO()
        given = batch.copy()  # the model may change it
        thread = threading.Thread(target=_run, args=(self.model, given, answer, _torch_modes()), daemon=True)
        before, started = _resident_bytes(), time.perf_counter()
        with _captured(thread, printed):
            thread.start()
            peak = _wait(thread, limit)
        self.last_seconds = time.perf_counter() - started
        self.printed += printed.getvalue()
        if not answer:
            self.hung_at.append(size)
            raise TimeIsUpError(f"the model did not return within {limit:.1f} s for a tile of {size}")
        self.bytes_per_voxel = max(0, peak - before) / n_values
        if isinstance(answer[0], BaseException):
            raise ModelError(f"{type(answer[0]).__name__}: {answer[0]}") from answer[0]
        return _checked(answer[0], batch)


def _run(
    model: Model, batch: NDArray[Any], answer: list[Any], modes: Callable[[], AbstractContextManager[Any]]
) -> None:
    try:
        with modes():
            answer.append({name: as_array(output) for name, output in as_outputs(model(batch)).items()})
    except BaseException as error:  # noqa: BLE001  # a model may even exit
        answer.append(error)


def _checked(outputs: Outputs, batch: NDArray[Any]) -> Outputs:
    for output in outputs.values():
        if output.ndim != batch.ndim or output.shape[0] != batch.shape[0] or not prod(output.shape):
            raise ModelError(f"the model returned shape {output.shape} for a batch of shape {batch.shape}")
    if not outputs:
        raise ModelError("the model returned no output")
    return outputs


def _wait(thread: threading.Thread, limit: float) -> int:
    """Wait for a thread, and return the largest memory that the process had meanwhile."""
    until, peak = time.monotonic() + limit, _resident_bytes()
    while thread.is_alive() and time.monotonic() < until:
        thread.join(_LOOK_EVERY)
        peak = max(peak, _resident_bytes())
    return peak


def _resident_bytes() -> int:
    """Return the memory that the process has; 0 on systems other than Linux."""
    try:
        return int(Path("/proc/self/statm").read_bytes().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError, AttributeError):
        return 0


def _torch_modes() -> Callable[[], AbstractContextManager[Any]]:
    """Return what gives another thread the modes of PyTorch in this thread, such as that of `torch.no_grad()`."""
    torch: Any = sys.modules.get("torch")
    if torch is None:
        return ExitStack
    with_gradients, for_inference = torch.is_grad_enabled(), torch.is_inference_mode_enabled()

    @contextmanager
    def modes() -> Iterator[None]:
        with torch.inference_mode(for_inference), torch.set_grad_enabled(with_gradients):
            yield

    return modes


class _OfThread(io.TextIOBase):
    """A stream that keeps what one thread writes, and passes on what others write."""

    def __init__(self, thread: threading.Thread, kept: io.StringIO, passed_on: Any) -> None:
        self._thread, self._kept, self._passed_on = thread, kept, passed_on

    def write(self, text: str) -> int:
        if threading.current_thread() is self._thread or self._passed_on is None:
            return self._kept.write(text)
        return int(self._passed_on.write(text))

    def flush(self) -> None:
        if self._passed_on is not None:
            self._passed_on.flush()


@contextmanager
def _captured(thread: threading.Thread, printed: io.StringIO) -> Iterator[None]:
    """Keep what a thread prints, and leave out its warnings: they are shown when the model is used."""
    with (
        redirect_stdout(_OfThread(thread, printed, sys.stdout)),
        redirect_stderr(_OfThread(thread, printed, sys.stderr)),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        yield


def random_tile(
    size: tuple[int, ...], n_channels: int, dtype: np.dtype[Any], *, batch_size: int = 1, seed: int = 0
) -> NDArray[Any]:
    """Return a batch of random numbers, smooth enough to be an image: from 0 to 1, or from 0 to 255 for integers.

    Parameters
    ----------
    size : tuple of int
        Size of a tile, `(z,) y, x` in voxels.
    n_channels : int
        Number of channels.
    dtype : numpy dtype
        Its dtype.
    batch_size : int
        Number of tiles.
    seed : int
        Another seed gives other numbers.
    """
    rng = np.random.default_rng(seed)
    values: NDArray[Any] = rng.random((batch_size, n_channels, *size), np.float32)
    for axis in range(2, values.ndim):
        values = (values + np.roll(values, 1, axis)) / 2
    if dtype.kind == "b":
        return np.asarray(values > values.mean())
    largest = min(255, np.iinfo(dtype).max) if dtype.kind in "iu" else 1
    return np.asarray((values * largest).astype(dtype))
