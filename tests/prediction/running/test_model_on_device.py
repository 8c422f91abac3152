"""Batches that do not fit into the memory of a device: halved, with a warning, and to the same bytes."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import patchloom as pl

OPTIONS: dict[str, Any] = {"axes": "YX", "patch_size": 16, "overlaps": 6, "progress": False}


def torch_error() -> Exception:
    torch = pytest.importorskip("torch")
    return torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")


def wrapped() -> Exception:
    error = RuntimeError("the network failed")
    error.__cause__ = MemoryError("no")
    return error


ERRORS: dict[str, Callable[[], Exception]] = {
    "PyTorch": torch_error,
    "Python": lambda: MemoryError("Unable to allocate 3. GiB"),
    "onnxruntime": lambda: RuntimeError(
        "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : BFCArena::AllocateRawInternal Failed to allocate memory for requested buffer"
    ),
    "PyTorch on a CPU": lambda: RuntimeError(
        "DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"
    ),
    "an error around it": wrapped,
}


class Limited:
    """A model that changes its batch, and then runs out of memory if it has too many tiles."""

    def __init__(self, limit: int, error: Callable[[], Exception]) -> None:
        self.limit, self.error = limit, error
        self.sizes: list[int] = []

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        self.sizes.append(len(batch))
        batch += 1
        if len(batch) > self.limit:
            raise self.error()
        return np.sqrt(batch)


@pytest.fixture
def image(rng: np.random.Generator) -> np.ndarray:
    return rng.random((90, 80), np.float32)


@pytest.mark.parametrize("name", ERRORS)
@pytest.mark.parametrize("blend", [None, "hann"])
def test_halved(name: str, blend: Any, image: np.ndarray) -> None:
    """The batch is halved until it fits, once for the whole run; pixels that the model changed are read again."""
    model = Limited(3, ERRORS[name])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = pl.predict(model, image, batch_size=8, blend=blend, **OPTIONS)
    said = [str(warning.message) for warning in caught if issubclass(warning.category, RuntimeWarning)]
    assert said == [
        f"a batch of {tiles} tiles does not fit into the memory of the device: from now on, the model is run on {half} at once, "
        f"although batch_size is 8"
        for tiles, half in ((8, 4), (4, 2))
    ]
    assert model.sizes[1:4] == [8, 4, 2]
    assert max(model.sizes[3:]) == 2
    assert (
        result.tobytes() == pl.predict(lambda b: np.sqrt(b + 1), image, batch_size=2, blend=blend, **OPTIONS).tobytes()
    )


def test_said_in_every_run(image: np.ndarray) -> None:
    """A second run says it again, also if a warning is shown once only."""
    for _ in range(2):
        with pytest.warns(RuntimeWarning, match="from now on, the model is run on 4 at once"):
            pl.predict(Limited(4, ERRORS["Python"]), image, batch_size=8, **OPTIONS)


def test_down_to_one(image: np.ndarray) -> None:
    """If one tile does not fit, the error says what to do."""

    class Shrinking(Limited):
        def __call__(self, batch: np.ndarray) -> np.ndarray:
            if len(self.sizes) > 3:
                self.limit = 0
            return super().__call__(batch)

    with (
        pytest.warns(RuntimeWarning, match="at once"),
        pytest.raises(
            pl.ModelError, match=r"too small for the tile at \(.*use a smaller patch_size.*Unable to allocate"
        ),
    ):
        pl.predict(Shrinking(8, ERRORS["Python"]), image, batch_size=4, **OPTIONS)


def test_fixed_batch_size(image: np.ndarray) -> None:
    """A model that takes one batch size only cannot be given fewer tiles."""

    class Fixed(Limited):
        description = pl.ModelDescription(batch_size=4)

        def __call__(self, batch: np.ndarray) -> np.ndarray:
            self.limit = 4 if len(self.sizes) < 3 else 0
            return super().__call__(batch)

    with pytest.raises(pl.ModelError, match="takes batches of 4 tiles only"):
        pl.predict(Fixed(4, ERRORS["Python"]), image, **OPTIONS)


def test_other_errors(image: np.ndarray) -> None:
    """Any other error ends the run at once."""
    model = Limited(1, lambda: RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    with pytest.raises(pl.ModelError, match="cannot be multiplied"):
        pl.predict(model, image, batch_size=4, **OPTIONS)
    assert model.sizes == [1, 4]


def test_tensors(image: np.ndarray) -> None:
    """A model on a device gets the batch again, and its predictions stay on the device."""
    torch = pytest.importorskip("torch")

    class OnDevice(Limited):
        tensor_device = "cpu"

        def __call__(self, batch: Any) -> Any:
            array = batch if isinstance(batch, np.ndarray) else batch.numpy()
            return torch.from_numpy(super().__call__(array))

    with pytest.warns(RuntimeWarning, match="at once"):
        result = pl.predict(OnDevice(3, ERRORS["PyTorch"]), image, batch_size=8, blend="hann", **OPTIONS)
    expected = pl.predict(lambda b: np.sqrt(b + 1), image, batch_size=8, blend="hann", **OPTIONS)
    assert result.tobytes() == expected.tobytes()


def test_stored_image(image: np.ndarray, tmp_path: Any) -> None:
    """Images that are read ahead are read again, too."""
    np.save(tmp_path / "image.npy", image)
    with pytest.warns(RuntimeWarning, match="at once"):
        result = pl.predict(Limited(3, ERRORS["Python"]), tmp_path / "image.npy", batch_size=8, **OPTIONS)
    assert result.tobytes() == pl.predict(lambda b: np.sqrt(b + 1), image, batch_size=8, **OPTIONS).tobytes()


@pytest.mark.parametrize("blend", [None, "hann"])
@pytest.mark.parametrize("wrap", [lambda model: model, lambda model: pl.AugmentedModel(model, quarter_turns=False)])
def test_range_of_float16(wrap: Any, blend: Any) -> None:
    """Values too large for float16 are refused before their block is written, with the message that arrays get."""
    torch = pytest.importorskip("torch")
    half = pl.TorchModel(torch.nn.Conv2d(1, 1, 3, padding=1).half())

    class OnDevice:
        tensor_device = "cpu"
        description = half.description

        def __call__(self, batch: Any) -> Any:
            return half(batch)

    image = np.full((70, 50), 60_000, np.uint16)
    options = {**OPTIONS, "blend": blend, "batch_size": 2}
    results = [pl.predict(wrap(model), image, **options) for model in (half, OnDevice())]
    assert results[0].tobytes() == results[1].tobytes()
    image[60, 40] = 65_535
    messages = []
    for model in (half, OnDevice()):
        with pytest.raises(pl.ModelError, match="has the value 65535, and float16 ends") as caught:
            pl.predict(wrap(model), image, **options)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]
