"""Flips and quarter turns: the symmetries of the pixel grid. They need no interpolation, so every pixel keeps its value."""

from __future__ import annotations

from itertools import product
from typing import NamedTuple, Self

from patchloom.tensors.tensor_pixels import Pixels, flipped


class Symmetry(NamedTuple):
    """A way to put an image onto the same pixel grid: exchange Y and X, or not, and then reverse some axes.

    The 8 symmetries of a square have all combinations of the first three fields; `flip_z` doubles them in 3D.

    Examples
    --------
    >>> import numpy as np
    >>> image = np.array([[1, 2], [3, 4]])
    >>> Symmetry(exchange_yx=True, flip_y=True).apply(image).tolist()
    [[2, 4], [1, 3]]
    """

    exchange_yx: bool = False
    """Whether Y and X are exchanged."""

    flip_x: bool = False
    """Whether X is then reversed."""

    flip_y: bool = False
    """Whether Y is then reversed."""

    flip_z: bool = False
    """Whether Z is reversed; in 3D only."""

    @classmethod
    def turned(cls, quarter_turns: int, *, mirrored: bool = False, flip_z: bool = False) -> Self:
        """Return a counterclockwise turn by 90°, once or several times, after which X may be reversed.

        Examples
        --------
        >>> import numpy as np
        >>> image = np.arange(6).reshape(2, 3)
        >>> bool((Symmetry.turned(3, mirrored=True).apply(image) == np.rot90(image, 3)[:, ::-1]).all())
        True
        """
        turns = quarter_turns % 4
        return cls(turns % 2 == 1, (turns >= 2) != mirrored, turns in (1, 2), flip_z)

    def apply(self, images: Pixels) -> Pixels:
        """Return images `(..., (Z), Y, X)` in this position: a view of an array, or a new tensor."""
        exchanged = images.swapaxes(-2, -1) if self.exchange_yx else images
        return flipped(exchanged, self._reversed_axes)

    def undo(self, images: Pixels) -> Pixels:
        """Return images in this position as they were before `apply`: a view of an array, or a new tensor."""
        turned = flipped(images, self._reversed_axes)
        return turned.swapaxes(-2, -1) if self.exchange_yx else turned

    @property
    def _reversed_axes(self) -> tuple[int, ...]:
        return (-1,) * self.flip_x + (-2,) * self.flip_y + (-3,) * self.flip_z


def symmetries(*, quarter_turns: bool = True, flip_z: bool = False) -> list[Symmetry]:
    """List the symmetries of an image, turn by turn, each as it is and mirrored.

    Parameters
    ----------
    quarter_turns : bool
        Whether Y and X may be exchanged: 8 symmetries in the YX plane instead of 4.
    flip_z : bool
        Whether Z may be reversed too, which doubles their number.

    Examples
    --------
    >>> len(symmetries()), len(symmetries(quarter_turns=False)), len(symmetries(flip_z=True))
    (8, 4, 16)
    """
    turns = range(4) if quarter_turns else (0, 2)
    z_flips = (False, True) if flip_z else (False,)
    return [
        Symmetry.turned(turn, mirrored=mirrored, flip_z=z)
        for turn, mirrored, z in product(turns, (False, True), z_flips)
    ]
