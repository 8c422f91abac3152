"""How far any callable looks, at least: half of a tile gets other random numbers, and the output voxels that change depend on it.

Where values cancel, an activation is dead, or the maximum is elsewhere, a voxel does not change, although it may with other numbers.
So several draws are made, and what is found is a lower bound.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from patchloom.prediction.probe.report import Reach, Undecided
from patchloom.prediction.probe.torch_reach import Mask, NoImageError, SizeFacts, half_space_reach


def noise_reach(
    predict: Callable[[NDArray[Any]], Sequence[NDArray[Any]]],
    n_channels: int,
    sizes: Sequence[SizeFacts],
    *,
    dtype: DTypeLike = np.float32,
    n_draws: int = 4,
    seconds: float = 10.0,
    largest: int = 2**22,
) -> tuple[Reach, ...] | Undecided:
    """Find how far each output of a model looks, at least.

    Parameters
    ----------
    predict : callable
        The model, from a batch `(1, C, (Z), Y, X)` to a sequence of outputs. Its result must not be random.
    n_channels : int
        Number of channels of its input.
    sizes : sequence of SizeFacts
        The sizes that it accepts, `(z,) y, x`.
    dtype : dtype
        Dtype of the tiles. Random numbers have mean 0 and spread 1; integers are between 0 and 255.
    n_draws : int
        Number of draws for each half of a tile.
    seconds : float
        Time limit.
    largest : int
        Largest number of voxels of a tile.

    Returns
    -------
    tuple of Reach, or Undecided
        One for each output; each `is_lower_bound`.

    Examples
    --------
    >>> from fractions import Fraction
    >>> facts = SizeFacts(1, 1, 1, (Fraction(1),), (Fraction(0),))
    >>> shifted = lambda batch: [np.roll(batch, 2, axis=-1)]
    >>> noise_reach(lambda batch: [np.maximum(batch, shifted(batch)[0])], 1, [facts, facts])
    Undecided(reason='it looks farther than tiles of 4194304 voxels, or at the whole tile')
    >>> noise_reach(lambda batch: [np.pad(batch[..., :-2], [(0, 0)] * 3 + [(2, 0)])], 1, [facts, facts])[0].context
    ((0, 0), (2, 0))
    """
    kind = np.dtype(dtype)

    def noise(shape: tuple[int, ...], draw: int) -> NDArray[Any]:
        chance = np.random.default_rng(draw)
        if kind.kind in "fc":
            return chance.standard_normal(shape).astype(kind)
        return chance.integers(0, 2 if kind.kind == "b" else 128 if kind == np.int8 else 256, shape).astype(kind)

    def probe(shape: tuple[int, ...], axis: int, part: slice) -> list[Mask]:
        whole = (1, n_channels, *shape)
        others = tuple(other for other in range(2 + len(shape)) if other != 2 + axis)
        changed: list[Mask] = []
        for draw in range(n_draws):
            tile = noise(whole, 2 * draw)
            other = tile.copy()
            half = (slice(None),) * (2 + axis) + (part,)
            other[half] = noise(whole, 2 * draw + 1)[half]
            pairs = [(np.asarray(a), np.asarray(b)) for a, b in zip(predict(tile), predict(other), strict=True)]
            if any(one.ndim != len(whole) for one, _ in pairs):
                raise NoImageError
            masks = [(one != again).any(axis=others) for one, again in pairs]
            changed = [old | new for old, new in zip(changed, masks, strict=True)] if changed else masks
        return changed

    return half_space_reach(probe, sizes, "noise", seconds=seconds, largest=largest, is_lower_bound=True)
