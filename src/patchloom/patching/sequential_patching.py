"""Patches on a grid that covers every image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from patchloom.geometry.checks import size_in_series
from patchloom.geometry.patch_positions import position_counts
from patchloom.patching.flat_index import Place, Places
from patchloom.patching.grid_patching import GridPatching
from patchloom.specs.patch_specs import PatchSpecs


class SequentialPatching(GridPatching[PatchSpecs]):
    """Patches on a grid that cover every image and stay inside it.

    On an axis of size `A`, patches of size `P` that share `O` voxels start at multiples of `P - O`, and the last one at
    `A - P`. They lie where the tiles of a `TiledPatching` lie.

    Parameters
    ----------
    data_shapes : sequence of sequence of int
        Shape of each image stack, `SC(Z)YX`.
    patch_size : int or sequence of int
        `(z,) y, x`, or one number for all axes, in voxels.
    overlaps : int or sequence of int, optional
        Voxels that neighboring patches share, `(z,) y, x`, or one number for all axes. If None, 0.

    Raises
    ------
    GeometryError
        If a size or overlap is not valid, or a patch is larger than an image.

    Examples
    --------
    >>> patching = SequentialPatching([(1, 1, 64, 100)], patch_size=(64, 64))
    >>> [spec["coords"] for spec in patching.patch_specs]
    [(0, 0), (0, 36)]
    """

    def __init__(
        self,
        data_shapes: Sequence[Sequence[int]],
        patch_size: int | Sequence[int],
        overlaps: int | Sequence[int] | None = None,
    ) -> None:
        size = size_in_series("patch_size", patch_size, data_shapes, least=1)
        super().__init__(data_shapes, size, (0,) * len(size) if overlaps is None else overlaps)
        position_counts(self.data_shapes, self.patch_size)  # refuses patches that are larger than an image

    def _spec(self, place: Place) -> PatchSpecs:
        return {
            "data_idx": place.data_idx,
            "sample_idx": place.sample_idx,
            "coords": tuple(window.start for window in self._windows(place)),
            "patch_size": self.patch_size,
        }

    def _columns(self, places: Places) -> dict[str, NDArray[np.int64]]:
        coords = np.empty((len(places.local), len(self.rules)), dtype=np.int64)
        for axis, window in enumerate(self._many_windows(places)):
            coords[:, axis] = window.start
        return {"coords": coords, "patch_size": np.broadcast_to(np.array(self.patch_size), coords.shape)}
