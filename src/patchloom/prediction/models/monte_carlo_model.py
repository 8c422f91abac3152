"""Models that draw random numbers, such as networks with dropout: mean and standard deviation of several draws."""

from __future__ import annotations

import hashlib
import inspect
import random
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from patchloom.argument_checks import function, whole_number
from patchloom.digests import array_digest
from patchloom.errors import ModelOutputError
from patchloom.prediction.models.devices import Precision, move_model
from patchloom.prediction.models.model import Model, ModelDescription, check_batch, describe, tensor_device
from patchloom.prediction.models.outputs import as_array, as_outputs, as_pixels
from patchloom.prediction.models.pytorch.torch_model import as_torch_model
from patchloom.tensors.tensor_pixels import (
    Pixels,
    converted,
    copied,
    divided,
    new_pixels,
    on_device,
    pixel_dtype_of,
    square_root,
)

_LOCK = threading.RLock()
"""Held while random numbers are seeded: they are shared by all threads."""

MEAN, STD = "mean", "std"
"""Names of the outputs; after the name of the model's output and `-`, if that has one."""


@runtime_checkable
class HasDropout(Protocol):
    """A model whose dropout can be active while it predicts."""

    def with_dropout(self) -> Model:
        """Return the same model with active dropout."""


@dataclass(frozen=True, slots=True)
class MonteCarloModel:
    """A model whose outputs are the mean and the standard deviation of several draws of a model that draws random numbers.

    Each tile goes through the model `n_draws` times, so prediction takes as many times longer. The layers of a `TorchModel` that
    drop values (`torch.nn.Dropout` and any class with `Drop` in its name) are active in each draw, while all others, such as batch
    normalization, stay in evaluation mode: Monte Carlo dropout (Gal & Ghahramani 2016, https://arxiv.org/abs/1506.02142). Also
    inside `AugmentedModel` and `EnsembleModel`. Any other callable is called `n_draws` times and has to draw by itself.
    `predict(…, n_draws=10)` makes one.

    Parameters
    ----------
    model : callable
        The model.
    n_draws : int
        Number of draws, at least 2.
    seed : int
        Other seeds give other draws.
    postprocess : callable, optional
        What is done to the prediction of each draw, `C(Z)YX`, before it is averaged, such as `Softmax()`.

    Raises
    ------
    ArgumentError
        If `model` is not callable, or a number is not allowed.

    Notes
    -----
    There are two outputs, `"mean"` and `"std"`, in float32. If the model has outputs with names, these come before: `"flow-mean"`.
    The standard deviation is that of the draws of a tile, divided by their number (as `numpy.std`). Where tiles are blended, it is
    the weighted mean of the standard deviations of the tiles; it is not that of blended draws, which is smaller, because tiles
    draw independently. Moments are updated in float64 draw by draw (Welford 1962, https://doi.org/10.1080/00401706.1962.10490022),
    so memory does not depend on the number of draws.

    Before each draw, the random numbers of PyTorch, NumPy and Python are seeded with a digest of the seed, the batch and the
    number of the draw, and their state is restored afterwards. If the callable has a parameter `rng`, it gets a
    `numpy.random.Generator` seeded in the same way. So the same batch gives the same result in any process, on a machine of the same
    kind. Another `batch_size` gives other draws. These random numbers belong to the process, so several devices draw in turn.

    Examples
    --------
    >>> def noisy(batch, rng):
    ...     return batch + rng.normal(0, 3, batch.shape)
    >>> drawn = MonteCarloModel(noisy, n_draws=400)(np.full((1, 1, 64, 64), 7.0))
    >>> round(float(drawn["mean"].mean()), 1), round(float(drawn["std"].mean()), 1)
    (7.0, 3.0)
    """

    model: Model
    n_draws: int = 10
    seed: int = 0
    postprocess: Callable[[NDArray[Any]], NDArray[Any]] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "model", with_dropout(as_torch_model(function("model", self.model))))
        object.__setattr__(self, "n_draws", whole_number("n_draws", self.n_draws, least=2, most=2**31))
        object.__setattr__(self, "seed", whole_number("seed", self.seed, least=0))
        if self.postprocess is not None:
            function("postprocess", self.postprocess)

    @property
    def description(self) -> ModelDescription:
        """The description of the model; its outputs are inferred, as they have names."""
        declared = describe(self.model)
        identity = f"{declared.identity}, {self.n_draws} draws with seed {self.seed}"
        described = replace(declared, out_channels=None, out_dtype=None, postprocess=None, identity=identity)
        return (
            described if self.postprocess is None else replace(described, out_channel_names=(), out_channel_colors=())
        )

    def on(self, device: str | None, precision: Precision | None, /) -> MonteCarloModel:
        """Return the model on a device; see `RunsOnDevice`."""
        return replace(self, model=move_model(self.model, device, precision))

    def __call__(self, batch: NDArray[Any], /) -> Any:
        """Predict a batch; see `Model`.

        Raises
        ------
        ModelOutputError
            If the model returns integers or truth values, or draws have different outputs or sizes.
        """
        check_batch(batch)
        digest = array_digest(batch)
        moments: dict[str, _Moments] = {}
        pixels = on_device(batch, tensor_device(self.model))
        for draw in range(self.n_draws):
            drawn = self._draw(pixels, _seed_of(self.seed, digest, draw))
            if draw and drawn.keys() != moments.keys():
                raise ModelOutputError(
                    f"the model returned the outputs {sorted(moments)} and {sorted(drawn)} in two draws: return the same in all"
                )
            for name, values in drawn.items():
                moments.setdefault(name, _Moments()).add(values)
        if (
            len(batch)
            and batch.min() != batch.max()
            and not any(of_output.has_spread for of_output in moments.values())
        ):
            warnings.warn(
                f"all {self.n_draws} draws of a batch are equal: n_draws is for models that draw random numbers, such as a "
                "torch.nn.Module with dropout layers",
                UserWarning,
                stacklevel=2,
            )
        outputs = {}
        for name, of_output in moments.items():
            prefix = f"{name}-" if name else ""
            outputs[prefix + MEAN], outputs[prefix + STD] = of_output.mean_and_std()
        return outputs

    def _draw(self, batch: Pixels, seed: int) -> dict[str, Pixels]:
        """Predict a batch once."""
        rng = {"rng": np.random.default_rng(seed)} if _takes_rng(self.model) else {}
        is_known = "torch" in sys.modules
        with seeded(seed):
            returned = self.model(copied(batch), **rng)
        if not is_known and "torch" in sys.modules:  # imported by the model just now, so that it was not seeded
            return self._draw(batch, seed)
        outputs = as_outputs(returned)
        if self.postprocess is None:
            return {name: as_pixels(output, tensor_device(self.model)) for name, output in outputs.items()}
        return {
            name: np.stack([self.postprocess(tile) for tile in as_array(output)]) for name, output in outputs.items()
        }


class _Moments:
    """Mean and variance of arrays that are added one after the other."""

    def __init__(self) -> None:
        self._count = 0
        self._mean: Pixels = np.zeros(0)
        self._squares: Pixels = np.zeros(0)

    def add(self, values: Pixels) -> None:
        """Add an array of floats."""
        dtype = pixel_dtype_of(values)
        if dtype.kind != "f":
            raise ModelOutputError(
                f"the model returned {dtype} for a draw, and only floats have a mean and a standard deviation here: return "
                "probabilities instead of labels, and leave postprocessing that makes labels out"
            )
        new = copied(values, np.dtype(np.float64))
        self._count += 1
        if self._count == 1:
            self._mean, self._squares = new, new_pixels(tuple(new.shape), np.dtype(np.float64), like=new)
            self._squares[...] = 0
            return
        if new.shape != self._mean.shape:
            raise ModelOutputError(
                f"the model returned shapes {tuple(self._mean.shape)} and {tuple(new.shape)} in two draws: return the same in all"
            )
        change = new - self._mean
        self._mean += divided(change, self._count)
        new -= self._mean
        new *= change
        self._squares += new

    @property
    def has_spread(self) -> bool:
        """Whether not all arrays are equal."""
        return bool(self._squares.any())

    def mean_and_std(self) -> tuple[Pixels, Pixels]:
        """Return the mean and the standard deviation."""
        std = square_root(divided(self._squares, self._count))
        return converted(self._mean, np.dtype(np.float32)), converted(std, np.dtype(np.float32))


def with_dropout(model: Model) -> Model:
    """Return a model with active dropout: a network, or those inside a model that is made of models.

    Parameters
    ----------
    model : callable
        The model; one without dropout is returned as it is.
    """
    if isinstance(model, HasDropout) and not isinstance(model, type):
        return model.with_dropout()
    if not is_dataclass(model) or isinstance(model, type):
        return model
    changes = {}
    for entry in fields(model):
        held = getattr(model, entry.name)
        active = tuple(map(with_dropout, held)) if isinstance(held, tuple) else with_dropout(held)
        is_changed = active is not held and active != held
        if entry.init and is_changed:
            changes[entry.name] = active
    changed: Model = replace(model, **changes) if changes else model
    return changed


def _takes_rng(model: Model) -> bool:
    try:
        return "rng" in inspect.signature(model).parameters
    except (TypeError, ValueError):  # a function that is not written in Python
        return False


def _seed_of(seed: int, digest: str, draw: int) -> int:
    """Return a seed of 63 bits."""
    return int.from_bytes(hashlib.sha256(f"{seed} {digest} {draw}".encode()).digest()[:8]) >> 1


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the random numbers of Python, NumPy and PyTorch, and restore their states afterwards.

    Parameters
    ----------
    seed : int
        A number of up to 63 bits.

    Examples
    --------
    >>> with seeded(3):
    ...     first = random.random(), np.random.rand()
    >>> with seeded(3):
    ...     (random.random(), np.random.rand()) == first
    True
    """
    with _LOCK:
        of_python, of_numpy = random.getstate(), np.random.get_state()  # noqa: NPY002  # the state that models use
        restore_torch = _seed_torch(seed)
        random.seed(seed)
        np.random.seed(seed & 0xFFFFFFFF)  # noqa: NPY002
        try:
            yield
        finally:
            random.setstate(of_python)
            np.random.set_state(of_numpy)  # noqa: NPY002
            restore_torch()


def _seed_torch(seed: int) -> Callable[[], None]:
    """Seed PyTorch on all devices, if it is loaded; return what restores its states."""
    torch = sys.modules.get("torch")
    if torch is None:
        return lambda: None
    of_cpu = torch.get_rng_state()
    of_gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    of_mps = torch.mps.get_rng_state() if torch.backends.mps.is_available() else None
    torch.manual_seed(seed)

    def restore() -> None:
        torch.set_rng_state(of_cpu)
        if of_gpus:
            torch.cuda.set_rng_state_all(of_gpus)
        if of_mps is not None:
            torch.mps.set_rng_state(of_mps)

    return restore
