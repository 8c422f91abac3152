"""Patches at random positions, all equally likely."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Self

import numpy as np
from numpy.typing import NDArray

from patchloom.geometry.patch_positions import Coverage, position_counts, unravel
from patchloom.patching.counter_random import checked_epoch
from patchloom.patching.flat_index import FlatIndex, PatchNumbering, Place, Places
from patchloom.patching.randomized_patching import RandomizedPatching


class RandomPatching(RandomizedPatching):
    """Patches at random positions, different in every epoch.

    Each patch is a pure function of (seed, epoch, index): it is the same for any number of workers, ranks or restarts.

    Parameters
    ----------
    data_shapes : sequence of sequence of int
        Shape of each image stack, `SC(Z)YX`.
    patch_size : int or sequence of int
        `(z,) y, x`, or one number for all axes, in voxels.
    seed : int, optional
        Patchings with the same seed are the same. If None, a seed is drawn; see the attribute `seed`.
    n_patches : int, optional
        Number of patches in an epoch. They are distributed over samples in proportion to their voxels (with
        `coverage="uniform"`, to their positions), so that voxels of small and large images are equally likely; patch `i` may
        then come from another sample in another epoch. If None, each sample has as many patches as cover it without overlap,
        `∏ ⌈A / P⌉`.
    coverage : {"inside", "uniform"}
        `"inside"`: patches stay inside the image. Voxels within a patch size of the border are then drawn less often, a
        corner voxel `∏ min(P, A - P + 1)` times less than a voxel in the middle. `"uniform"`: patches may reach past the
        border, as long as they touch the image, and every voxel is equally likely.

    Raises
    ------
    GeometryError
        If a size is not valid, or a patch that is to stay inside is larger than an image.

    Examples
    --------
    >>> patching = RandomPatching([(1, 1, 100, 80)], patch_size=(64, 64), seed=7)
    >>> len(patching), patching[0]["coords"], patching.at_epoch(1)[0]["coords"]
    (4, (27, 12), (6, 6))

    Notes
    -----
    In an epoch of `n` patches of an image of one sample, a voxel is expected `n ∏P / ∏(A - P + 1)` times in the middle with
    `coverage="inside"`, and `n ∏P / ∏(A + P - 1)` times everywhere with `coverage="uniform"`.
    """

    def __init__(
        self,
        data_shapes: Sequence[Sequence[int]],
        patch_size: int | Sequence[int],
        seed: int | None = 0,
        *,
        n_patches: int | None = None,
        coverage: Coverage = "inside",
    ) -> None:
        super().__init__(data_shapes, patch_size, seed, n_patches)
        self.coverage: Coverage = coverage
        self._extents = position_counts(self.data_shapes, self.patch_size, coverage)
        self._extent_table = np.array(self._extents, dtype=np.int64)
        self._overhang = tuple(patch - 1 if coverage == "uniform" else 0 for patch in self.patch_size)

    def _numbering(self) -> PatchNumbering:
        n_samples = [shape[0] for shape in self.data_shapes]
        if self._requested is None:
            return FlatIndex(n_samples, [covering_patches(shape, self.patch_size) for shape in self.data_shapes])
        sizes = self._extents if self.coverage == "uniform" else [shape[2:] for shape in self.data_shapes]
        weights = np.array([float(prod(size)) for size in sizes])
        return self._spread(np.repeat(weights, n_samples), self._requested)

    def _coords(self, place: Place) -> list[int]:
        extents = self._extents[place.data_idx]
        position = self._draws.below(prod(extents), place.flat)
        return [coord - over for coord, over in zip(unravel(position, extents), self._overhang, strict=True)]

    def _many_coords(self, places: Places) -> list[NDArray[np.int64]]:
        extents = places.of_stacks(self._extent_table)
        positions = self._draws.below_many(prod(extents), places.flat)
        return [coord - over for coord, over in zip(unravel(positions, extents), self._overhang, strict=True)]


class FixedRandomPatching(RandomPatching):
    """Patches at random positions, the same in every epoch: for validation.

    They are the patches of a `RandomPatching` with the same arguments in epoch 0.

    Examples
    --------
    >>> patching = FixedRandomPatching([(1, 1, 100, 80)], patch_size=(64, 64), seed=7)
    >>> patching[0]["coords"], patching.at_epoch(1)[0]["coords"]
    ((27, 12), (27, 12))
    """

    def at_epoch(self, epoch: int) -> Self:
        """Return the patching itself; see `Patching.at_epoch`."""
        checked_epoch(epoch)
        return self


def covering_patches(shape: Sequence[int], patch_size: Sequence[int]) -> int:
    """Count the patches that cover a sample without overlap: `∏ ⌈A / P⌉`.

    Examples
    --------
    >>> covering_patches((1, 1, 100, 80), (64, 64))
    4
    """
    return prod(-(-size // patch) for size, patch in zip(shape[2:], patch_size, strict=True))
