"""The tile sizes that a network accepts, found by trying."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import nn

_STEPS = (1, 2, 4, 8, 16, 32, 64)
_MOST_TRIES = 8


class SizeRule(NamedTuple):
    """The sizes that a network accepts: `min_size`, and more by a multiple of `size_step`; `(z,) y, x`, in voxels."""

    min_size: tuple[int, ...]
    size_step: tuple[int, ...]


def find_size_rule(network: nn.Module, in_channels: int, patch_size: Sequence[int]) -> SizeRule | None:
    """Find the tile sizes that a network accepts, without computing anything.

    Parameters
    ----------
    network : Module
        The network.
    in_channels : int
        Number of channels of its input.
    patch_size : sequence of int
        A size that it accepts, `(z,) y, x`, in voxels.

    Returns
    -------
    SizeRule or None
        None if it accepts no other size, or its shapes cannot be computed without its values.

    Examples
    --------
    >>> network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.MaxPool2d(2), nn.Upsample(scale_factor=2))
    >>> find_size_rule(network, 1, (32, 32))
    SizeRule(min_size=(4, 4), size_step=(1, 1))
    >>> find_size_rule(nn.Sequential(nn.Flatten(), nn.Linear(1024, 10)), 1, (32, 32))
    """
    try:
        empty = copy.deepcopy(network).to("meta")
    except Exception:  # noqa: BLE001  # networks may hold anything
        return None

    def accepts(size: Sequence[int]) -> bool:
        try:
            with torch.no_grad():
                empty(torch.empty(1, in_channels, *size, device="meta", dtype=_dtype_of(network)))
        except Exception:  # noqa: BLE001  # networks raise errors of any type
            return False
        return True

    if not accepts(patch_size):
        return None
    rules = [_along(accepts, patch_size, axis) for axis in range(len(patch_size))]
    if None in rules:
        return None
    smallest, steps = zip(*(rule for rule in rules if rule), strict=True)
    return SizeRule(smallest, steps)


def _along(accepts: Callable[[Sequence[int]], bool], patch_size: Sequence[int], axis: int) -> tuple[int, int] | None:
    """Return the smallest size and the step along one axis; None if no other size is accepted."""

    def with_size(size: int) -> list[int]:
        return [size if number == axis else own for number, own in enumerate(patch_size)]

    own = patch_size[axis]
    step = next(
        (step for step in _STEPS if accepts(with_size(own + step)) and accepts(with_size(own + 2 * step))), None
    )
    if step is None:
        return None
    first = own % step or step
    small = next((size for size in range(first, own, step)[:_MOST_TRIES] if accepts(with_size(size))), own)
    return small, step


def _dtype_of(network: nn.Module) -> torch.dtype:
    return next((parameter.dtype for parameter in network.parameters() if parameter.is_floating_point()), torch.float32)
