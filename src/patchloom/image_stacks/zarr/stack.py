"""Image stacks over Zarr v2 and v3, OME-Zarr, N5 and neuroglancer precomputed, on disk or remote, by TensorStore."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorstore as ts
from numpy.typing import NDArray

from patchloom.argument_checks import whole_number
from patchloom.axes import AxesMap
from patchloom.errors import SourceError, SourceNotFoundError
from patchloom.forked_process import check_not_forked
from patchloom.image_metadata import ImageMetadata
from patchloom.image_stacks.metadata import fitting_metadata
from patchloom.image_stacks.protocols import Region, Storage
from patchloom.image_stacks.sliced_stack import SlicedStack, as_data_box, describe_selection
from patchloom.image_stacks.source_axes import axes_from_names, axes_map_of, unknown_axes
from patchloom.image_stacks.source_paths import checked_path
from patchloom.image_stacks.zarr.node import DOCUMENTS, ZarrNode, context, is_zarr_folder, place, read_node, reason
from patchloom.image_stacks.zarr.ome_image import OmeZarrImage, ome_zarr_image, path_inside
from patchloom.local_paths import is_url

CHUNK_BYTES = (2 << 30) - 1
"""Bytes of the largest chunk that is decoded: what Zarr's compressors can take."""


class ZarrStack(SlicedStack):
    """An image stack over one array of a Zarr, OME-Zarr, N5 or neuroglancer precomputed, on disk or remote.

    All regions of a batch are read concurrently. The stack has a storage grid (`HasStorageGrid`). A chunk that was never written
    has the fill value of the array.

    Parameters
    ----------
    source : str or Path
        Path or URL (`http`, `https`, `s3`, `gs`) of an array, of a level of an OME-Zarr image, or of the image itself.
    axes : str, optional
        Axes of the array: letters of `STCZYX`, outermost first; they override the metadata. If None, they are read from the
        metadata of OME-Zarr or the names of the dimensions, and a `Z` of size 1 is left out, as many OME-Zarrs are
        five-dimensional for any image.
    level : int, optional
        Level of an OME-Zarr image, or scale of a precomputed one. If None, 0: the full image.

    Raises
    ------
    SourceNotFoundError
        If there is no Zarr, or no such level.
    SourceError
        If it cannot be read, or contains several images; the message names one.
    AxesError
        If the axes are not known or do not fit the array.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     array = ts.open(
    ...         {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{folder}/cells.zarr"}},
    ...         create=True, dtype=ts.uint8, shape=[3, 64, 48], chunk_layout=ts.ChunkLayout(chunk_shape=[1, 32, 32]),
    ...         dimension_units=None, domain=ts.IndexDomain(labels=["c", "y", "x"], shape=[3, 64, 48]),
    ...     ).result()
    ...     array[...] = 7
    ...     stack = ZarrStack(Path(folder, "cells.zarr"))
    ...     print(stack.original_axes, stack.chunk_shape, stack.extract_patch(0, [2], (63, 0), (2, 2)).tolist())
    CYX (1, 1, 32, 32) [[[7, 7], [0, 0]]]
    """

    def __init__(self, source: str | Path, axes: str | None = None, level: int | None = None) -> None:
        source = checked_path("source", source)
        level = None if level is None else whole_number("level", level)
        found = _find_array(source, level, axes_given=axes is not None)
        self._spec, self._level = found.spec, found.level
        whole = _open(source, found.spec, context())
        own = axes_map_of(source, axes, whole.shape) if axes is not None else _own_axes(source, whole, found)
        # A single slice is a 2D image, unless the axes are given.
        drop_z = axes is None and "Z" in own.axes and own.size("Z") == 1
        self._view = tuple(0 if drop_z and axis == "Z" else slice(None) for axis in own.axes)
        store = whole[self._view]
        self._stores: dict[bool, Any] = {True: store}
        axes_map = AxesMap(own.axes.replace("Z", "") if drop_z else own.axes, store.shape)
        dtype = np.dtype(store.dtype.numpy_dtype)
        super().__init__(source, axes_map, dtype, _metadata(axes_map, own.axes, whole, found))
        layout = store.chunk_layout
        _check_chunk(source, layout.read_chunk.shape, dtype)
        self._chunk_shape = as_data_box(axes_map, layout.read_chunk.shape)
        self._shard_shape = as_data_box(axes_map, layout.write_chunk.shape)

    @property
    def chunk_shape(self) -> tuple[int, ...]:
        """Shape of a chunk, `SC(Z)YX`; see `HasStorageGrid.chunk_shape`."""
        return self._chunk_shape

    @property
    def shard_shape(self) -> tuple[int, ...]:
        """Shape of a shard, `SC(Z)YX`; see `HasStorageGrid.shard_shape`."""
        return self._shard_shape

    @property
    def files(self) -> tuple[Path, ...]:
        """Folder of the image or array; empty if it is remote; see `HasFiles.files`."""
        return () if is_url(self.source) else (Path(self.source),)

    @property
    def image_in_files(self) -> str:
        """Name of the level; see `HasFiles.image_in_files`."""
        return f"level {self._level}"

    @property
    def storage(self) -> Storage:
        """Folder of the array and metadata of its image, without other levels or labels; see `HasStorage.storage`."""
        if is_url(self.source):
            return Storage(part=str(self.source), unknown="it is remote, and remote chunks are not checked")
        array = Path(self._spec["kvstore"]["path"])
        around = [Path(self.source) / name for name in DOCUMENTS] if Path(self.source).absolute() != array else []
        return Storage((array, *(path for path in around if path.exists())), self.image_in_files)

    def read(self, selection: tuple[slice | int, ...]) -> NDArray[Any]:
        """Read a box; see `SlicedStack.read`."""
        pixels: NDArray[Any] = self._result(self._opened()[selection].read(), selection)
        return pixels

    def read_regions(self, regions: Sequence[Region], out: Sequence[NDArray[Any]]) -> None:
        """Read regions concurrently; see `ReadsRegions.read_regions`."""
        store = self._opened(kept=not all(map(self._is_whole_chunks, regions)))
        selections = [self.axes_map.selection(*region) for region in regions]
        if all(target.dtype == self.data_dtype for target in out):  # without a copy
            places = [ts.array(self.axes_map.from_canonical(target), copy=False) for target in out]
            reads = [place.write(store[chosen]) for place, chosen in zip(places, selections, strict=True)]
            for read in reads:  # all have ended before the first error is raised
                read.exception()
            for selection, read in zip(selections, reads, strict=True):
                self._result(read, selection)
            return
        reads = [store[selection].read() for selection in selections]
        for selection, read, target in zip(selections, reads, out, strict=True):
            target[...] = self.axes_map.to_canonical(self._result(read, selection))

    def _is_whole_chunks(self, region: Region) -> bool:
        """Return whether a region consists of whole chunks, which the reader keeps itself if it needs them again."""
        windows = (slice(region.sample_idx, region.sample_idx + 1), region.channels, *region.window)
        return all(
            part.start % chunk == 0 and (part.stop % chunk == 0 or part.stop == size)
            for part, chunk, size in zip(windows, self._chunk_shape, self.data_shape, strict=True)
        )

    def _opened(self, *, kept: bool = True) -> Any:
        """Return the array, with or without a cache of decoded chunks in TensorStore."""
        check_not_forked()
        if kept not in self._stores:
            self._stores[kept] = _open(self.source, self._spec, context(cached=kept))[self._view]
        return self._stores[kept]

    def _result(self, read: Any, selection: tuple[slice | int, ...]) -> Any:
        try:
            return read.result()
        except (ValueError, OSError, RuntimeError) as error:
            where = describe_selection(self.original_axes, selection)
            raise SourceError(f"{self.source} cannot be read at {where}: {reason(error)}") from error

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_stores": {}}


class _FoundArray(NamedTuple):
    """An array, and the metadata of the groups around it."""

    spec: dict[str, Any]
    attributes: dict[str, Any]
    image: OmeZarrImage | None
    level: int


def _find_array(source: str | Path, level: int | None, *, axes_given: bool) -> _FoundArray:
    node = read_node(place(source))
    if node.kind == "none":
        raise _nothing_there(source)
    if node.kind == "group":
        return _level_of_group(source, node, level or 0)
    if node.driver == "neuroglancer_precomputed":
        _check_keys(source, node.attributes)
        spec = {**_array_spec(node), "scale_index": level or 0}
        return _FoundArray(spec, node.attributes, None, level or 0)
    image, own_level = _image_around(source, node, axes_given=axes_given)
    if level not in (None, own_level):
        what = "a single array" if image is None else f"level {own_level} of its image"
        raise SourceNotFoundError(f"{source} has no level {level}: it is {what}")
    return _FoundArray(_array_spec(node), node.attributes, image, own_level)


def _check_keys(source: str | Path, info: dict[str, Any]) -> None:
    """Check that all scales of a precomputed image lie in its folder."""
    try:
        for scale in info["scales"]:
            path_inside(scale["key"])
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise SourceError(f"{source} has scales that cannot be used: {error}") from error


def _level_of_group(source: str | Path, group: ZarrNode, level: int) -> _FoundArray:
    image = ome_zarr_image(str(source), group.attributes)
    if image is None:
        return _level_of_group(source, _only_image(source, group), level)
    if level not in range(len(image.paths)):
        raise SourceNotFoundError(f"{source} has no level {level}: it has {len(image.paths)}, counted from 0")
    array = group.child(image.paths[level])
    if array.kind != "array":
        raise SourceError(f"{source} is incomplete: its level {level} should be at {image.paths[level]!r}")
    return _FoundArray(_array_spec(array), array.attributes, image, level)


def _only_image(source: str | Path, group: ZarrNode) -> ZarrNode:
    """Return the only image of a group, or raise an error that shows how to name one."""
    found = group.attributes.get("ome", group.attributes)
    ome = found if isinstance(found, dict) else {}
    if "bioformats2raw.layout" in ome:
        first, second = group.child("0"), group.child("1")
        if first.kind == "group" and ome_zarr_image(f"{source}/0", first.attributes) and second.kind == "none":
            return first
        raise SourceError(f"{source} contains several images: name one, such as {source}/0")
    if "plate" in ome:
        raise SourceError(f"{source} is a plate: name an image of it, such as {source}/{_first_well(ome['plate'])}/0")
    inside = [] if is_url(source) else sorted(path.name for path in Path(source).iterdir() if is_zarr_folder(path))
    example = inside[0] if inside else "0"
    raise SourceError(f"{source} is a group without OME-Zarr metadata: name an array in it, such as {source}/{example}")


def _first_well(plate: Any) -> str:
    try:
        return str(plate["wells"][0]["path"])
    except (LookupError, TypeError):
        return "A/1"


def _image_around(source: str | Path, array: ZarrNode, *, axes_given: bool) -> tuple[OmeZarrImage | None, int]:
    """Find the OME-Zarr image of which an array is a level, and the level."""
    for group, path in array.parents():
        try:
            image = ome_zarr_image(str(source).rstrip("/").removesuffix(f"/{path}"), group.attributes)
        except SourceError:
            if axes_given:  # then the metadata are not needed
                break
            raise
        if image is not None:
            return (image, image.paths.index(path)) if path in image.paths else (None, 0)
    return None, 0


def _array_spec(node: ZarrNode) -> dict[str, Any]:
    return {"driver": node.driver, "kvstore": node.kvstore}


def _open(source: str | Path, spec: dict[str, Any], within: ts.Context) -> Any:
    # The cache is not validated again, as an image does not change while it is read.
    checks = {"recheck_cached_metadata": "open", "recheck_cached_data": "open"}
    try:
        store = ts.open({**spec, **checks}, open=True, read=True, context=within).result()
    except (ValueError, OSError, RuntimeError) as error:
        raise SourceError(f"{source} cannot be opened: {reason(error)}") from error
    return store[ts.d[:].translate_to[0]] if store.rank else store


def _own_axes(source: str | Path, store: Any, found: _FoundArray) -> AxesMap:
    dimensions = found.attributes.get("_ARRAY_DIMENSIONS")
    labels = dimensions if isinstance(dimensions, list) else store.domain.labels
    names = found.image.axes if found.image else labels
    axes = axes_from_names(names)
    if axes is None:
        named = f"its dimensions are named {', '.join(map(str, names))}" if any(names) else ""
        raise unknown_axes(source, store.shape, named, names)
    return axes_map_of(source, axes, store.shape)


def _check_chunk(source: str | Path, shape: Sequence[int], dtype: np.dtype[Any]) -> None:
    """Refuse chunks of which a single one may fill the memory, even if its file is small."""
    n_bytes = math.prod(shape) * dtype.itemsize
    if n_bytes > CHUNK_BYTES:
        raise SourceError(
            f"{source} has chunks of {n_bytes} bytes, shape {tuple(shape)}, but at most {CHUNK_BYTES} are decoded at once: "
            "store it in smaller chunks"
        )


def _metadata(axes_map: AxesMap, axes: str, store: Any, found: _FoundArray) -> ImageMetadata:
    """Return the metadata of the image; `axes` are those of the whole array."""
    image = found.image
    if image is not None and len(image.axes) == len(axes):
        return fitting_metadata(
            axes_map,
            name=image.name,
            steps=dict(zip(axes, zip(image.scales[found.level], image.units, strict=True), strict=True)),
            origin=dict(zip(axes, image.translations[found.level], strict=True)),
            channel_names=image.channel_names,
            channel_colors=image.channel_colors,
            is_rgb=image.is_rgb,
        )
    units = [(None, "") if unit is None else (unit.multiplier, unit.base_unit) for unit in store.dimension_units]
    return fitting_metadata(axes_map, steps=dict(zip(axes, units, strict=True)))


def _nothing_there(source: str | Path) -> SourceError:
    if not is_url(source) and Path(source).exists():
        return SourceError(
            f"{source} is not a Zarr: it contains neither zarr.json nor .zarray, .zgroup, attributes.json or info"
        )
    return SourceNotFoundError(f"there is no Zarr at {source}: check the path")
