"""Sequences of postprocessing steps, and their text, as on the command line."""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchloom.argument_checks import instances, shown
from patchloom.errors import ArgumentTypeError, GeometryError
from patchloom.prediction.postprocessing.activations import Sigmoid, Softmax
from patchloom.prediction.postprocessing.labels import MakesLabels
from patchloom.prediction.postprocessing.steps import (
    DTYPES,
    Argmax,
    AsDtype,
    Postprocessing,
    SelectChannels,
    Threshold,
    check_block,
)

_HELP = (
    "choose one of argmax, threshold:0.5, threshold:0.5@1 (of channel 1), sigmoid, softmax, channels:0,2, uint8 and uint8*255; "
    "several as a|b"
)

_WITHOUT_VALUES: dict[str, Postprocessing] = {step.identity: step for step in (Argmax(), Sigmoid(), Softmax())}


@dataclass(frozen=True, slots=True)
class PostprocessingChain:
    """A sequence of postprocessing steps.

    Parameters
    ----------
    steps : sequence of Postprocessing
        The steps, in the order in which they are applied; at least one.

    Raises
    ------
    GeometryError
        If there are no steps.

    Examples
    --------
    >>> chain = PostprocessingChain((SelectChannels((1,)), AsDtype("uint8", 255)))
    >>> chain.identity, chain.output(3, np.dtype("float32"))
    ('channels:1|uint8*255.0', (1, dtype('uint8')))
    """

    steps: tuple[Postprocessing, ...]

    def __post_init__(self) -> None:
        steps = instances("steps", self.steps, Postprocessing, "a sequence of postprocessing steps")
        if not steps:
            raise GeometryError("steps is empty: give at least one step")
        object.__setattr__(self, "steps", tuple(steps))

    @property
    def identity(self) -> str:
        """The step as text, which `parse_postprocessing` reads."""
        return "|".join(step.identity for step in self.steps)

    @property
    def makes_labels(self) -> bool:
        """True if a step makes labels; later steps only select channels or convert them."""
        return any(isinstance(step, MakesLabels) and step.makes_labels for step in self.steps)

    def output(self, n_channels: int, dtype: np.dtype[Any]) -> tuple[int, np.dtype[Any]]:
        """Return channels and dtype of the result; see `Postprocessing.output`."""
        for step in self.steps:
            n_channels, dtype = step.output(n_channels, dtype)
        return n_channels, dtype

    def __call__(self, block: NDArray[Any], /) -> NDArray[Any]:
        """Process a block; see `Postprocessing`."""
        check_block(block)
        self.output(len(block), block.dtype)
        return reduce(lambda processed, step: step(processed), self.steps, block)


def parse_postprocessing(text: str) -> Postprocessing:
    """Parse a text into postprocessing steps.

    Parameters
    ----------
    text : str
        `argmax`, `sigmoid` or `softmax`; `threshold:VALUE` or `threshold:VALUE@CHANNEL`; `channels:I,J`; `DTYPE` or `DTYPE*SCALE`;
        or several of these with `|` between them, in the order in which they are applied. It is the `identity` of the result.

    Returns
    -------
    Postprocessing
        The step, or a `PostprocessingChain` of several.

    Raises
    ------
    GeometryError
        If a step is unknown, or one of its values is not allowed.

    Examples
    --------
    >>> parse_postprocessing("threshold:0.5"), parse_postprocessing("uint8*255")
    (Threshold(value=0.5, channel=None), AsDtype(dtype=dtype('uint8'), scale=255.0))
    >>> parse_postprocessing("channels:0,2 | argmax").identity
    'channels:0,2|argmax'
    >>> parse_postprocessing("relu")
    Traceback (most recent call last):
        ...
    patchloom.errors.GeometryError: 'relu' is not a postprocessing step: choose one of argmax, threshold:0.5, threshold:0.5@1 (of
    channel 1), sigmoid, softmax, channels:0,2, uint8 and uint8*255; several as a|b
    """
    if not isinstance(text, str):
        raise ArgumentTypeError(f"text is {shown(text)} of type {type(text).__name__}: it must be a text; {_HELP}")
    steps = tuple(_parse_step(step.strip()) for step in text.split("|"))
    return steps[0] if len(steps) == 1 else PostprocessingChain(steps)


def _parse_step(text: str) -> Postprocessing:
    try:
        return _step(text)
    except GeometryError:  # its own message is more precise
        raise
    except ValueError as error:
        raise GeometryError(f"{shown(text)} is not a postprocessing step: {_HELP}") from error


def _step(text: str) -> Postprocessing:
    name, _, values = text.partition(":")
    dtype, times, scale = text.partition("*")
    if text in _WITHOUT_VALUES:
        return _WITHOUT_VALUES[text]
    if name == "threshold":
        value, at, channel = values.partition("@")
        return Threshold(float(value), int(channel) if at else None)
    if name == "channels":
        return SelectChannels(tuple(int(channel) for channel in values.split(",")))
    if dtype in DTYPES:
        return AsDtype(dtype, float(scale) if times else 1.0)
    raise ValueError(text)
