"""From specifications to windows of the image stacks of a series, for one batch or many."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from patchloom.errors import SpecError
from patchloom.extraction.window_reads import Windows
from patchloom.geometry.checks import spatial_tuple
from patchloom.specs.spec_table import SpecTable


class SeriesWindows(NamedTuple):
    """The windows of patches whose specifications were checked against a series."""

    patch_size: tuple[int, ...]

    stacks: NDArray[np.int64]
    """`(n,)`: image stack of each window."""

    windows: Windows
    """`per_patch` windows for each patch, patch by patch."""

    per_patch: int
    """Number of windows of a patch: one, or one for each channel."""

    @property
    def n_patches(self) -> int:
        """Number of patches."""
        return len(self.stacks) // self.per_patch

    def of_patches(self, start: int, stop: int) -> SeriesWindows:
        """Return some of the patches, as the first rows of their own batch."""
        chosen = slice(start * self.per_patch, stop * self.per_patch)
        corners, extent, places = self.windows
        windows = Windows(corners[chosen], extent, places[: chosen.stop - chosen.start])
        return self._replace(stacks=self.stacks[chosen], windows=windows)

    def by_stack(self) -> Iterator[tuple[int, Windows]]:
        """Yield the windows of each image stack."""
        if len(self.stacks) == 1 or (self.stacks == self.stacks[:1]).all():
            for stack in self.stacks[:1].tolist():
                yield stack, self.windows
            return
        corners, extent, places = self.windows
        for stack in np.unique(self.stacks).tolist():
            chosen = self.stacks == stack
            yield stack, Windows(corners[chosen], extent, places[chosen])


def locate(table: SpecTable, shapes: NDArray[np.int64]) -> SeriesWindows:
    """Return the windows of a series that patches consist of.

    Parameters
    ----------
    table : SpecTable
        Patches of one size.
    shapes : array
        `(stacks, axes)`: shape of each image stack, `SC(Z)YX`.

    Raises
    ------
    SpecError
        If a specification points outside the series, or they differ in size.

    Examples
    --------
    >>> specs = [{"data_idx": 0, "sample_idx": 2, "coords": (4, 6), "patch_size": (8, 8)}]
    >>> locate(SpecTable.from_specs(specs), np.array([[3, 1, 20, 20]])).windows.corners.tolist()
    [[2, 0, 4, 6]]
    """
    columns = table.columns
    n_channels = int(shapes[0, 1])
    size = _checked_size(table, shapes.shape[1] - 2)
    _check_places(columns["data_idx"], columns["sample_idx"], shapes)
    if "all_data_idx" in columns:
        per_patch, extent = columns["all_data_idx"].shape[1], (1, *size)
        if per_patch != n_channels:
            raise SpecError(f"specifications place {per_patch} channels, but the series has {n_channels}")
        stacks, samples = columns["all_data_idx"].ravel(), columns["all_sample_idx"].ravel()
        coords = columns["all_coords"].reshape(len(stacks), -1)
        _check_places(stacks, samples, shapes)
    else:
        per_patch, extent = 1, (n_channels, *size)
        stacks, samples, coords = columns["data_idx"], columns["sample_idx"], columns["coords"]
    corners, places = np.zeros((2, len(stacks), len(size) + 2), np.int64)
    corners[:, 0], corners[:, 2:] = samples, coords
    places[:, 0] = np.arange(len(stacks))
    if per_patch > 1:
        places[:, 0], corners[:, 1] = np.divmod(places[:, 0], per_patch)
        places[:, 1] = corners[:, 1]
    return SeriesWindows(size, stacks, Windows(corners, extent, places), per_patch)


def _checked_size(table: SpecTable, n_dims: int) -> tuple[int, ...]:
    """Return the patch size of all specifications."""
    sizes = table.columns["patch_size"]
    if sizes.shape[-1] != n_dims:
        raise SpecError(f"specifications are {sizes.shape[-1]}D, but the series is {n_dims}D")
    if len(sizes) > 1 and sizes.strides[0] and (sizes != sizes[:1]).any():  # with a step of 0 they are one and the same
        sizes = np.unique(sizes, axis=0)
        raise SpecError(f"a batch has patches of one size; there are {', '.join(map(str, map(tuple, sizes.tolist())))}")
    size = tuple(sizes[0].tolist())
    # Checked for each batch, so first without the words of an error.
    return size if len(size) in (2, 3) and min(size) >= 1 else spatial_tuple("patch_size", size, least=1)


def _check_places(data_idx: NDArray[np.int64], sample_idx: NDArray[np.int64], shapes: NDArray[np.int64]) -> None:
    n_samples = shapes[:, 0]
    for index in data_idx[data_idx.view(np.uint64) >= len(n_samples)][:1].tolist():  # a negative one is very large
        raise SpecError(f"data_idx is {index}, but the series has {len(n_samples)} image stacks")
    wrong = sample_idx.view(np.uint64) >= n_samples[data_idx].view(np.uint64)
    for stack, sample in zip(data_idx[wrong].tolist(), sample_idx[wrong].tolist(), strict=True):
        raise SpecError(f"sample_idx is {sample}, but image stack {stack} has {n_samples[stack]} samples")
