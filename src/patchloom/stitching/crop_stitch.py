"""Tiles → image by cropping: each tile's kept part is copied to where it lands, and no voxel is written twice."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from math import prod
from typing import Any, cast

import numpy as np
from numpy.typing import DTypeLike, NDArray

from patchloom.argument_checks import MAX_SIZE, listed, shown, whole_number
from patchloom.axes import spatial_axes
from patchloom.errors import PatchloomError, StitchError
from patchloom.pixel_arrays import PIXEL_KINDS, pixel_dtype
from patchloom.specs.patch_specs import TileSpecs, is_tile_specs
from patchloom.specs.spec_table import SpecTable
from patchloom.stitching.crop import paste_tile


class CropStitcher:
    """Puts the tiles of one image stack together, in any order, and refuses to hand over an image with a hole.

    Parameters
    ----------
    data_shape : sequence of int
        Shape of the image to make, `SC(Z)YX`; `C` is the number of channels of the tiles.
    dtype : dtype
        Of the image.

    Raises
    ------
    StitchError
        If the shape is not `SCYX` or `SCZYX`.
    GeometryError
        If the dtype holds no numbers.

    Examples
    --------
    >>> from patchloom import TiledPatching
    >>> image = np.arange(35).reshape(1, 1, 5, 7)
    >>> stitcher = CropStitcher(image.shape, image.dtype)
    >>> for spec in TiledPatching([image.shape], patch_size=(4, 4), overlaps=(1, 3)):
    ...     (y, x), (height, width) = spec["coords"], spec["patch_size"]
    ...     stitcher.add(image[0, :, y : y + height, x : x + width], spec)
    >>> bool((stitcher.finish() == image).all())
    True
    """

    def __init__(self, data_shape: Sequence[int], dtype: DTypeLike) -> None:
        shape = listed("data_shape", data_shape, "the shape of an image, SCYX or SCZYX")
        if len(shape) not in (4, 5):
            raise StitchError(f"data_shape is {shown(tuple(shape))}: it must be SCYX or SCZYX")
        sizes = [whole_number("data_shape", size, least=1, most=MAX_SIZE) for size in shape]
        try:
            self._image: NDArray[Any] = np.zeros(sizes, pixel_dtype("dtype", dtype))
        except (MemoryError, ValueError) as error:
            if isinstance(error, PatchloomError):
                raise
            raise StitchError(
                f"data_shape is {tuple(sizes)}: such an image does not fit into memory; predict writes files"
            ) from error
        self._kept: set[tuple[int, tuple[int, ...], tuple[int, ...]]] = set()
        self._series: tuple[int, int] | None = None

    def add(self, tile: NDArray[Any], spec: TileSpecs) -> None:
        """Copy one tile into the image.

        Parameters
        ----------
        tile : array
            `C(Z)YX`, the whole tile.
        spec : TileSpecs
            Where the tile comes from and what is kept of it.

        Raises
        ------
        StitchError
            If the tile was added before, belongs to another image or does not fit; the image is not changed then.
        SpecError
            If the specification lacks a field or has a number that is not whole.
        """
        spec = cast("TileSpecs", SpecTable.from_specs([spec])[0])
        self._check(tile, spec)
        spatial = self._image.shape[2:]
        paste_tile(tile, spec, self._image[spec["sample_idx"]], tuple(slice(0, size) for size in spatial))
        self._kept.add((spec["sample_idx"], tuple(spec["stitch_coords"]), tuple(spec["crop_size"])))
        self._series = (spec["data_idx"], spec["total_tiles"])

    def finish(self) -> NDArray[Any]:
        """Hand over the image, once all tiles are there.

        Returns
        -------
        array
            `SC(Z)YX`.

        Raises
        ------
        StitchError
            If a tile is missing, or the kept parts overlap.
        """
        total = self._series[1] if self._series else 0
        if len(self._kept) != total or not total:
            raise StitchError(f"{len(self._kept)} tiles were added of {total or 'at least 1'}: tiles are missing")
        for sample_idx in range(self._image.shape[0]):
            self._check_partition(sample_idx)
        return self._image

    def _check(self, tile: NDArray[Any], spec: TileSpecs) -> None:
        if not is_tile_specs(spec):
            raise StitchError(f"the specification says nothing of cropping and stitching: {spec}")
        _check_numbers(tile)
        place = f"tile at {tuple(spec['coords'])} of sample {spec['sample_idx']} of image stack {spec['data_idx']}"
        if self._series not in (None, (spec["data_idx"], spec["total_tiles"])):
            raise StitchError(
                f"{place} is foreign: tiles so far are of image stack {self._series[0]}, {self._series[1]} in all"
            )
        samples, channels, *spatial = self._image.shape
        if not 0 <= spec["sample_idx"] < samples:
            raise StitchError(f"{place} is foreign: the image has {samples} samples")
        self._check_form(tile, spec, place)
        if tile.shape != (channels, *spec["patch_size"]):
            raise StitchError(f"{place} has shape {tile.shape}, and must have {(channels, *spec['patch_size'])}")
        for axis, start, crop, size, landing, patch, limit in zip(
            spatial_axes(len(spatial)),
            spec["coords"],
            spec["crop_coords"],
            spec["crop_size"],
            spec["stitch_coords"],
            spec["patch_size"],
            spatial,
            strict=True,
        ):
            if not (0 <= crop < crop + size <= patch and start + crop == landing):
                raise StitchError(f"{place} keeps {crop}:{crop + size} along {axis}, which is not inside the tile")
            if not 0 <= landing < landing + size <= limit:
                raise StitchError(
                    f"{place} is foreign: it lands at {landing}:{landing + size} along {axis} of size {limit}"
                )
        if (spec["sample_idx"], tuple(spec["stitch_coords"]), tuple(spec["crop_size"])) in self._kept:
            raise StitchError(f"{place} is repeated: it was added before")

    def _check_form(self, tile: NDArray[Any], spec: TileSpecs, place: str) -> None:
        """Refuse a tile of other dimensions, or of a dtype that the image's does not hold."""
        n_dims = self._image.ndim - 2
        fields: Mapping[str, Any] = spec
        for field in ("coords", "patch_size", "crop_coords", "crop_size", "stitch_coords"):
            if len(fields[field]) != n_dims:
                raise StitchError(f"{place} has {field} {fields[field]}: the image is {n_dims}D")
        if not _holds(self._image.dtype, tile.dtype):
            raise StitchError(
                f"{place} is {tile.dtype}, which the image's {self._image.dtype} does not hold: convert it first"
            )

    def _check_partition(self, sample_idx: int) -> None:
        """Whether the kept parts of a sample are all cells of one grid: then they cover each voxel once."""
        kept = [(starts, sizes) for sample, starts, sizes in self._kept if sample == sample_idx]
        spatial = self._image.shape[2:]
        counts = []
        for axis, limit in enumerate(spatial):
            runs = sorted({(starts[axis], starts[axis] + sizes[axis]) for starts, sizes in kept})
            name = spatial_axes(len(spatial))[axis]
            ends = [(0, 0), *runs, (limit, limit)]
            for (_, stop), (start, _) in pairwise(ends):
                if stop != start:
                    fault = "overlap" if stop > start else "leave a hole"
                    raise StitchError(f"tiles of sample {sample_idx} {fault} along {name} between {stop} and {start}")
            counts.append(len(runs))
        if len(kept) != prod(counts):
            raise StitchError(f"sample {sample_idx} has {len(kept)} of {prod(counts)} tiles: tiles are missing")


def stitch_tiles(
    tiles: Iterable[NDArray[Any]], specs: Iterable[TileSpecs], data_shape: Sequence[int] | None = None
) -> NDArray[Any]:
    """Put all tiles of one image stack together.

    Parameters
    ----------
    tiles : iterable of array
        `C(Z)YX` each, all of one dtype; a `(B, C, (Z), Y, X)` array is one too.
    specs : iterable of TileSpecs
        One for each tile, in the same order.
    data_shape : sequence of int, optional
        Shape of the image, `SC(Z)YX`; worked out of the specifications where not given.

    Returns
    -------
    array
        `SC(Z)YX` in the tiles' dtype.

    Raises
    ------
    StitchError
        If tiles are missing, repeated or foreign, or tiles and specifications are not as many.
    SpecError
        If a specification lacks a field or has a number that is not whole.
    """
    arrays = listed("tiles", tiles, "a sequence of arrays, one a tile")
    rows = listed("specs", specs, "a sequence of specifications, one a tile")
    if len(arrays) != len(rows) or not rows:
        raise StitchError(
            f"there are {len(arrays)} tiles and {len(rows)} specifications: give one for each, at least one"
        )
    for array, spec in zip(arrays, rows, strict=True):
        _check_numbers(array)
        if not is_tile_specs(spec):
            raise StitchError(f"the specification says nothing of cropping and stitching: {spec}")
    rows = cast("list[TileSpecs]", SpecTable.from_specs(rows).to_specs())
    if data_shape is None:
        ends = np.max([np.add(spec["stitch_coords"], spec["crop_size"]) for spec in rows], axis=0).tolist()
        data_shape = (1 + max(spec["sample_idx"] for spec in rows), len(arrays[0]), *ends)
    stitcher = CropStitcher(data_shape, np.result_type(*{array.dtype for array in arrays}))
    for array, spec in zip(arrays, rows, strict=True):
        stitcher.add(array, spec)
    return stitcher.finish()


def _holds(dtype: np.dtype[Any], of_tile: np.dtype[Any]) -> bool:
    """Whether a dtype holds the values of another; floats may be rounded to shorter ones."""
    return np.can_cast(of_tile, dtype, "safe") or (
        dtype.kind in "fc" and of_tile.kind in "fc" and np.can_cast(of_tile, dtype, "same_kind")
    )


def _check_numbers(tile: object) -> None:
    if not isinstance(tile, np.ndarray) or tile.dtype.kind not in PIXEL_KINDS:
        kind = f"an array of {tile.dtype}" if isinstance(tile, np.ndarray) else f"a {type(tile).__name__}"
        raise StitchError(f"a tile is {kind}: it must be a NumPy array of numbers")
