"""A model under watch cannot end the program, print, or keep it waiting."""

from __future__ import annotations

import sys
import threading
from typing import Any

import numpy as np
import pytest
import torch

from patchloom.errors import ModelError
from patchloom.prediction.probe.watched_model import TimeIsUpError, WatchedModel, random_tile

BATCH = np.zeros((1, 1, 8, 8), np.float32)


def test_hanging() -> None:
    """A call that does not return is left behind, and its size is recorded."""
    released = threading.Event()

    def model(batch: np.ndarray) -> np.ndarray:
        released.wait(30)
        return batch

    watched = WatchedModel(model, seconds=0.05)
    with pytest.raises(TimeIsUpError, match="did not return"):
        watched(BATCH)
    with pytest.raises(TimeIsUpError, match="time of the probe is up"):
        watched(BATCH)
    released.set()
    assert watched.hung_at == [(8, 8)]


@pytest.mark.parametrize("error", [ValueError("odd"), SystemExit(3), MemoryError()], ids=["error", "exit", "memory"])
def test_failing(error: BaseException) -> None:
    """Whatever a model raises is an error of the model."""

    def model(batch: np.ndarray) -> np.ndarray:
        raise error

    with pytest.raises(ModelError, match=type(error).__name__):
        WatchedModel(model, seconds=10)(BATCH)


@pytest.mark.parametrize("returned", [None, np.zeros(3), np.zeros((2, 1, 8, 8)), {}, "text"])
def test_wrong_outputs(returned: Any) -> None:
    """What is no batch of images is refused."""
    with pytest.raises(ModelError):
        WatchedModel(lambda batch: returned, seconds=10)(BATCH)


def test_printing(capfd: pytest.CaptureFixture[str]) -> None:
    """What a model prints is kept; what other threads print meanwhile is shown."""

    def model(batch: np.ndarray) -> np.ndarray:
        print("from the model")
        print("its errors", file=sys.stderr)
        other = threading.Thread(target=print, args=("from another thread",))
        other.start()
        other.join()
        return batch

    watched = WatchedModel(model, seconds=10)
    watched(BATCH)
    assert watched.printed == "from the model\nits errors\n"
    shown = capfd.readouterr()
    assert (shown.out, shown.err) == ("from another thread\n", "")


def test_modes_of_torch() -> None:
    """A model runs in the modes of PyTorch in which it was called."""
    layer = torch.nn.Conv2d(1, 1, 3)

    def model(batch: np.ndarray) -> np.ndarray:
        return layer(torch.from_numpy(batch)).numpy()  # fails where gradients are recorded

    with torch.no_grad():
        assert WatchedModel(model, seconds=10)(BATCH)[""].shape == (1, 1, 6, 6)
    with torch.inference_mode():
        assert WatchedModel(model, seconds=10)(BATCH)[""].shape == (1, 1, 6, 6)


def test_batch_is_kept() -> None:
    """A model may change its batch."""

    def model(batch: np.ndarray) -> np.ndarray:
        batch += 1
        return batch

    batch = BATCH.copy()
    WatchedModel(model, seconds=10)(batch)
    assert not batch.any()


@pytest.mark.parametrize("dtype", ["bool", "int8", "uint8", "uint16", "float16", "float64"])
def test_random_tile(dtype: str) -> None:
    """Random tiles have the dtype that was asked for, and stay in its range."""
    tile = random_tile((32, 32), 2, np.dtype(dtype))
    assert (tile.dtype, tile.shape) == (np.dtype(dtype), (1, 2, 32, 32))
    assert tile.min() >= 0
    assert tile.max() > tile.min()
