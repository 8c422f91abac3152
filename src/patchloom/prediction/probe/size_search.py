"""The sizes of tiles that a model accepts, found by trying them.

Sizes that a network accepts along an axis are ``least, least + step, least + 2 step, …``. A U-Net of depth 4 has a step of 16; one
without padding takes 16 k + 12. One size that is accepted is found first. Its distance to the next one is the step, and bisection
finds the least.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

_FIRST_SIZES = {2: (128, 96, 256, 64, 512), 3: (32, 64, 48, 96, 128)}
"""Tile sizes that are tried first, by the number of axes."""

_RESIDUES_FROM = {2: (192,), 3: (64,)}
"""From here, every size up to 32 more is tried if none of those is accepted."""

_MOST_STEP = 64
"""Largest step between sizes that is tried."""

Accepts = Callable[[tuple[int, ...]], bool]
"""Whether a model accepts a tile of a size, `(z,) y, x`."""


@dataclass(frozen=True, slots=True)
class SizeRule:
    """The sizes of tiles that a model accepts along one axis: `least`, and more by multiples of `modulus`.

    Parameters
    ----------
    least : int
        The smallest size, in voxels.
    modulus : int
        Difference between two sizes, in voxels.
    is_fixed : bool
        Whether `least` is the only size.

    Examples
    --------
    >>> SizeRule(28, 16).residue, SizeRule(28, 16).at_least(100), str(SizeRule(28, 16))
    (12, 108, '28, 44, 60, …')
    """

    least: int
    modulus: int = 1
    is_fixed: bool = False

    @property
    def residue(self) -> int:
        """What every size leaves when it is divided by the modulus."""
        return self.least % self.modulus

    def at_least(self, size: int) -> int:
        """Return the smallest size that is accepted and not smaller than another one; of a fixed size, this size."""
        return (
            self.least if self.is_fixed else self.least + -(-max(0, size - self.least) // self.modulus) * self.modulus
        )

    def __str__(self) -> str:
        if self.is_fixed:
            return f"{self.least} only"
        if self.modulus == 1:
            return f"{self.least} and more"
        return ", ".join(str(self.least + number * self.modulus) for number in range(3)) + ", …"


def first_size(accepts: Accepts, n_dims: int) -> tuple[int, ...] | None:
    """Return a size that a model accepts, the same along all axes; None if it accepts no size that is tried.

    Parameters
    ----------
    accepts : callable
        Whether the model accepts a tile of a size.
    n_dims : int
        Number of spatial axes.
    """
    for side in (*_FIRST_SIZES[n_dims], *(start + more for start in _RESIDUES_FROM[n_dims] for more in range(1, 33))):
        if accepts((side,) * n_dims):
            return (side,) * n_dims
    return None


def find_size_rules(accepts: Accepts, start: tuple[int, ...]) -> tuple[SizeRule, ...]:
    """Find the rule for sizes along each axis.

    Parameters
    ----------
    accepts : callable
        Whether the model accepts a tile of a size, `(z,) y, x`.
    start : tuple of int
        A size that it accepts.

    Examples
    --------
    >>> find_size_rules(lambda size: all(side % 16 == 12 and side >= 28 for side in size), (108, 108))
    (SizeRule(least=28, modulus=16, is_fixed=False), SizeRule(least=28, modulus=16, is_fixed=False))
    """
    n_dims = len(start)
    together = _step(accepts, start, range(n_dims), _steps_to_try())
    if together is None:
        return tuple(SizeRule(side, 1, is_fixed=True) for side in start)
    rules = []
    for axis in range(n_dims):
        divisors = [step for step in range(1, together + 1) if together % step == 0]
        # A model that takes cubes only accepts no change along one axis alone.
        step = _step(accepts, start, [axis], divisors) or together
        rules.append(SizeRule(_least(accepts, start, axis, step), step))
    return tuple(rules)


def _steps_to_try() -> Iterator[int]:
    """Yield steps: powers of two, multiples of 3 of them, and then all others."""
    likely = [2**power for power in range(7)] + [3 * 2**power for power in range(5)]
    yield from likely
    yield from (step for step in range(5, _MOST_STEP) if step not in likely)


def _step(
    accepts: Accepts, start: Sequence[int], axes: Sequence[int], steps: Iterator[int] | Sequence[int]
) -> int | None:
    for step in steps:
        if accepts(_changed(start, axes, step)):
            return step
    return None


def _changed(size: Sequence[int], axes: Sequence[int], change: int) -> tuple[int, ...]:
    return tuple(side + change if axis in axes else side for axis, side in enumerate(size))


def _least(accepts: Accepts, start: Sequence[int], axis: int, step: int) -> int:
    """Return the smallest size along an axis, by bisection; `step` below it none is accepted."""
    too_small, accepted = -((start[axis] - 1) // step) - 1, 0
    while accepted - too_small > 1:
        middle = (accepted + too_small) // 2
        if accepts(_changed(start, [axis], middle * step)):
            accepted = middle
        else:
            too_small = middle
    return start[axis] + accepted * step
