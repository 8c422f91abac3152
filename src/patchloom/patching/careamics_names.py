"""The names by which CAREamics' own code asks a patching for its patches and for the parts of its samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self, TypeVar, overload

T_co = TypeVar("T_co", covariant=True)


class CareamicsNames:
    """The names that CAREamics' strategies have for their specifications: here all of them are the patching itself."""

    @property
    def patch_specs(self) -> Self:
        """All specifications as a lazy sequence: the patching itself."""
        return self

    @property
    def tile_specs(self) -> Self:
        """All specifications as a lazy sequence: the patching itself."""
        return self

    @property
    def fixed_patch_specs(self) -> Self:
        """All specifications as a lazy sequence: the patching itself."""
        return self


class SamplePart(NamedTuple):
    """The part of a patching that belongs to one sample."""

    n_patches: int
    """Number of patches in an epoch."""

    grid_shape: tuple[int, ...]
    """Number of whole cells along each spatial axis."""


@dataclass(frozen=True, slots=True)
class LazySequence(Sequence[T_co]):
    """A sequence whose items are computed when they are asked for.

    Parameters
    ----------
    length : int
        Number of items.
    make : callable
        Computes an item from its index, 0 to `length - 1`.

    Examples
    --------
    >>> squares = LazySequence(10**12, lambda index: index**2)
    >>> squares[-1], squares[2:5]
    (999999999998000000000001, [4, 9, 16])
    """

    length: int
    make: Callable[[int], T_co]

    def __len__(self) -> int:
        return self.length

    @overload
    def __getitem__(self, index: int) -> T_co: ...
    @overload
    def __getitem__(self, index: slice) -> list[T_co]: ...
    def __getitem__(self, index: Any) -> Any:
        chosen = range(self.length)[index]
        return self.make(chosen) if isinstance(chosen, int) else [self.make(number) for number in chosen]
