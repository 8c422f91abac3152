"""Whether the seams of a stitched image can be seen: jumps across them, compared with jumps at places without seams."""

from __future__ import annotations

from dataclasses import dataclass
from math import erfc, sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchloom.argument_checks import instance, shown
from patchloom.errors import StitchError
from patchloom.patching import TiledPatching

_MOST_SHIFTS = 200
"""Shifted grids along one axis: more do not change the estimate of their spread."""

_LEAST_SHIFTS = 5
"""Fewer shifted grids show no spread."""

VISIBLE = 0.01
"""Probability of so large a jump without seams, below which seams count as visible."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SeamVisibility:
    """The jumps of an image across its seams, compared with those across the same grid of lines, shifted to places without seams.

    Visible seams are not the errors of tiles. An error that is smooth, or smaller than the texture of the image, leaves no jump; see
    `certify` for errors.
    """

    ratio: float
    """Mean jump across seams, divided by the mean jump elsewhere; NaN if there is no seam, or no jump."""

    expected: float
    """The same ratio for the shifted grids: their mean."""

    spread: float
    """Standard deviation of the ratio among the shifted grids; NaN if there are too few."""

    n_seams: int
    """Number of seams, along all axes."""

    @property
    def deviation(self) -> float:
        """How far the ratio is above the expected one, in multiples of the spread."""
        if self.spread > 0:
            return (self.ratio - self.expected) / self.spread
        return float("nan") if np.isnan(self.spread) or np.isnan(self.ratio) else np.inf * (self.ratio - self.expected)

    @property
    def probability(self) -> float:
        """Probability that a grid without seams has so large a ratio, if the ratios have a normal distribution."""
        deviation = self.deviation
        return 1.0 if np.isnan(deviation) else 0.5 * erfc(deviation / sqrt(2))

    @property
    def is_visible(self) -> bool:
        """Whether this probability is below 1 %."""
        return self.probability < VISIBLE

    def __str__(self) -> str:
        verdict = "visible" if self.is_visible else "not visible"
        return (
            f"seams {verdict}: jumps across them are {self.ratio:.3f} of those elsewhere; without seams {self.expected:.3f} ± "
            f"{self.spread:.3f} is expected"
        )


def seam_visibility(image: NDArray[Any], tiling: TiledPatching, data_idx: int = 0) -> SeamVisibility:
    """Compare the jumps of an image across seams with those across shifted grids without seams.

    A jump is the absolute difference of two neighboring voxels. Its mean over all seams is divided by its mean over all other places
    along the same axis. The same is done with the grid of seams shifted along each axis, which gives the value and the spread that
    are expected in this image without seams.

    Parameters
    ----------
    image : array
        The stitched image, `SC(Z)YX`.
    tiling : TiledPatching
        The tiles that it was stitched from.
    data_idx : int
        Index of the image stack in the tiling.

    Returns
    -------
    SeamVisibility
        The ratio, what is expected of it, and a verdict.

    Raises
    ------
    StitchError
        If the image has another size than that of the tiling.

    Examples
    --------
    >>> tiling = TiledPatching([(1, 1, 64, 64)], patch_size=(64, 16), overlaps=(0, 0))
    >>> noise = np.random.default_rng(0).random((1, 1, 64, 64))
    >>> seam_visibility(noise, tiling).is_visible
    False
    >>> tilewise = noise + np.arange(64) // 16 % 2
    >>> seam_visibility(tilewise, tiling).is_visible
    True
    """
    instance("tiling", tiling, TiledPatching)
    tiling.get_patch_indices(data_idx)  # refuses an index that does not exist
    spatial = tiling.data_shapes[data_idx][2:]
    _check_image(image)
    if image.shape[2:] != spatial:
        raise StitchError(
            f"image has spatial shape {image.shape[2:]}, but the tiling is for {spatial}: give the stitched image"
        )
    along_axes = [
        _Axis.of(_mean_jumps(image, axis), _seams(tiling, data_idx, axis))
        for axis in range(len(spatial))
        if tiling.grid_shape(data_idx)[axis] > 1
    ]
    usable = [axis for axis in along_axes if axis is not None]
    n_seams = sum(axis.n_seams for axis in usable)
    elsewhere = sum(axis.elsewhere * axis.n_seams for axis in usable)
    if not elsewhere:
        nan = float("nan")
        return SeamVisibility(ratio=nan, expected=nan, spread=nan, n_seams=n_seams)
    return SeamVisibility(
        ratio=float(sum(axis.at_seams * axis.n_seams for axis in usable) / elsewhere),
        expected=float(sum(axis.expected * axis.n_seams for axis in usable) / elsewhere),
        spread=float(sqrt(sum((axis.spread * axis.n_seams) ** 2 for axis in usable)) / elsewhere),
        n_seams=n_seams,
    )


def _seams(tiling: TiledPatching, data_idx: int, axis: int) -> NDArray[np.int64]:
    """Return the jumps that lie at seams: that between the voxels `i` and `i + 1` has the index `i`."""
    stops = np.asarray(tiling.windows_along(data_idx, axis).keep_stop, np.int64)[:-1] - 1
    return np.asarray(stops[(stops >= 0) & (stops < tiling.data_shapes[data_idx][2 + axis] - 1)])


def _mean_jumps(image: NDArray[Any], axis: int) -> NDArray[np.float64]:
    """Return the mean jump between neighboring voxels at each place along one spatial axis."""
    total = np.zeros(image.shape[2 + axis] - 1)
    for sample in image:
        for channel in sample:
            jumps = np.abs(np.diff(channel.astype(np.float64), axis=axis))
            total += jumps.mean(axis=tuple(other for other in range(jumps.ndim) if other != axis))
    return np.asarray(total / (image.shape[0] * image.shape[1]))


@dataclass(frozen=True)
class _Axis:
    """Mean jumps along one axis."""

    at_seams: float
    elsewhere: float
    expected: float
    spread: float
    n_seams: int

    @classmethod
    def of(cls, jumps: NDArray[np.float64], seams: NDArray[np.int64]) -> _Axis | None:
        """Compare the jumps at seams with those of shifted grids; None if there are only seams, or none."""
        is_seam = np.zeros(len(jumps), bool)
        is_seam[seams] = True
        if is_seam.all() or not is_seam.any():
            return None
        shifted = [jumps[(seams + shift) % len(jumps)].mean() for shift in _shifts(seams, is_seam)]
        has_spread = len(shifted) >= _LEAST_SHIFTS
        return cls(
            at_seams=float(jumps[is_seam].mean()),
            elsewhere=float(jumps[~is_seam].mean()),
            expected=float(np.mean(shifted)) if has_spread else float(jumps[~is_seam].mean()),
            spread=float(np.std(shifted, ddof=1)) if has_spread else float("nan"),
            n_seams=int(is_seam.sum()),
        )


def _shifts(seams: NDArray[np.int64], is_seam: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return shifts, around the end of the axis, for which no line of the shifted grid lies at a seam."""
    shifts = [shift for shift in range(1, len(is_seam)) if not is_seam[(seams + shift) % len(is_seam)].any()]
    spaced = np.linspace(0, len(shifts) - 1, min(len(shifts), _MOST_SHIFTS)).astype(int).tolist()
    return np.array([shifts[index] for index in spaced], np.int64)


def _check_image(image: Any) -> None:
    if not isinstance(image, np.ndarray) or image.dtype.kind not in "biuf":
        raise StitchError(f"image is {shown(image)}: it must be an array SC(Z)YX of real numbers")
