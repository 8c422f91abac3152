"""Tiles → one image in memory, cropped or blended: an image with a hole is never returned."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from math import prod
from typing import Any, cast

import numpy as np
from numpy.typing import DTypeLike, NDArray

from patchloom.argument_checks import MAX_SIZE, instance, listed, shown, whole_number
from patchloom.axes import spatial_axes
from patchloom.errors import PatchloomError, StitchError
from patchloom.geometry.blend_weights import BlendWindow, check_blend, tile_weights
from patchloom.patching import TiledPatching
from patchloom.pixel_arrays import PIXEL_KINDS, pixel_dtype, round_to
from patchloom.specs.patch_specs import TileSpecs
from patchloom.specs.spec_table import SpecTable
from patchloom.stitching.assembler import BlockAssembler
from patchloom.stitching.blend import blend_dtype


class CropStitcher:
    """Stitches the tiles of one image stack, in any order. An image with a hole is never returned.

    Blended tiles are summed in the order in which they are added: another order may change a voxel by its rounding.

    Parameters
    ----------
    data_shape : sequence of int
        Shape of the image to make, `SC(Z)YX`; `C` is the number of channels of the tiles.
    dtype : dtype
        Dtype of the image. Blended floats turn into integers by rounding.
    blend : {"hann", "gaussian", "linear", "mean"}, optional
        Blend overlapping tiles with this window, as in `patchloom.predict`. If None, each voxel is cropped from one tile.
    tiling : TiledPatching, optional
        The tiles; needed to blend, since the weights of a tile depend on its neighbors.

    Raises
    ------
    StitchError
        If the shape is not `SCYX` or `SCZYX`, or `blend` is given without `tiling`.
    GeometryError
        If the dtype holds no numbers, or `blend` is not a window.

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

    def __init__(
        self,
        data_shape: Sequence[int],
        dtype: DTypeLike,
        *,
        blend: BlendWindow | None = None,
        tiling: TiledPatching | None = None,
    ) -> None:
        shape = listed("data_shape", data_shape, "the shape of an image, SCYX or SCZYX")
        if len(shape) not in (4, 5):
            raise StitchError(f"data_shape is {shown(tuple(shape))}: it must be SCYX or SCZYX")
        sizes = [whole_number("data_shape", size, least=1, most=MAX_SIZE) for size in shape]
        self._dtype = pixel_dtype("dtype", dtype)
        self._blend = None if blend is None else check_blend(blend)
        self._tiling = tiling if tiling is None else instance("tiling", tiling, TiledPatching)
        summed = self._dtype
        if self._blend is not None:
            if self._tiling is None:
                raise StitchError(f"blend is {blend!r} and tiling is None: give the tiling, or leave blend out to crop")
            summed = blend_dtype(self._tiling.rules, [sizes[2:]], self._dtype)
        try:
            self._image: NDArray[Any] = np.zeros(sizes, summed)
        except (MemoryError, ValueError) as error:
            if isinstance(error, PatchloomError):
                raise
            raise StitchError(
                f"data_shape is {tuple(sizes)}: such an image does not fit into memory; predict writes files"
            ) from error
        window = tuple(slice(0, size) for size in sizes[2:])
        self._assembler = BlockAssembler(
            lambda _sample_idx: window,
            sizes[1],
            summed,
            n_blended_tiles=None if self._blend is None else self._n_tiles,
        )
        self._kept: set[tuple[int, tuple[int, ...], tuple[int, ...]]] = set()
        self._series: tuple[int, int] | None = None

    def add(self, tile: NDArray[Any], spec: TileSpecs) -> None:
        """Add one tile to the image.

        Parameters
        ----------
        tile : array
            `C(Z)YX`, the whole tile.
        spec : TileSpecs
            Where the tile lies and what is kept of it.

        Raises
        ------
        StitchError
            If the tile was added before, belongs to another image or does not fit; the image is not changed then.
        SpecError
            If the specification lacks a field or has a number that is not whole.
        """
        spec = cast("TileSpecs", SpecTable.from_specs([spec])[0])
        self._check(tile, spec)
        weights, sample_idx = None, spec["sample_idx"]
        if self._blend is not None and self._tiling is not None:
            self._check_blended(spec)
            weights = tile_weights(self._blend, self._tiling.rules, self._image.shape[2:], spec["coords"])
        self._series = (spec["data_idx"], spec["total_tiles"])
        if not self._assembler.has_memory(sample_idx):
            self._assembler.allocate(sample_idx, self._image[sample_idx])
        self._assembler.add(sample_idx, tile, spec, weights)
        if weights is not None:
            self._assembler.flush()
        self._kept.add((spec["sample_idx"], tuple(spec["stitch_coords"]), tuple(spec["crop_size"])))

    def finish(self) -> NDArray[Any]:
        """Return the image, once all tiles are there.

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
            raise StitchError(
                f"{len(self._kept)} of {total or 'at least 1'} tiles were added: add the missing ones first"
            )
        for sample_idx in range(self._image.shape[0]):
            self._check_partition(sample_idx)
        return round_to(self._image, self._dtype)

    def _n_tiles(self, _sample_idx: int) -> int:
        """Return the number of tiles of a sample, once a tile was checked."""
        assert self._series is not None  # noqa: S101  # set before a tile is added
        return self._series[1] // len(self._image)

    def _check_blended(self, spec: TileSpecs) -> None:
        """Refuse a tile whose weights are not those of the tiling."""
        assert self._tiling is not None  # noqa: S101  # asked only then
        self._tiling.index_of(spec)
        planned = self._tiling.data_shapes[spec["data_idx"]]
        if (planned[0], *planned[2:]) != (self._image.shape[0], *self._image.shape[2:]):
            raise StitchError(f"data_shape is {self._image.shape}, and the tiling is for an image of shape {planned}")

    def _check(self, tile: NDArray[Any], spec: TileSpecs) -> None:
        _check_is_tile(spec)
        _check_numbers(tile)
        place = f"tile at {tuple(spec['coords'])} of sample {spec['sample_idx']} of image stack {spec['data_idx']}"
        if self._series not in (None, (spec["data_idx"], spec["total_tiles"])):
            raise StitchError(
                f"{place} is not of this image: the tiles so far are of image stack {self._series[0]}, which has {self._series[1]} tiles"
            )
        samples, channels, *spatial = self._image.shape
        if not 0 <= spec["sample_idx"] < samples:
            raise StitchError(f"{place} is not of this image: the image has {samples} samples")
        self._check_form(tile, spec, place)
        if tile.shape != (channels, *spec["patch_size"]):
            raise StitchError(f"{place} has shape {tile.shape}, and must have {(channels, *spec['patch_size'])}")
        _check_kept_part(spec, spatial, place)
        if (spec["sample_idx"], tuple(spec["stitch_coords"]), tuple(spec["crop_size"])) in self._kept:
            raise StitchError(f"{place} is repeated: it was added before")

    def _check_form(self, tile: NDArray[Any], spec: TileSpecs, place: str) -> None:
        """Refuse a tile of other dimensions, or of a dtype that the image cannot hold."""
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
        """Check that the kept parts of a sample are the cells of one grid, and so cover each voxel once."""
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
            raise StitchError(
                f"sample {sample_idx} has {len(kept)} of {prod(counts)} tiles: add the missing ones first"
            )


def stitch_tiles(
    tiles: Iterable[NDArray[Any]],
    specs: Iterable[TileSpecs],
    data_shape: Sequence[int] | None = None,
    *,
    blend: BlendWindow | None = None,
    tiling: TiledPatching | None = None,
) -> NDArray[Any]:
    """Put all tiles of one image stack together.

    Parameters
    ----------
    tiles : iterable of array
        `C(Z)YX` each; a `(B, C, (Z), Y, X)` array is a sequence of them.
    specs : iterable of TileSpecs
        One specification for each tile, in the same order.
    data_shape : sequence of int, optional
        Shape of the image, `SC(Z)YX`. If None, it follows from the specifications.
    blend, tiling
        As of `CropStitcher`.

    Returns
    -------
    array
        `SC(Z)YX` in the tiles' dtype.

    Raises
    ------
    StitchError
        If tiles are missing, repeated or of another image, or the numbers of tiles and specifications differ.
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
        _check_is_tile(spec)
    rows = cast("list[TileSpecs]", SpecTable.from_specs(rows).to_specs())
    if data_shape is None:
        ends = np.max([np.add(spec["stitch_coords"], spec["crop_size"]) for spec in rows], axis=0).tolist()
        data_shape = (1 + max(spec["sample_idx"] for spec in rows), len(arrays[0]), *ends)
    dtype = np.result_type(*{array.dtype for array in arrays})
    stitcher = CropStitcher(data_shape, dtype, blend=blend, tiling=tiling)
    for array, spec in zip(arrays, rows, strict=True):
        stitcher.add(array, spec)
    return stitcher.finish()


def _holds(dtype: np.dtype[Any], of_tile: np.dtype[Any]) -> bool:
    """Return whether a dtype holds the values of another; floats may be rounded to shorter ones."""
    return np.can_cast(of_tile, dtype, "safe") or (
        dtype.kind in "fc" and of_tile.kind in "fc" and np.can_cast(of_tile, dtype, "same_kind")
    )


def _check_is_tile(spec: Any) -> None:
    """Refuse a specification without the keys of a tile."""
    missing = [key for key in TileSpecs.__annotations__ if not isinstance(spec, Mapping) or key not in spec]
    if missing:
        raise StitchError(
            f"the specification {shown(spec)} has no {', '.join(missing)}: give that of a tile (TileSpecs)"
        )


def _check_kept_part(spec: TileSpecs, spatial: Sequence[int], place: str) -> None:
    """Refuse a kept part outside its tile or outside the image."""
    for axis, start, crop, size, position, patch, limit in zip(
        spatial_axes(len(spatial)),
        spec["coords"],
        spec["crop_coords"],
        spec["crop_size"],
        spec["stitch_coords"],
        spec["patch_size"],
        spatial,
        strict=True,
    ):
        if not 0 <= crop < crop + size <= patch:
            raise StitchError(f"{place} keeps {crop}:{crop + size} along {axis}, which is not inside the tile")
        if start + crop != position:
            raise StitchError(
                f"{place} has stitch_coords {position} along {axis}: it must be coords + crop_coords, {start + crop}"
            )
        if not 0 <= position < position + size <= limit:
            raise StitchError(
                f"{place} is not of this image: its kept part is {position}:{position + size} along {axis}, and the image has size {limit}"
            )


def _check_numbers(tile: object) -> None:
    if not isinstance(tile, np.ndarray) or tile.dtype.kind not in PIXEL_KINDS:
        kind = f"an array of {tile.dtype}" if isinstance(tile, np.ndarray) else f"a {type(tile).__name__}"
        raise StitchError(f"a tile is {kind}: it must be a NumPy array of numbers")
