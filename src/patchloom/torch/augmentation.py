"""Random flips and quarter turns of patches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchloom.argument_checks import flag, instance
from patchloom.errors import GeometryError
from patchloom.geometry.symmetries import Symmetry
from patchloom.patching.counter_random import CounterRandom

_BITS = {"YX": 1, "X": 2, "Y": 4, "Z": 8}
"""Bits of a position: for Y and X exchanged, and for each axis reversed; in the order of the fields of `Symmetry`."""


@dataclass(frozen=True, slots=True)
class FlipRot90:
    """Random flips along some axes, and turns by 90° in the YX plane, all equally likely.

    No pixel is interpolated. What a patch gets is a pure function of (seed, epoch, index), and the same for its input and target.

    Parameters
    ----------
    axes : str
        Axes along which a patch may be flipped: letters of `ZYX`. Z is not among them by default, as a microscope resolves it
        less well than Y and X.
    turns : bool
        Whether a patch may also be turned by 90° in the YX plane. Patches that are not square there are never turned.

    Raises
    ------
    GeometryError
        If `axes` has other letters, or one twice.

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
            The patches' indices in the epoch, `(B,)`.
        patch_size : sequence of int
            `(z,) y, x`, in voxels.

        Returns
        -------
        array of int64
            `(B,)`, for `put`.
        """
        bits = [_BITS[axis] for axis in self.axes if axis != "Z" or len(patch_size) == 3]
        if self.turns and patch_size[-1] == patch_size[-2]:
            bits.append(_BITS["YX"])
        drawn = random.below_many(2 ** len(bits), indices)
        positions = np.zeros_like(drawn)
        for number, bit in enumerate(bits):
            positions |= (drawn >> number & 1) * bit
        return positions

    def put(self, batch: NDArray[Any], positions: NDArray[np.int64]) -> None:
        """Put each patch of a batch into its position.

        Parameters
        ----------
        batch : array
            `(B, ..., (Z), Y, X)`; changed in place.
        positions : array of int64
            `(B,)`, from `draw`.
        """
        for position in np.unique(positions[positions != 0]).tolist():
            chosen = positions == position
            symmetry = Symmetry(*(bool(position & bit) for bit in _BITS.values()))
            batch[chosen] = symmetry.apply(batch[chosen])
