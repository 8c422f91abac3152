"""The tiles on which a skip rule decides."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from patchloom.extraction import ChunkCache
from patchloom.image_stacks import ImageStack
from patchloom.specs.patch_specs import TileSpecs


@dataclass(frozen=True)
class CandidateTiles:
    """Tiles of one image, at most a batch of them, on which a skip rule decides.

    Parameters
    ----------
    image_stacks : sequence of ImageStack
        The series.
    specs : sequence of TileSpecs
        The tiles, at least one, all of one image.
    read : callable
        Returns an array `C(Z)YX` for each tile: the voxels of the image that the model would get, in the dtype of the image. They
        include voxels that padding repeats (`"reflect"`, `"edge"`) or reads from the other side of the image (`"wrap"`), but not the
        zeros of `"constant"`.
    cache : ChunkCache
        The cache of decoded chunks of the run, for rules that read other images.

    Examples
    --------
    >>> import numpy as np
    >>> import patchloom as pl
    >>> stack = pl.ArrayStack(np.zeros((6, 8)), axes="YX")
    >>> tiling = pl.TiledPatching([stack.data_shape], patch_size=(4, 4), overlaps=(0, 0))
    >>> tiles = pl.CandidateTiles([stack], [tiling[3]], read=list, cache=pl.ChunkCache(1000))
    >>> tiles.windows
    [(slice(2, 6, None), slice(4, 8, None))]
    """

    image_stacks: Sequence[ImageStack]
    specs: Sequence[TileSpecs]
    read: Callable[[], list[NDArray[Any]]]
    cache: ChunkCache

    @property
    def data_idx(self) -> int:
        """Index of the image stack."""
        return self.specs[0]["data_idx"]

    @property
    def windows(self) -> list[tuple[slice, ...]]:
        """For each tile, the region that it predicts, cropped to the image, `(z,) y, x` in voxels."""
        spatial_shape = self.image_stacks[self.data_idx].data_shape[2:]
        return [
            tuple(
                slice(max(start, 0), min(start + side, size))
                for start, side, size in zip(spec["coords"], spec["patch_size"], spatial_shape, strict=True)
            )
            for spec in self.specs
        ]
