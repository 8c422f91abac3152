"""The order of the axes of a network's tensor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from patchloom.errors import ModelError

MOST_CHANNELS = 16
"""A larger size is not taken for a number of channels."""


@dataclass(frozen=True, slots=True)
class TensorLayout:
    """The axes of a tensor, outermost first: `N` batch, `C` channels, `D`, `H` and `W` space.

    Parameters
    ----------
    letters : str
        `"NCHW"`, `"NHWC"`, `"NCDHW"`, `"NDHWC"` or another order of these letters; without `N` or `C` if the tensor has no such
        axis. Lower case is accepted.

    Raises
    ------
    ModelError
        If the letters are not such a layout.

    Examples
    --------
    >>> layout = TensorLayout("NHWC")
    >>> layout.from_batch(np.zeros((4, 3, 64, 48))).shape
    (4, 64, 48, 3)
    >>> layout.to_batch(np.zeros((4, 64, 48, 2))).shape
    (4, 2, 64, 48)
    """

    letters: str
    """The axes, upper case."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "letters", str(self.letters).upper())
        is_known = set("HW") <= set(self.letters) <= set("NCDHW")
        if not is_known or len(set(self.letters)) < len(self.letters):
            raise ModelError(
                f"layout is {self.letters!r}: it must be NCHW, NHWC, NCDHW, NDHWC or another order of these letters, each once, and N "
                "or C may be left out"
            )

    @property
    def n_dims(self) -> int:
        """Number of spatial axes."""
        return 3 if "D" in self.letters else 2

    def without_channels(self) -> TensorLayout:
        """Return the same layout without the channel axis."""
        return TensorLayout(self.letters.replace("C", ""))

    def batch_shape(self, shape: Sequence[int | None]) -> tuple[int | None, ...]:
        """Return a tensor's shape as `(B, C, (Z), Y, X)`, with size 1 for an axis that the tensor does not have.

        Examples
        --------
        >>> TensorLayout("HWC").batch_shape((None, None, 3))
        (1, 3, None, None)
        """
        sizes = dict(zip(self.letters, shape, strict=True))
        return tuple(sizes.get(letter, 1) for letter in self._batch_letters)

    def from_batch(self, batch: NDArray[Any]) -> NDArray[Any]:
        """View a batch `(B, C, (Z), Y, X)` in this layout; `B` or `C` must be 1 if the layout has no such axis."""
        present = tuple(slice(None) if letter in self.letters else 0 for letter in self._batch_letters)
        return batch[present].transpose([self._present_letters.index(letter) for letter in self.letters])

    def to_batch(self, tensor: NDArray[Any]) -> NDArray[Any]:
        """View a tensor of this layout as a batch `(B, C, (Z), Y, X)`."""
        present = tensor.transpose([self.letters.index(letter) for letter in self._present_letters])
        return present[tuple(slice(None) if letter in self.letters else np.newaxis for letter in self._batch_letters)]

    @property
    def _batch_letters(self) -> str:
        return "NCDHW" if self.n_dims == 3 else "NCHW"

    @property
    def _present_letters(self) -> str:
        return "".join(letter for letter in self._batch_letters if letter in self.letters)


_READINGS = {2: ("HW",), 3: ("CHW", "HWC"), 4: ("NCHW", "NHWC"), 5: ("NCDHW", "NDHWC")}

_NARROW = 8
"""A height or width of at most this size is more likely a number of channels."""


def infer_layout(shape: Sequence[int | None]) -> TensorLayout:
    """Infer the layout of a network's input from its declared shape, if only one layout is plausible.

    Parameters
    ----------
    shape : sequence of int or None
        Declared sizes; None for a symbolic size.

    Returns
    -------
    TensorLayout
        `HW` for two axes. Otherwise channels come before space or after it (`CHW` or `HWC`, `NCHW` or `NHWC`, `NCDHW` or
        `NDHWC`), by the first of these rules that leaves one layout:

        1. the number of channels is fixed and at most 16: the weights of a network fix it, while space is often symbolic;
        2. and every fixed height and width is more than 8, and no fixed depth is 1;
        3. and height and width are fixed and equal.

        If rule 1 leaves no layout, because neither axis that may be the channels is fixed and at most 16:

        4. height and width are both symbolic and the channels are fixed, or height and width are fixed and equal.

    Raises
    ------
    ModelError
        If the rules leave both layouts or none, or the number of axes is not 2 to 5.

    Examples
    --------
    >>> [infer_layout(shape).letters for shape in ((None, 1, 64, None), (1, 1024, 1024, 3), (None, 32, 64, 64, 1))]
    ['NCHW', 'NHWC', 'NDHWC']
    >>> infer_layout((None, None, None, None))
    Traceback (most recent call last):
        ...
    patchloom.errors.ModelError: the input has shape (?, ?, ?, ?), which may be NCHW or NHWC: give its layout, such as
    layout='NCHW'
    """
    if len(shape) not in _READINGS:
        raise ModelError(
            f"the input has shape {shape_text(shape)}, from which no layout can be inferred: give its layout, such as "
            "layout='NCHW'"
        )
    layouts = possible_layouts(len(shape))
    if len(layouts) == 1:
        return layouts[0]
    sizes = {layout: _Sizes.of(layout, shape) for layout in layouts}
    by_channels = [layout for layout in layouts if sizes[layout].has_few_channels]
    rules = (
        [by_channels, [layout for layout in by_channels if not sizes[layout].is_narrow],
         [layout for layout in by_channels if sizes[layout].is_square]]
        if by_channels
        else [[layout for layout in layouts if sizes[layout].is_free or sizes[layout].is_square]]
    )  # fmt: skip
    for possible in rules:
        if len(possible) == 1:
            return possible[0]
    names = [layout.letters for layout in layouts]
    raise ModelError(
        f"the input has shape {shape_text(shape)}, which may be {' or '.join(names)}: give its layout, such as "
        f"layout={names[0]!r}"
    )


def possible_layouts(n_axes: int) -> list[TensorLayout]:
    """Return the layouts that a tensor of `n_axes` axes may have.

    Examples
    --------
    >>> [layout.letters for layout in possible_layouts(4)], possible_layouts(7)
    (['NCHW', 'NHWC'], [])
    """
    return [TensorLayout(letters) for letters in _READINGS.get(n_axes, ())]


class _Sizes(NamedTuple):
    """The sizes of channels and space, if a declared shape has some layout."""

    channels: int | None
    space: tuple[int | None, ...]
    """`(depth,) height, width`."""

    @classmethod
    def of(cls, layout: TensorLayout, shape: Sequence[int | None]) -> Self:
        _, channels, *space = layout.batch_shape(shape)
        return cls(channels, tuple(space))

    @property
    def has_few_channels(self) -> bool:
        return self.channels is not None and self.channels <= MOST_CHANNELS

    @property
    def is_narrow(self) -> bool:
        return 1 in self.space or any(size is not None and size <= _NARROW for size in self.space[-2:])

    @property
    def is_square(self) -> bool:
        return self.space[-1] is not None and self.space[-1] == self.space[-2]

    @property
    def is_free(self) -> bool:
        """True if height and width are symbolic and the number of channels is fixed."""
        return self.space[-2:] == (None, None) and self.channels is not None


def shape_text(shape: Sequence[int | None]) -> str:
    """Return a shape as text, with `?` for symbolic sizes.

    Examples
    --------
    >>> shape_text((None, 1, 64, 64))
    '(?, 1, 64, 64)'
    """
    return f"({', '.join('?' if size is None else str(size) for size in shape)})"
