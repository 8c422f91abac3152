"""One patch per sample: the whole sample."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from patchloom.geometry.checks import listed_shapes, series_shapes
from patchloom.patching.flat_index import FlatIndex, Place, Places
from patchloom.patching.patching import IndexedPatching
from patchloom.specs.patch_specs import PatchSpecs


class WholeSamplePatching(IndexedPatching[PatchSpecs]):
    """Every whole sample of every image stack as one patch.

    Parameters
    ----------
    data_shapes : sequence of sequence of int
        Shape of each image stack, `SC(Z)YX`; all 2D or all 3D.

    Raises
    ------
    GeometryError
        If the series is empty or mixes 2D and 3D.

    Examples
    --------
    >>> WholeSamplePatching([(2, 1, 100, 80)])[1]
    {'data_idx': 0, 'sample_idx': 1, 'coords': (0, 0), 'patch_size': (100, 80)}
    """

    def __init__(self, data_shapes: Sequence[Sequence[int]]) -> None:
        shapes = listed_shapes("data_shapes", data_shapes)
        self.data_shapes = series_shapes(shapes, n_dims=len(shapes[0]) - 2 if shapes else 2)
        super().__init__(FlatIndex([shape[0] for shape in self.data_shapes], [1] * len(self.data_shapes)))

    def _spec(self, place: Place) -> PatchSpecs:
        size = self.data_shapes[place.data_idx][2:]
        return {
            "data_idx": place.data_idx,
            "sample_idx": place.sample_idx,
            "coords": (0,) * len(size),
            "patch_size": size,
        }

    def _columns(self, places: Places) -> dict[str, NDArray[np.int64]]:
        sizes = np.asarray([shape[2:] for shape in self.data_shapes], dtype=np.int64)[places.data_idx]
        return {"coords": np.zeros_like(sizes), "patch_size": sizes}
