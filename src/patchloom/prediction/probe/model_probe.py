"""What a probe found out about a model: typed, as JSON, and as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from math import ceil, lcm
from typing import Any, Self

from patchloom.axes import spatial_axes
from patchloom.prediction.plain_data import parse_fields
from patchloom.prediction.probe.behavior import SizeDifference
from patchloom.prediction.probe.report import Reach
from patchloom.prediction.probe.size_search import SizeRule

_ROUNDING = 1e-5
"""Differences below this share of the range of an output are those of rounding."""


@dataclass(frozen=True, slots=True)
class ProbedOutput:
    """One output of a model.

    Parameters
    ----------
    name : str
        Its name; empty if the model has a single output.
    n_channels : int
        Number of channels.
    dtype : str
        Name of its dtype.
    scale : tuple of Fraction
        Voxels of the output for one voxel of the input, `(z,) y, x`.
    margin : tuple of Fraction
        Voxels of the input that the output lacks on each side; not whole if an odd number is lacking.
    """

    name: str
    n_channels: int
    dtype: str
    scale: tuple[Fraction, ...]
    margin: tuple[Fraction, ...]

    def __str__(self) -> str:
        channels = f"{self.n_channels} channel{'' if self.n_channels == 1 else 's'} of {self.dtype}"
        size = "as large as the tile" if set(self.scale) == {Fraction(1)} else f"{_joined(self.scale)} times the tile"
        lacking = f", without {_joined(self.margin)} voxels on each side" if any(self.margin) else ""
        return f"{self.name + ': ' if self.name else ''}{channels}, {size}{lacking}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelProbe:
    """What `probe` found out about a model.

    Sizes are `(z,) y, x` in voxels of the input. A difference is the largest of all voxels, as a share of the range of the output.
    """

    n_dims: int
    """Number of spatial axes."""

    n_channels: int
    """Number of channels of the tiles."""

    dtype: str
    """Name of the dtype of the tiles."""

    sizes: tuple[SizeRule, ...]
    """The sizes of tiles that the model accepts, along each axis; empty if it refused every tile that was tried."""

    outputs: tuple[ProbedOutput, ...]
    """Its outputs."""

    reach: Reach | None
    """How far an output voxel looks; None if no method found that."""

    checked_by: Reach | None
    """The same by a second method."""

    takes_batches: bool
    """Whether it accepts two tiles at once."""

    repeat_difference: float
    """How far two predictions of one tile differ; 0 if the model is deterministic."""

    batch_difference: float | None
    """How far the prediction of a tile differs if another tile is in its batch."""

    size_differences: tuple[SizeDifference, ...]
    """How far the middle of smaller tiles differs from that of a tile of `largest_size`."""

    largest_size: tuple[int, ...]
    """Size of the largest tile that was tried."""

    tolerance: float
    """Differences below this count as equal."""

    border: tuple[int, ...]
    """Voxels at the borders of a tile of one gray value that differ from its middle: what padding inside the network reaches."""

    seconds_per_tile: float
    """Time for a tile of `largest_size`."""

    bytes_per_tile: int
    """Memory that the process took in addition for it; 0 where it could not be measured."""

    remarks: tuple[str, ...]
    """What else was noticed: sizes at which the model did not return, what it printed, methods that disagree."""

    @property
    def stride(self) -> tuple[int, ...]:
        """Tiles have to start on multiples of this; where the reach is not known, the step between sizes."""
        own = (1,) * self.n_dims if self.reach is None else self.reach.stride
        if self.reach is None or self.reach.is_lower_bound:
            own = tuple(lcm(step, rule.modulus) for step, rule in zip(own, self.sizes, strict=True))
        return own

    @property
    def is_global(self) -> bool:
        """Whether every output voxel depends on the whole tile, so that no overlap makes tiles equal the whole image."""
        return self.reach.is_global if self.reach is not None else self.changes_with_size

    @property
    def is_certain(self) -> bool:
        """Whether the reach is exact, not a lower bound."""
        return self.reach is not None and not self.reach.is_lower_bound

    @property
    def halo(self) -> tuple[int, ...]:
        """Voxels at the borders of a tile whose prediction misses a part of the image; 0 where the reach is not known."""
        if self.reach is None:
            return (0,) * self.n_dims
        # `before` and `after` count from the input below an output voxel; what the margin removes is not predicted at all.
        return tuple(
            max(0, -int((Fraction(margin) - max(reaches)) // 1))
            for reaches, margin in zip(self.reach.context, self.reach.margin, strict=True)
        )

    @property
    def margin(self) -> tuple[int, ...]:
        """Voxels of the input that an output lacks on each side, at most, rounded up."""
        return tuple(max(ceil(output.margin[axis]) for output in self.outputs) for axis in range(self.n_dims))

    @property
    def changes_with_size(self) -> bool:
        """Whether the middle of a tile changes with its size, also between the largest ones, although the model is deterministic."""
        last = self.size_differences[-1].difference if self.size_differences else 0.0
        return last > _ROUNDING and self.repeat_difference < last / 10

    @property
    def sufficient_size(self) -> tuple[int, ...] | None:
        """Size of the tile from which on the middle differs by less than the tolerance; None if no smaller tile does."""
        enough = None
        for found in reversed(self.size_differences):
            if found.difference > self.tolerance:
                break
            enough = found.size
        return enough

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain values, for JSON."""
        return asdict(self) | {
            "outputs": [
                asdict(output) | {"scale": list(map(str, output.scale)), "margin": list(map(str, output.margin))}
                for output in self.outputs
            ],
            "reach": None if self.reach is None else self.reach.to_dict(),
            "checked_by": None if self.checked_by is None else self.checked_by.to_dict(),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Make a probe from `to_dict`, before or after JSON.

        Raises
        ------
        TypeError, ValueError, ArithmeticError
            If a field is missing, unknown or of another type.
        """
        return cls(**parse_fields(cls, values))

    def rows(self) -> list[tuple[str, str]]:
        """Return the table: what was measured, and the result in words."""
        if not self.sizes:
            return [("tile", "refused"), *(("note", remark) for remark in self.remarks)]
        return [
            ("tile sizes", "; ".join(f"{axis}: {rule}" for axis, rule in zip(self._axes, self.sizes, strict=True))),
            *(("output", str(output)) for output in self.outputs),
            ("reach", self._reach_in_words()),
            (
                "stride",
                f"{_shape(self.stride)}{' voxels: tiles start on multiples of it' if max(self.stride) > 1 else ''}",
            ),
            ("whole tile", self._whole_tile_in_words()),
            ("tile size", self._size_in_words()),
            ("run twice", _same(self.repeat_difference, self.tolerance)),
            (
                "in a batch",
                "takes one tile at a time" if not self.takes_batches else _same(self.batch_difference, self.tolerance),
            ),
            ("tile border", self._border_in_words()),
            ("cost", self._cost_in_words()),
            ("overlap", self._overlap_in_words()),
            *(("note", remark) for remark in self.remarks),
        ]

    def __str__(self) -> str:
        return "\n".join(f"{name:<11} {text}" for name, text in self.rows())

    @property
    def _axes(self) -> Sequence[str]:
        return tuple(spatial_axes(self.n_dims))

    def _reach_in_words(self) -> str:
        if self.reach is None:
            return "not known"
        along = "; ".join(
            f"{axis}: {before} voxels before, {after} after"
            for axis, (before, after) in zip(self._axes, self.reach.context, strict=True)
        )
        certain = ", a lower bound: the network may look farther" if self.reach.is_lower_bound else ""
        return f"{along} (measured by {self.reach.method}{certain})"

    def _whole_tile_in_words(self) -> str:
        if not self.is_global:
            return "no" if self.is_certain else "not found"
        if self.reach is None:
            return "yes, or farther than half of the largest tile: its middle changes with its size"
        return f"yes, by {', '.join(self.reach.global_operators)}: no overlap makes tiles equal the whole image"

    def _size_in_words(self) -> str:
        if not self.size_differences:
            return "not measured: only one size was run"
        listed = ", ".join(f"{_shape(found.size)}: {found.difference:.2g}" for found in self.size_differences)
        enough = self.sufficient_size
        verdict = f"below {self.tolerance:g} from {_shape(enough)}" if enough else f"not below {self.tolerance:g}"
        return f"middle of a tile against that of {_shape(self.largest_size)}: {listed}; {verdict}"

    def _border_in_words(self) -> str:
        if not any(self.border):
            return "a tile of one gray value gives one value up to its border"
        return f"the outer {_shape(self.border)} voxels of a tile of one gray value differ: the network pads inside"

    def _cost_in_words(self) -> str:
        memory = f", {self.bytes_per_tile / 2**20:.1f} MiB" if self.bytes_per_tile else ""
        return f"{self.seconds_per_tile:.2g} s{memory} for a tile of {_shape(self.largest_size)}"

    def _overlap_in_words(self) -> str:
        if self.reach is None:
            return "not known"
        shared = _shape([2 * (halo + lost) for halo, lost in zip(self.halo, self.margin, strict=True)])
        least = ("at least " if self.reach.is_lower_bound or self.is_global else "") + shared
        return f"{least}, halo {_shape(self.halo)}"


def _shape(numbers: Sequence[Any]) -> str:
    return " × ".join(map(str, numbers))


def _joined(numbers: Sequence[Any]) -> str:
    return str(numbers[0]) if len(set(numbers)) == 1 else _shape(numbers)


def _same(difference: float | None, tolerance: float) -> str:
    if difference is None:
        return "not measured"
    if difference == 0:
        return "the same"
    if difference <= _ROUNDING:
        return f"the same up to rounding ({difference:.1g})"
    return f"differs by {difference:.2g} of the range{', within the tolerance' if difference <= tolerance else ''}"
