"""Evaluation mode while a network predicts; afterwards each of its parts is in its own mode again, also between threads."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

_LOCK = threading.Lock()
_held: dict[int, tuple[Any, int]] = {}
"""Parts that were in training mode, and the number of calls that hold them in evaluation mode, by address."""


@contextmanager
def evaluation_mode(parts: Sequence[Any]) -> Iterator[None]:
    """Put the parts of a network in evaluation mode, and back into training mode if they were in it before.

    Several threads may use the same parts: they are put back when the last thread leaves. Nothing but the attribute `training` is
    changed, as `module.eval()` of a subclass may do more.

    Parameters
    ----------
    parts : sequence of torch.nn.Module
        The network and all modules inside.

    Examples
    --------
    >>> import torch
    >>> dropout = torch.nn.Dropout()
    >>> with evaluation_mode([dropout]):
    ...     dropout.training
    False
    >>> dropout.training
    True
    """
    mine = _hold(parts)
    try:
        yield
    finally:
        if mine:
            _release(mine)


@contextmanager
def drawing_mode(parts: Sequence[Any]) -> Iterator[None]:
    """Put the parts of a network in evaluation mode, except for layers that drop values at random, which are active.

    Parameters
    ----------
    parts : sequence of torch.nn.Module
        The network and all modules inside.

    Examples
    --------
    >>> import torch
    >>> layers = torch.nn.Dropout(), torch.nn.BatchNorm2d(4)
    >>> with drawing_mode(layers):
    ...     [layer.training for layer in layers]
    [True, False]
    """
    with evaluation_mode(parts):
        active = [part for part in parts if hasattr(part, "training") and _drops_values(part)]
        for part in active:
            part.training = True
        try:
            yield
        finally:
            for part in active:
                part.training = False


def _drops_values(part: Any) -> bool:
    """Return whether a layer drops values in training mode, by the name of its class; TorchScript keeps that name."""
    names = [getattr(part, "original_name", ""), *(kind.__name__ for kind in type(part).__mro__)]
    return any("Drop" in name or name == "StochasticDepth" for name in names)


def _hold(parts: Sequence[Any]) -> list[Any]:
    with _LOCK:
        # Frozen TorchScript modules have no mode.
        mine = [part for part in parts if getattr(part, "training", False) or id(part) in _held]
        for part in mine:
            _, n_calls = _held.get(id(part), (part, 0))
            _held[id(part)] = part, n_calls + 1
            part.training = False
    return mine


def _release(mine: Sequence[Any]) -> None:
    with _LOCK:
        for part in mine:
            _, n_calls = _held.pop(id(part))
            if n_calls > 1:
                _held[id(part)] = part, n_calls - 1
            else:
                part.training = True
