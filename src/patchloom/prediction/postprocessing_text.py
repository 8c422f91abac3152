"""Postprocessing by their text, as they are written on a command line."""

from __future__ import annotations

from patchloom.argument_checks import shown
from patchloom.errors import ArgumentTypeError, GeometryError
from patchloom.prediction.postprocessing import (
    DTYPES,
    Argmax,
    AsDtype,
    Postprocessing,
    PostprocessingChain,
    SelectChannels,
    Threshold,
)

_HELP = "write argmax, threshold:0.5, threshold:0.5@1 (of channel 1), channels:0,2, uint8 or uint8*255; several as a|b"


def parse_postprocessing(text: str) -> Postprocessing:
    """Read a postprocessing.

    Parameters
    ----------
    text : str
        `argmax`; `threshold:VALUE` or `threshold:VALUE@CHANNEL`; `channels:I,J`; `DTYPE` or `DTYPE*SCALE`; or several of
        these, the first first, with `|` between them. It is what `identity` of a postprocessing gives.

    Returns
    -------
    Postprocessing
        The steps of the text.

    Raises
    ------
    GeometryError
        If it has an unknown step, or a value that is not allowed.

    Examples
    --------
    >>> parse_postprocessing("threshold:0.5"), parse_postprocessing("uint8*255")
    (Threshold(value=0.5, channel=None), AsDtype(dtype=dtype('uint8'), scale=255.0))
    >>> parse_postprocessing("channels:0,2 | argmax").identity
    'channels:0,2|argmax'
    >>> parse_postprocessing("softmax")
    Traceback (most recent call last):
        ...
    patchloom.errors.GeometryError: 'softmax' is not a postprocessing step: write argmax, threshold:0.5, threshold:0.5@1 (of channel 1),
    channels:0,2, uint8 or uint8*255; several as a|b
    """
    if not isinstance(text, str):
        raise ArgumentTypeError(
            f"text is {shown(text)} of type {type(text).__name__}: it must be a postprocessing: {_HELP}"
        )
    steps = tuple(_parse_step(step.strip()) for step in text.split("|"))
    return steps[0] if len(steps) == 1 else PostprocessingChain(steps)


def _parse_step(text: str) -> Postprocessing:
    try:
        return _step(text)
    except GeometryError:  # its own message is more exact
        raise
    except ValueError as error:
        raise GeometryError(f"{shown(text)} is not a postprocessing step: {_HELP}") from error


def _step(text: str) -> Postprocessing:
    name, _, values = text.partition(":")
    dtype, times, scale = text.partition("*")
    if text == "argmax":
        return Argmax()
    if name == "threshold":
        value, at, channel = values.partition("@")
        return Threshold(float(value), int(channel) if at else None)
    if name == "channels":
        return SelectChannels(tuple(int(channel) for channel in values.split(",")))
    if dtype in DTYPES:
        return AsDtype(dtype, float(scale) if times else 1.0)
    raise ValueError(text)
