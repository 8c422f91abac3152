"""The tensors of a package: their axes, sizes and processing, in the terms of both formats."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from patchloom.errors import ModelError

LETTERS = {"batch": "b", "channel": "c", "time": "t", "index": "i"}
"""Letters of axes by their type; those of spatial axes are their names, `z`, `y` and `x`."""


@dataclass(frozen=True)
class TensorAxis:
    """One axis of a tensor.

    Parameters
    ----------
    letter : str
        `b`, `c`, `z`, `y` or `x`; `t` for time, `i` for another index.
    size : int, optional
        The only size. If it and `reference` are None, sizes are `least` + k · `step`.
    least, step : int
        Sizes that are possible.
    reference : tuple of str, optional
        Tensor and letter of the axis that determines the size: `size = reference * factor + offset`.
    factor : Fraction, optional
        Voxels of this axis for one voxel of the reference, or of the input's axis of this letter; None if it is not declared.
    offset : int
        Voxels that are added.
    halo : int
        Voxels on each side that are not valid.
    names : tuple of str
        Names of the channels.
    pixel_size : float, optional
        Size of a voxel in micrometers, if it is declared with a unit.
    """

    letter: str
    size: int | None = None
    least: int = 1
    step: int = 1
    reference: tuple[str, str] | None = None
    factor: Fraction | None = None
    offset: int = 0
    halo: int = 0
    names: tuple[str, ...] = ()
    pixel_size: float | None = None

    @property
    def is_singleton(self) -> bool:
        """Whether the size is 1."""
        return self.size == 1


@dataclass(frozen=True)
class Step:
    """One step of processing, by its name in the format, with its settings; axes are letters."""

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class FileReference:
    """A file that a description names."""

    name: str
    sha256: str | None = None


@dataclass(frozen=True)
class Tensor:
    """An input or an output."""

    name: str
    axes: tuple[TensorAxis, ...]
    steps: tuple[Step, ...] = ()
    test_tensor: FileReference | None = None
    is_optional: bool = False

    @property
    def letters(self) -> str:
        """Letters of the axes, outermost first."""
        return "".join(axis.letter for axis in self.axes)

    def axis(self, letter: str) -> TensorAxis | None:
        """Return the axis of a letter, if there is one."""
        return next((axis for axis in self.axes if axis.letter == letter), None)

    @property
    def spatial_letters(self) -> str:
        """Letters of the spatial axes as a batch has them, `(z,) y, x`, without axes of size 1 that are not `y` or `x`."""
        z_axis = self.axis("z")
        return "yx" if z_axis is None or z_axis.is_singleton else "zyx"

    def check(self) -> None:
        """Check that it is an image.

        Raises
        ------
        ModelError
            If it has an axis that an image of one time point does not have, or lacks one.
        """
        letters = self.letters
        for axis in self.axes:
            if axis.letter not in "bczyx":
                what = {"t": "a time axis", "i": "an index axis"}.get(axis.letter, f"an axis {axis.letter!r}")
                raise ModelError(
                    f"tensor {self.name!r} has {what}, and networks run on single images with the axes b, c, z, y, x: take a model of "
                    "single images"
                )
        if not {"y", "x"} <= set(letters):
            raise ModelError(
                f"tensor {self.name!r} has the axes {', '.join(letters)}, and is not an image: it must have y and x"
            )


def n_channels(tensor: Tensor) -> int | None:
    """Return the number of channels of a tensor, 1 if it has no such axis; None if it is not declared.

    Parameters
    ----------
    tensor : Tensor
        An input or output.
    """
    axis = tensor.axis("c")
    if axis is None:
        return 1
    return len(axis.names) or axis.size
