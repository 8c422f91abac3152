"""What was compared after a run, and what was found: typed, as JSON, and as a table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, Self

from patchloom.prediction.plain_data import parse_fields
from patchloom.specs.patch_specs import PatchSpecs

RegionKind = Literal["corner", "seam", "border", "image corner"]

PERCENTILES = (50.0, 99.0, 99.9)
"""Percentiles of the differences of intensities that a certificate contains."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CertifiedRegion:
    """A region that was predicted once more, in a larger tile or in one at another place."""

    kind: RegionKind
    """What lies in its middle: a corner where seams meet, a seam, a seam at the border of the image, or a corner of the image."""

    data_idx: int
    """Index of the image stack."""

    sample_idx: int
    """Index of the sample in the stack that the model is run on."""

    middle: tuple[int, ...]
    """The point around which it was chosen, `(z,) y, x` in voxels."""

    tile_start: tuple[int, ...]
    """First voxel of the tile, `(z,) y, x`, without the margin that the output lacks."""

    tile_size: tuple[int, ...]
    """Size of the tile in voxels, without the margin."""

    start: tuple[int, ...]
    """First voxel of the image that was compared, `(z,) y, x`."""

    stop: tuple[int, ...]
    """One past the last voxel that was compared."""

    is_exact: bool
    """Whether the voxels that were compared depend on nothing outside the tile, as far as the image continues there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputDifference:
    """How far one output differs from the predictions of the regions.

    Of intensities, a difference is absolute. Of labels, it is 1 where they are not the same.
    """

    output: str
    """Name of the output; empty if the model has a single output."""

    is_labels: bool
    """Whether the output contains labels, of which only equality counts."""

    n_voxels: int
    """Number of voxels that were compared, in all channels."""

    largest: float
    """The largest difference."""

    percentiles: tuple[float, ...]
    """The 50th, 99th and 99.9th percentile of the differences, to 1 in 2,000."""

    value_range: float
    """Largest minus smallest value of the predictions of the regions."""

    tolerance: float
    """The largest difference that is tolerated; of labels, the share of voxels that may differ."""

    n_over: int
    """Number of voxels that differ by more; of labels, number of voxels that differ."""

    worst_data_idx: int
    """Image stack of the voxel that differs most; -1 if no voxel differs."""

    worst_sample_idx: int
    """Sample of this voxel in the image."""

    worst_coords: tuple[int, ...]
    """Position of this voxel in the image, `(z,) y, x`, in voxels of the input."""

    worst_size: tuple[int, ...]
    """Voxels of the input that it covers, `(z,) y, x`."""

    @property
    def share_over(self) -> float:
        """Share of the voxels that differ by more than the tolerance; of labels, the share of different labels."""
        return self.n_over / self.n_voxels if self.n_voxels else 0.0

    @property
    def passed(self) -> bool:
        """Whether the output equals the predictions of the regions within the tolerance."""
        return self.share_over <= self.tolerance if self.is_labels else self.n_over == 0

    @property
    def worst(self) -> PatchSpecs | None:
        """The voxels of the image under the voxel that differs most, as a specification; None if no voxel differs."""
        if self.worst_data_idx < 0:
            return None
        return {
            "data_idx": self.worst_data_idx,
            "sample_idx": self.worst_sample_idx,
            "coords": self.worst_coords,
            "patch_size": self.worst_size,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """The comparison of a finished output with predictions of larger tiles.

    Examples
    --------
    >>> import numpy as np
    >>> import patchloom as pl
    >>> found = []
    >>> image = np.random.default_rng(0).random((1, 100, 100), np.float32)
    >>> _ = pl.predict(lambda batch: batch * 2, image, axes="CYX", patch_size=32, certify=found.append, progress=False)
    >>> found[0].passed, found[0].outputs[0].largest
    (True, 0.0)
    >>> pl.Certificate.from_dict(found[0].to_dict()) == found[0]
    True
    """

    outputs: tuple[OutputDifference, ...]
    """The differences of each output; empty if nothing was compared."""

    regions: tuple[CertifiedRegion, ...]
    """What was compared."""

    n_skipped_regions: int
    """Regions that were chosen and not compared, as the skip rule skips tiles in them."""

    n_voxels_predicted: int
    """Voxels of the tiles that were predicted for the comparison."""

    n_voxels_of_run: int
    """Voxels of the tiles of the run."""

    seed: int
    """The regions are a function of it and of the plan."""

    plan: str
    """Fingerprint of the plan."""

    model: str
    """Digest of all that the model computes with."""

    model_unknown: tuple[str, ...]
    """What of the model cannot be identified."""

    versions: tuple[str, ...]
    """Names and versions of Patchloom and of the libraries that computed."""

    seconds: float
    """Time that the comparison took."""

    @property
    def passed(self) -> bool:
        """Whether all outputs equal the predictions of the regions within their tolerance."""
        return all(difference.passed for difference in self.outputs)

    @property
    def is_exact(self) -> bool:
        """Whether no region could be wrong itself: the reach of the model is known, and the tiles were larger than that."""
        return all(region.is_exact for region in self.regions)

    @property
    def cost(self) -> float:
        """Voxels that were predicted for the comparison, as a share of those of the run."""
        return self.n_voxels_predicted / self.n_voxels_of_run

    def to_dict(self) -> dict[str, Any]:
        """Return plain values that go to JSON, with the verdict, the shares and the specification of the worst voxel."""
        plain = asdict(self)
        for values, difference in zip(plain["outputs"], self.outputs, strict=True):
            values |= {"passed": difference.passed, "share_over": difference.share_over, "worst": difference.worst}
        return plain | {"passed": self.passed, "is_exact": self.is_exact, "cost": self.cost}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Return the certificate that `to_dict` was made of, before or after JSON.

        Parameters
        ----------
        values : mapping of str to object
            The values.

        Raises
        ------
        LookupError, TypeError, ValueError
            If they are not those of a certificate.
        """
        outputs = [_own(OutputDifference, difference) for difference in values["outputs"]]
        return cls(**parse_fields(cls, {**_own(cls, values), "outputs": outputs}))

    def rows(self) -> list[tuple[str, ...]]:
        """Return the rows of the table: a heading, and one row for each output."""
        heading = ("output", "largest difference", "99.9 %", "tolerance", "voxels over it", "worst at", "verdict")
        return [heading, *map(_row, self.outputs)]

    def remarks(self) -> list[str]:
        """Return sentences about what was compared and what it shows."""
        if not self.regions:
            skipped = ", or the skip rule skips tiles where they meet" if self.n_skipped_regions else ""
            return [f"nothing was compared: no two tiles meet in what was predicted{skipped}"]
        count = "1 region" if len(self.regions) == 1 else f"{len(self.regions)} regions"
        cost = f"{self.cost:.1%} of the voxels of the run, {self.seconds:.1f} s"
        remarks = [f"{count} at seams and borders predicted once more, {cost}"]
        if not self.is_exact:
            remarks.append(
                "the reach of the model is not known, or is larger than these tiles allow: their middle was compared, and may "
                "depend on more of the image itself"
            )
        if not self.passed:
            remarks.append("tiles do not give the result of larger tiles: use larger overlaps, or see seam_map")
        return remarks

    def __str__(self) -> str:
        rows = self.rows() if self.outputs else []
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        return "\n".join([*lines, *self.remarks()])


def _row(difference: OutputDifference) -> tuple[str, ...]:
    position = ", ".join(map(str, difference.worst_coords))
    return (
        difference.output or "prediction",
        "other labels" if difference.is_labels and difference.n_over else f"{difference.largest:.3g}",
        "" if difference.is_labels else f"{difference.percentiles[-1]:.3g}",
        f"{difference.tolerance:.2%}" if difference.is_labels else f"{difference.tolerance:.3g}",
        f"{difference.share_over:.3%}",
        f"({position})" if difference.worst_data_idx >= 0 else "",
        "equal" if difference.passed else "differs",
    )


def _own(kind: type[Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of the fields of a dataclass, without what is computed from them."""
    return {entry.name: values[entry.name] for entry in fields(kind)}
