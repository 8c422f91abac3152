"""Flips and quarter turns: every patch in one of the positions that map the pixel grid onto itself.

They need no interpolation, so they change no pixel, only its place. Which position a patch gets is a pure function of (seed,
epoch, index), and the same for the input and its target.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchloom.argument_checks import flag, instance
from patchloom.errors import GeometryError
from patchloom.patching.counter_random import CounterRandom

_TRANSPOSED = 1
"""Bit of a position for a patch of which Y and X are swapped; then those for flips along X, Y and Z follow."""


@dataclass(frozen=True, slots=True)
class FlipRot90:
    """Which positions a patch may get, all equally likely.

    Parameters
    ----------
    axes : str
        Along which axes a patch may be flipped: letters of `ZYX`. A microscope sees Z otherwise than Y and X, so Z is not
        among them by default.
    turns : bool
        Whether a patch may also be turned by a quarter in the YX plane. Patches that are not square there are not.

    Raises
    ------
    GeometryError
        If there is no such axis.

    Examples
    --------
    >>> patch = np.array([[[[1, 2], [3, 4]]]])
    >>> FlipRot90(axes="X", turns=False).put(patch, np.array([0b10]))
    >>> patch.tolist()
    [[[[2, 1], [4, 3]]]]
    """

    axes: str = "YX"
    turns: bool = True

    def __post_init__(self) -> None:
        instance("axes", self.axes, str, "such as 'YX'")
        flag("turns", self.turns)
        if not set(self.axes) <= set("ZYX") or len(set(self.axes)) < len(self.axes):
            raise GeometryError(f"axes is {self.axes!r}: it must be letters of 'ZYX', none twice")

    def draw(self, random: CounterRandom, indices: NDArray[np.int64], patch_size: Sequence[int]) -> NDArray[np.int64]:
        """Draw a position for each of many patches.

        Parameters
        ----------
        random : CounterRandom
            Of the seed and epoch.
        indices : array of int64
            Which patches.
        patch_size : sequence of int
            `(z,) y, x`.

        Returns
        -------
        array of int64
            One position each, for `put`.
        """
        bits = [1 + "XYZ".index(axis) for axis in self.axes if axis != "Z" or len(patch_size) == 3]
        if self.turns and patch_size[-1] == patch_size[-2]:
            bits.append(0)
        drawn = random.below_many(2 ** len(bits), indices)
        positions = np.zeros_like(drawn)
        for number, bit in enumerate(bits):
            positions |= (drawn >> number & 1) << bit
        return positions

    def put(self, batch: NDArray[Any], positions: NDArray[np.int64]) -> None:
        """Put each patch of a batch into its position.

        Parameters
        ----------
        batch : array
            `(B, ..., (Z), Y, X)`; changed in place.
        positions : array of int64
            What `draw` gave.
        """
        for position in np.unique(positions[positions != 0]).tolist():
            chosen = positions == position
            batch[chosen] = _in_position(batch[chosen], position)


def _in_position(patches: NDArray[Any], position: int) -> NDArray[Any]:
    if position & _TRANSPOSED:
        patches = patches.swapaxes(-1, -2)
    return np.flip(patches, tuple(-axis for axis in (1, 2, 3) if position >> axis & 1))
