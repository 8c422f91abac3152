"""Predictions of a batch: arrays of numbers, or an error that names the tiles; the description of a model is used."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from patchloom.errors import ModelError, ModelOutputError, SeriesError
from patchloom.prediction import plan, predict
from patchloom.prediction.models.augmented_model import AugmentedModel
from patchloom.prediction.models.model import ModelDescription
from patchloom.prediction.models.outputs import as_array, as_outputs

TILES: dict[str, Any] = {"axes": "YX", "patch_size": (16, 16), "overlaps": (4, 4), "progress": False}


class Refusing:
    """An object that cannot be converted to an array."""

    shape = (1, 1, 16, 16)

    def __array__(self, *_: Any, **__: Any) -> np.ndarray:
        raise KeyError("no")


class Unreadable(dict):  # type: ignore[type-arg]  # of anything
    def items(self) -> Any:
        raise ValueError("no items")


MISTAKES: dict[str, Callable[[np.ndarray], Any]] = {
    "nothing": lambda _: None,
    "a text": lambda _: "mask",
    "texts": lambda batch: np.full(batch.shape, "a"),
    "objects": lambda batch: batch.astype(object),
    "dates": lambda batch: batch.astype("datetime64[s]"),
    "a ragged list": lambda _: [[1, 2], [3]],
    "lists of arrays of different sizes": lambda batch: [[batch[0], batch[0, :, 1:]]],
    "a generator": lambda batch: (tile for tile in batch),
    "a set": lambda batch: {1, 2},
    "a number": lambda _: 1.0,
    "no tile": lambda batch: batch[:0],
    "one tile too many": lambda batch: np.concatenate([batch, batch[:1]]),
    "no voxel": lambda batch: batch[..., :0],
    "no channel": lambda batch: batch[:, :0],
    "no batch axis": lambda batch: batch[0],
    "one axis too many": lambda batch: batch[..., None],
    "no output": lambda _: {},
    "an empty tuple": lambda _: (),
    "nothing by name": lambda batch: {"mask": None, "flow": batch},
    "names that are one": lambda batch: {1: batch, "1": batch},
    "mappings in a mapping": lambda batch: {"mask": {"inner": batch}},
    "what refuses": lambda _: Refusing(),
    "a list of what refuses": lambda _: [Refusing(), Refusing()],
    "a mapping that cannot be read": lambda batch: Unreadable(mask=batch),
    "its own class": lambda _: np.ndarray,
}


@pytest.mark.parametrize("mistake", MISTAKES)
@pytest.mark.parametrize("batch_size", [1, 3])
def test_mistakes(mistake: str, batch_size: int, rng: np.random.Generator) -> None:
    """A wrong return value is an error that names the tile; other images of a series finish."""
    good, bad = rng.random((40, 30), np.float32), rng.random((40, 30), np.float32)
    bad[30:, 28:] = -1

    def model(batch: np.ndarray) -> Any:
        return MISTAKES[mistake](batch) if batch.min() < 0 else batch

    with pytest.raises(ModelOutputError, match=r"\(24, 14\) of sample 0 of image stack 0"):
        predict(model, bad, batch_size=batch_size, **TILES)
    with pytest.raises(SeriesError, match=r"\(24, 14\) of sample 0 of image stack 1") as caught:
        predict(model, [good, bad, good], keep_going=True, batch_size=batch_size, **TILES)
    first, none, last = caught.value.results
    assert none is None
    np.testing.assert_array_equal([first, last], [good, good])
    with pytest.raises(ModelOutputError, match=r"\(0, 0\) of sample 0 of image stack 0"):
        predict(MISTAKES[mistake], good, **TILES)


CHANGES: dict[str, Callable[[np.ndarray], Any]] = {
    "channels": lambda batch: np.concatenate([batch, batch], 1),
    "dtype": lambda batch: batch.astype(np.float64),
    "size": lambda batch: batch[..., 1:-1, 1:-1],
    "names": lambda batch: {"mask": batch},
    "number of outputs": lambda batch: (batch, batch),
}


@pytest.mark.parametrize("change", CHANGES)
def test_changing_outputs(change: str, rng: np.random.Generator) -> None:
    """Outputs that differ between tiles are an error."""
    image = rng.random((40, 30), np.float32)
    image[30:, 28:] = -1
    with pytest.raises(ModelOutputError, match=r"\(24, 14\) of sample 0.* before"):
        predict(lambda batch: CHANGES[change](batch) if batch.min() < 0 else batch, image, **TILES)


def test_array_likes(rng: np.random.Generator) -> None:
    """Lists, memory views and sequences of arrays are accepted."""
    image = rng.random((20, 30), np.float32)
    Pair = namedtuple("Pair", ["mask", "flow"])  # noqa: PYI024  # as models return them
    for returned in (lambda b: b.tolist(), lambda b: memoryview(np.ascontiguousarray(b))):
        np.testing.assert_allclose(predict(returned, image, **TILES), image)
    with pytest.raises(ModelOutputError, match="returned shape"):  # a list of arrays is a list of outputs
        predict(list, image, **TILES)
    for returned in (lambda b: (b, -b), lambda b: [b, -b], lambda b: Pair(b, -b), lambda b: {0: b, 1: -b}):
        result = predict(returned, image, **TILES)
        assert list(result) == ["0", "1"]
        np.testing.assert_array_equal(result["1"], -image)


def test_tensors(rng: np.random.Generator) -> None:
    """Tensors are detached and copied to the CPU, in every dtype."""
    torch = pytest.importorskip("torch")
    image = rng.random((20, 30), np.float32)
    network = torch.nn.Conv2d(1, 1, 1)
    weight, bias = network.weight.item(), network.bias.item()
    for model in (network, AugmentedModel(lambda batch: network(torch.from_numpy(batch)))):
        result = predict(model if model is not network else lambda b: network(torch.from_numpy(b)), image, **TILES)
        np.testing.assert_allclose(result, image * weight + bias, rtol=1e-5, atol=1e-6)
    for dtype in (torch.bfloat16, torch.float16, torch.float64, torch.uint8, torch.bool):
        result = predict(lambda batch, dtype=dtype: torch.from_numpy(batch * 9).to(dtype), image, **TILES)
        expected = torch.from_numpy(image * 9).to(dtype)
        np.testing.assert_array_equal(result, expected.float().numpy() if dtype == torch.bfloat16 else expected.numpy())
    both = predict(lambda b: (network(torch.from_numpy(b)), torch.from_numpy(b).bfloat16()), image, **TILES)
    assert both["1"].dtype == np.float32
    for fault in (lambda b: torch.from_numpy(b).to("meta"), lambda b: torch.from_numpy(b).to_sparse()):
        with pytest.raises(ModelOutputError, match=r"returned Tensor, which is not an array of numbers .*at \(0, 0\)"):
            predict(fault, image, **TILES)


def test_ml_dtypes(rng: np.random.Generator) -> None:
    """Floats of ml_dtypes become float32."""
    ml_dtypes = pytest.importorskip("ml_dtypes")
    values = rng.random((1, 1, 4, 4)).astype(ml_dtypes.bfloat16)
    assert as_array(values).dtype == np.float32
    np.testing.assert_array_equal(as_array(values), values.astype(np.float64))


def test_equal_names() -> None:
    """Names of outputs that are equal as text are refused."""
    with pytest.raises(ModelOutputError, match=r"keys \[1, '1'\]: return names that differ as text"):
        as_outputs({1: np.zeros(1), "1": np.zeros(1)})


class Declares:
    def __init__(self, **declared: Any) -> None:
        self.description = ModelDescription(**declared)
        self.batches: list[tuple[int, ...]] = []

    def __call__(self, batch: np.ndarray) -> Any:
        self.batches.append(batch.shape)
        return {"image": batch, "halves": np.stack([batch[:, 0], batch[:, 0]], 1)}


@pytest.mark.parametrize("given", [None, 1, 4, 6, 9])
@pytest.mark.parametrize("blend", [None, "hann"])
def test_batch_size(given: int | None, blend: Any, rng: np.random.Generator) -> None:
    """A model is always called with the batch size that it declares."""
    image = rng.random((70, 40), np.float32)
    model = Declares(batch_size=4)
    prepared = plan(image, model=model, axes="YX", patch_size=(16, 16), overlaps=(4, 4))
    assert prepared.layout.batch_size == 4
    assert prepared.n_tiles % 4  # the last batch is filled up
    result = predict(model, image, batch_size=given, blend=blend, **TILES)
    assert {shape[0] for shape in model.batches} == {4}
    np.testing.assert_allclose(result["image"], image, rtol=1e-6)
    np.testing.assert_allclose(result["halves"], [image, image], rtol=1e-6)


def test_origin_multiple(rng: np.random.Generator) -> None:
    """Tiles start on multiples of the declared stride."""
    image = rng.random((3, 70, 90), np.float32)
    options: dict[str, Any] = {"axes": "ZYX", "patch_size": (2, 32, 32)}
    stride = Declares(origin_multiple=(1, 8, 4))
    starts = np.array([spec["coords"] for spec in plan(image, model=stride, **options).tiling])
    assert not (starts % (1, 8, 4)).any()
    assert AugmentedModel(stride).description.origin_multiple == (1, 8, 8)
    assert plan(image, **options).tiling.origin_multiple == (1, 1, 1)


def test_strided_network(
    rng: np.random.Generator,
) -> None:
    """With its stride declared, a network that depends on the grid predicts as on the whole image."""
    image = rng.random((72, 96))

    class Coarse:
        """Means over squares of four, enlarged again: the output depends on where a tile starts."""

        description = ModelDescription(origin_multiple=(4, 4))

        def __call__(self, batch: np.ndarray) -> np.ndarray:
            n, c, y, x = batch.shape
            means = batch.reshape(n, c, y // 4, 4, x // 4, 4).mean((3, 5))
            return means.repeat(4, 2).repeat(4, 3)

    whole = Coarse()(image[None, None])[0, 0]
    for blend in (None, "hann"):
        result = predict(Coarse(), image, axes="YX", patch_size=(20, 28), overlaps=(6, 7), blend=blend, progress=False)
        np.testing.assert_allclose(result, whole, rtol=1e-12)


def test_failing_portion(rng: np.random.Generator) -> None:
    """The error of a model names the tiles of the portion."""

    class Failing:
        description = ModelDescription(batch_size=2)

        def __call__(self, batch: np.ndarray) -> np.ndarray:
            if batch.min() < 0:
                raise RuntimeError("negative")
            return batch

    image = rng.random((40, 30))
    image[30:, 28:] = -1
    with pytest.raises(
        ModelError,
        match=r"the model failed on the tiles? at [^;]*(; [^;]*)?\(24, 14\) of sample 0 of image stack 0: Runtime",
    ):
        predict(Failing(), image, batch_size=6, **TILES)
