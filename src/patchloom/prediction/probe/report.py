"""How far a network looks, as one method found it.

A reach is counted from the voxels that an output voxel covers::

output voxel o covers the input voxels that lie at its place, [margin + o / scale, margin + (o + 1) / scale)

input     . . . . . . [ . . . c c . . . . . ] . . .        scale 1/2: the output voxel covers c c
                      |       | |           |
                      |before | |   after   |              it depends on the voxels between [ and ]

"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from math import lcm
from typing import Any, Literal, Self

from patchloom.prediction.plain_data import parse_fields

Method = Literal["onnx graph", "NaN", "gradients", "noise"]


@dataclass(frozen=True, slots=True)
class Reach:
    """How far an output of a network looks, and how its voxels lie on those of the input.

    Parameters
    ----------
    before, after : tuple of int
        Number of input voxels on which an output voxel depends, before and after the voxels under it, `(z,) y, x`; the largest
        number at any phase of the stride. If the network looks at the whole tile (`global_operators`), they hold as if what
        these operators compute of the whole tile were constant.
    stride : tuple of int
        Number of input voxels by which a tile can be shifted so that the output is the same, but shifted, `(z,) y, x`.
    scale : tuple of Fraction
        Voxels of the output for one voxel of the input, `(z,) y, x`.
    margin : tuple of Fraction
        Number of input voxels that the output lacks on each side of a tile, `(z,) y, x`; not whole if an odd number is lacking.
        If a network crops one side more than the other, `before` and `after` differ by that.
    method : {"onnx graph", "NaN", "gradients", "noise"}
        The method that found it.
    is_lower_bound : bool
        Whether the network may look farther.
    global_operators : tuple of str
        Names of the operators that depend on the whole tile, such as `"InstanceNormalization"`.

    Examples
    --------
    >>> reach = Reach((4, 4), (3, 3), (2, 2), (Fraction(1),) * 2, (Fraction(0),) * 2, "onnx graph")
    >>> reach.overlaps, reach.is_global
    ((7, 7), False)
    >>> Reach.from_dict(reach.to_dict()) == reach
    True
    """

    before: tuple[int, ...]
    after: tuple[int, ...]
    stride: tuple[int, ...]
    scale: tuple[Fraction, ...]
    margin: tuple[Fraction, ...]
    method: Method
    is_lower_bound: bool = False
    global_operators: tuple[str, ...] = ()

    @property
    def is_global(self) -> bool:
        """Whether an output voxel depends on the whole tile, so that no overlap makes tiles equal the whole image."""
        return bool(self.global_operators)

    @property
    def context(self) -> tuple[tuple[int, int], ...]:
        """Voxels before and after, along each axis, `(z,) y, x`, as `ModelDescription.context` has them."""
        return tuple(zip(self.before, self.after, strict=True))

    @property
    def overlaps(self) -> tuple[int, ...]:
        """Number of voxels that neighboring tiles have to share, `(z,) y, x`, if seams lie at any voxel."""
        return tuple(before + after for before, after in self.context)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain values, for JSON."""
        plain = asdict(self)
        return plain | {name: [str(number) for number in plain[name]] for name in ("scale", "margin")}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Make a reach from `to_dict`.

        Raises
        ------
        TypeError, ValueError
            If a field is missing, unknown or of another type.
        """
        return cls(**parse_fields(cls, values))


@dataclass(frozen=True, slots=True)
class Undecided:
    """A method found no reach.

    Parameters
    ----------
    reason : str
        Why, as a clause for messages, such as `"the operator NonZero is not known"`.
    """

    reason: str


def join_reaches(reaches: Sequence[Reach]) -> Reach:
    """Return the reach of a network from those of its outputs: the largest of each number.

    Parameters
    ----------
    reaches : sequence of Reach
        One for each output, at least one; the scale and the margin are those of the first.

    Examples
    --------
    >>> one = Reach((4,), (3,), (2,), (Fraction(1),), (Fraction(0),), "NaN")
    >>> other = Reach((2,), (5,), (3,), (Fraction(1),), (Fraction(0),), "NaN")
    >>> join_reaches([one, other]).context, join_reaches([one, other]).stride
    (((4, 5),), (6,))
    """
    first = reaches[0]
    return Reach(
        before=tuple(map(max, *(reach.before for reach in reaches), first.before)),
        after=tuple(map(max, *(reach.after for reach in reaches), first.after)),
        stride=tuple(map(lcm, *(reach.stride for reach in reaches), first.stride)),
        scale=first.scale,
        margin=first.margin,
        method=first.method,
        is_lower_bound=any(reach.is_lower_bound for reach in reaches),
        global_operators=tuple(dict.fromkeys(name for reach in reaches for name in reach.global_operators)),
    )
