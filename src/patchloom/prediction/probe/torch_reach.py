"""How far a network of PyTorch looks: half of a tile is NaN, and the output voxels that become NaN depend on that half.

Along one axis the tile is long, along the others a few strides. The edge of the half moves through all phases of
the stride::

    input     1 1 1 1 1 1 1 N N N N N N N        the edge is at 7
    output    1 1 1 1 N N N N N N N N N N        voxel 4 depends on voxel 7 or a later one: it looks at least 3 voxels after it

NaN passes through any arithmetic, also through dead activations and where values cancel. The other half shows the reach before.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from patchloom._optional import require
from patchloom.prediction.models.pytorch.evaluation_mode import evaluation_mode
from patchloom.prediction.models.pytorch.network_facts import typical_weight
from patchloom.prediction.probe.report import Method, Reach, Undecided

_SLAB = 4
"""Size of the other axes, in strides: kernels that are dilated or lopsided do not see a tile of one voxel."""

Mask = NDArray[np.bool_]

Probe = Callable[[tuple[int, ...], int, slice], list[Mask]]
"""Returns, for a tile of some size, the voxels of each output along an axis that depend on a part of the tile."""


class SizeFacts(NamedTuple):
    """What is known of the sizes that a network accepts, along one axis."""

    least: int
    step: int
    stride: int
    scale: tuple[Fraction, ...]
    """Of each output."""

    margin: tuple[Fraction, ...]
    """Of each output."""


class _TimeIsUpError(Exception):
    """The time limit is reached."""


def torch_reach(
    module: Any, n_channels: int, sizes: Sequence[SizeFacts], *, seconds: float = 20.0, largest: int = 2**22
) -> tuple[Reach, ...] | Undecided:
    """Find how far each output of a network looks.

    Parameters
    ----------
    module : torch.nn.Module
        The network. It is run in evaluation mode, and left in its own mode.
    n_channels : int
        Number of channels of its input.
    sizes : sequence of SizeFacts
        The sizes that it accepts, `(z,) y, x`.
    seconds : float
        Time limit.
    largest : int
        Largest number of voxels of a tile.

    Returns
    -------
    tuple of Reach, or Undecided
        One for each output, in the order of its tensors.

    Examples
    --------
    >>> import torch
    >>> facts = SizeFacts(1, 1, 1, (Fraction(1),), (Fraction(0),))
    >>> torch_reach(torch.nn.Conv2d(1, 1, (3, 5), padding=(1, 2)), 1, [facts, facts])[0].context
    ((1, 1), (2, 2))
    """
    torch = require("torch", extra="torch")
    weight = typical_weight(module)
    like = torch.zeros((), dtype=torch.float32) if weight is None else weight

    def probe(shape: tuple[int, ...], axis: int, part: slice) -> list[Mask]:
        tile = torch.rand((1, n_channels, *shape), generator=torch.Generator().manual_seed(0)).to(like)
        tile[(slice(None),) * (2 + axis) + (part,)] = float("nan")
        with evaluation_mode(tuple(module.modules())), torch.no_grad():
            predicted = module(tile)
        tensors = predicted if isinstance(predicted, (list, tuple)) else [predicted]
        others = [other for other in range(2 + len(shape)) if other != 2 + axis]
        return [torch.isnan(tensor).any(dim=other_axes(tensor, others)).cpu().numpy() for tensor in tensors]

    def other_axes(tensor: Any, others: Sequence[int]) -> list[int]:
        if tensor.dim() != 2 + len(sizes):
            raise NoImageError
        return list(others)

    return half_space_reach(probe, sizes, "NaN", seconds=seconds, largest=largest)


class NoImageError(Exception):
    """An output is not an image."""


def half_space_reach(
    probe: Probe,
    sizes: Sequence[SizeFacts],
    method: Method,
    *,
    seconds: float,
    largest: int,
    is_lower_bound: bool = False,
) -> tuple[Reach, ...] | Undecided:
    """Find the reach from output voxels that depend on halves of tiles.

    Parameters
    ----------
    probe : callable
        Returns the output voxels that depend on a part of a tile.
    sizes : sequence of SizeFacts
        The sizes that the network accepts, `(z,) y, x`.
    method : {"NaN", "noise"}
        Name of the method.
    seconds : float
        Time limit.
    largest : int
        Largest number of voxels of a tile.
    is_lower_bound : bool
        Whether `probe` may miss voxels.
    """
    deadline = time.monotonic() + seconds
    try:
        along = [_along(probe, sizes, axis, deadline, largest) for axis in range(len(sizes))]
    except _TimeIsUpError:
        return Undecided("the time limit is reached")
    except NoImageError:
        return Undecided("its output is not an image")
    except (ValueError, TypeError, RuntimeError) as error:
        return Undecided(f"it fails on a tile: {' '.join(str(error).split())[:200]}")
    if any(of_axis is None for of_axis in along):
        return Undecided(f"it looks farther than tiles of {largest} voxels, or at the whole tile")
    found = [of_axis for of_axis in along if of_axis is not None]
    return tuple(
        Reach(
            before=tuple(of_axis[index][0] for of_axis in found),
            after=tuple(of_axis[index][1] for of_axis in found),
            stride=tuple(facts.stride for facts in sizes),
            scale=tuple(facts.scale[index] for facts in sizes),
            margin=tuple(facts.margin[index] for facts in sizes),
            method=method,
            is_lower_bound=is_lower_bound,
        )
        for index in range(len(found[0]))
    )


def _along(
    probe: Probe, sizes: Sequence[SizeFacts], axis: int, deadline: float, largest: int
) -> list[tuple[int, int]] | None:
    """Return the reach of each output along an axis, from larger and larger tiles; None if the largest one is too small."""
    facts = sizes[axis]
    size = _at_least(facts, 8 * facts.stride)
    while True:
        shape = tuple(size if other == axis else _at_least(one, _SLAB * one.stride) for other, one in enumerate(sizes))
        if int(np.prod(shape)) > largest:
            return None
        found = _in_tile(probe, facts, shape, axis, deadline)
        if found is not None:
            return found
        size = _at_least(facts, 2 * size)


def _at_least(facts: SizeFacts, size: int) -> int:
    return facts.least + -(-max(0, size - facts.least) // facts.step) * facts.step


def _in_tile(
    probe: Probe, facts: SizeFacts, shape: tuple[int, ...], axis: int, deadline: float
) -> list[tuple[int, int]] | None:
    """Return the reach of each output along an axis; None if it is as large as the tile."""
    size = shape[axis]
    start = size // 2 // facts.stride * facts.stride
    before = [0] * len(facts.scale)
    after = [0] * len(facts.scale)
    for edge in range(start, start + facts.stride):
        for part in (slice(edge, None), slice(None, edge)):
            if time.monotonic() > deadline:
                raise _TimeIsUpError
            for index, mask in enumerate(probe(shape, axis, part)):
                if mask.all():
                    return None
                scale, margin = facts.scale[index], facts.margin[index]
                touched = np.flatnonzero(mask)
                if not len(touched):
                    continue
                if part.start is not None:  # voxels at the edge and after it are NaN
                    voxel = int(touched[0])
                    after[index] = max(after[index], edge - _last_covered(voxel, scale, margin))
                    if voxel == 0:
                        return None
                else:
                    voxel = int(touched[-1])
                    before[index] = max(before[index], _first_covered(voxel, scale, margin) - (edge - 1))
                    if voxel == len(mask) - 1:
                        return None
    return list(zip(before, after, strict=True))


def _first_covered(voxel: int, scale: Fraction, margin: Fraction) -> int:
    """Return the first input voxel under an output voxel."""
    return (margin + voxel / scale).__floor__()


def _last_covered(voxel: int, scale: Fraction, margin: Fraction) -> int:
    """Return the last input voxel under an output voxel."""
    return (margin + (voxel + 1) / scale).__ceil__() - 1
