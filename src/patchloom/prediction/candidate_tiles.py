"""Tiles for which a skip rule decides whether the model runs on them."""

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
    """Tiles of one image, as few as a batch holds, for a skip rule to decide on.

    Parameters
    ----------
    image_stacks : sequence of ImageStack
        The series.
    specs : sequence of TileSpecs
        The tiles, as the plan's tiling has them; at least one, all of one image.
    read : callable
        Reads for each tile the voxels of the image that the model would get, in the image's dtype, `C(Z)YX`. Voxels that
        padding repeats (`"reflect"`, `"edge"`) or brings in from the other side (`"wrap"`) are among them; the zeros of
        `"constant"` are not.
    cache : ChunkCache
        Keeps decoded chunks while the run lasts, for rules that read images of their own.
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
        """For each tile, the part of the image that it predicts, `(z,) y, x`; the part outside the image is cut off."""
        spatial_shape = self.image_stacks[self.data_idx].data_shape[2:]
        return [
            tuple(
                slice(max(start, 0), min(start + side, size))
                for start, side, size in zip(spec["coords"], spec["patch_size"], spatial_shape, strict=True)
            )
            for spec in self.specs
        ]
