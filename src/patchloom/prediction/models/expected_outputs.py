"""Outputs that a model is expected to return, and how far others may differ from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from patchloom.argument_checks import real_number
from patchloom.errors import ModelOutputError


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How far two results may differ; the defaults are those of bioimage.io.

    Parameters
    ----------
    absolute, relative : float
        A voxel is mismatched if it differs by more than `absolute + relative * abs(expected)`.
    mismatched_per_million : float
        Number of mismatched voxels in a million that is tolerated.

    Raises
    ------
    ArgumentError
        If a number is negative.

    Examples
    --------
    >>> Tolerance().compare("mask", np.array([1.0, 2.0]), np.array([1.0, 2.5]))
    Difference(output='mask', n_voxels=2, largest=0.5, n_mismatched=1, passed=False)
    """

    absolute: float = 1e-3
    relative: float = 1e-3
    mismatched_per_million: float = 100

    def __post_init__(self) -> None:
        for name in ("absolute", "relative", "mismatched_per_million"):
            object.__setattr__(self, name, real_number(name, getattr(self, name), least=0))

    def compare(self, output: str, found: NDArray[Any], expected: NDArray[Any]) -> Difference:
        """Compare two arrays; of a larger one, the middle is compared.

        Parameters
        ----------
        output : str
            Name of the output.
        found, expected : array
            Arrays with the same axes. NaN is equal to NaN.

        Raises
        ------
        ModelOutputError
            If one array does not lie in the middle of the other one.
        """
        found, expected = _middle(output, found, expected)
        wide, wanted = found.astype(np.float64), expected.astype(np.float64)
        with np.errstate(invalid="ignore"):
            differences = np.abs(wide - wanted)
        differences[(wide == wanted) | (np.isnan(wide) & np.isnan(wanted))] = 0
        is_close = differences <= self.absolute + self.relative * np.nan_to_num(np.abs(wanted))  # NaN is not
        n_mismatched = int(is_close.size - is_close.sum())
        largest = float(np.nan_to_num(differences, nan=np.inf).max(initial=0))
        allowed = self.mismatched_per_million * is_close.size / 1e6
        return Difference(output, is_close.size, largest, n_mismatched, n_mismatched <= allowed)


@dataclass(frozen=True, slots=True)
class Difference:
    """How far one result differs from another one."""

    output: str
    """Name of the output; empty if there is a single one."""

    n_voxels: int
    """Number of voxels that were compared."""

    largest: float
    """Largest difference of two voxels."""

    n_mismatched: int
    """Number of voxels that differ by more than the tolerance."""

    passed: bool
    """Whether no more voxels than tolerated differ."""


@dataclass(frozen=True)
class ExpectedOutputs:
    """An image, and the outputs that a model is expected to return for it."""

    image: NDArray[Any]
    """`SC(Z)YX`."""

    outputs: Mapping[str, NDArray[Any]]
    """`SC(Z)YX`, by the name of the output, which is empty if there is a single one."""

    tolerance: Tolerance


@runtime_checkable
class HasExpectedOutputs(Protocol):
    """A model that comes with an image and the outputs for it."""

    def expected_outputs(self) -> ExpectedOutputs | None:
        """Return the image and the outputs; None if the model comes without them."""


def _middle(output: str, first: NDArray[Any], second: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Cut two arrays to the region in the middle that both have."""
    if first.shape == second.shape:
        return first, second
    shapes = (
        f"output {output!r} has the shapes {first.shape} and {second.shape}"
        if output
        else f"the shapes are {first.shape} and {second.shape}"
    )
    if first.ndim != second.ndim or first.shape[:2] != second.shape[:2]:
        raise ModelOutputError(f"{shapes}: they must have the same samples and channels")
    cuts: list[list[slice]] = [[slice(None)] * 2, [slice(None)] * 2]
    for sizes in zip(first.shape[2:], second.shape[2:], strict=True):
        for size, slices in zip(sizes, cuts, strict=True):
            lost, odd = divmod(size - min(sizes), 2)
            if odd:
                raise ModelOutputError(f"{shapes}: one must lie in the middle of the other one")
            slices.append(slice(lost, size - lost))
    return first[tuple(cuts[0])], second[tuple(cuts[1])]
