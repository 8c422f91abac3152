"""Image stacks over ZEISS CZI files, by pylibCZIrw (the extra `czi`).

Of the readers there are, pylibCZIrw is the one that reads any rectangle of a plane: libCZI beneath it decodes only the
subblocks that the rectangle meets and puts a mosaic together by itself. It is made by ZEISS, and there are wheels for
Linux, macOS and Windows. czifile puts a whole image together in Python, aicspylibczi reads rectangles of mosaics only and
whole planes otherwise, and bioio-czi stands on these two.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from patchloom._optional import require
from patchloom.axes import AxesMap
from patchloom.errors import PatchloomError, SourceError, SourceNotFoundError
from patchloom.image_stacks.czi_metadata import czi_metadata
from patchloom.image_stacks.sliced_stack import SlicedStack, describe_selection
from patchloom.image_stacks.source_axes import axes_from_names, unknown_axes
from patchloom.local_paths import normalize_path

CACHE_BYTES = 64 << 20
"""Decoded subblocks that libCZI keeps for each open file."""

_DTYPES = {
    "Gray8": "uint8",
    "Gray16": "uint16",
    "Gray32Float": "float32",
    "Bgr24": "uint8",
    "Bgr48": "uint16",
    "Bgr96Float": "float32",
}
_PLANE_DIMENSIONS = "BVHIRTZC"
"""The dimensions that number planes, outermost first, by CZI's letters."""


class CziStack(SlicedStack):
    """An image stack over one scene of a CZI; a region read decodes only the subblocks that it meets.

    The image is the rectangle around all of the scene's tiles, wherever on the stage that lies; what no tile covers is 0.
    Axes of size 1 are left out, Y and X excepted, and the samples of an RGB image are `C`, the last axis, as red, green and
    blue.

    Parameters
    ----------
    path : str or Path
        The file.
    scene : int, optional
        Which scene; may be left out where there is only one.
    axes : str, optional
        Other letters for the file's axes, as many as it has: a `Z` that is a series of slices may be called `S`.

    Raises
    ------
    SourceNotFoundError
        If there is no such file or scene.
    SourceError
        If the file is no CZI, is corrupt, or has several scenes and none is chosen; the message lists them.
    AxesError
        If the file has an axis for which there is no letter, or other axes than those given.
    MissingExtraError
        If pylibCZIrw is not installed.

    Examples
    --------
    >>> stack = CziStack("slide.czi", scene=1)                                                        # doctest: +SKIP
    >>> stack.extract_patch(0, None, coords=(0, 0), patch_size=(256, 256)).shape                      # doctest: +SKIP
    (3, 256, 256)
    """

    def __init__(self, path: str | Path, scene: int | None = None, axes: str | None = None) -> None:
        path = normalize_path(path)
        if not Path(path).is_file():
            raise SourceNotFoundError(f"there is no file {path}")
        self._path = str(Path(path).absolute())
        reader = self._open()
        with _failing(path, "read"):
            self._canvas = _canvas(path, reader, scene)
            self._planes = _planes(path, reader)
            document = reader.metadata
        self._numbered = tuple(axis for axis, size in self._planes.sizes.items() if size > 1)
        named = [*self._numbered, "Y", "X", *("C" * self._planes.is_rgb)]
        shape = [self._planes.sizes[axis] for axis in self._numbered] + [self._canvas.height, self._canvas.width]
        shape += [3] * self._planes.is_rgb
        own = axes_from_names(named) if axes is None else axes
        if own is None:
            raise unknown_axes(path, shape, f"and its axes are {''.join(named)!r}")
        axes_map = AxesMap(own, tuple(shape))
        source = path if scene is None else f"{path}@{scene}"
        super().__init__(source, axes_map, self._planes.dtype, czi_metadata(document, axes_map))

    @property
    def files(self) -> tuple[Path, ...]:
        """The file; see `HasFiles.files`."""
        return (Path(self._path),)

    @property
    def image_in_files(self) -> str:
        """Which scene; see `HasFiles.image_in_files`."""
        return f"scene {self._canvas.scene}"

    def read(self, selection: tuple[slice | int, ...]) -> NDArray[Any]:
        """Read a box plane by plane; see `SlicedStack.read`."""
        reader = self._reader or self._open()
        n_numbered = len(self._numbered)
        windows = [slice(index, index + 1) if isinstance(index, int) else index for index in selection]
        y, x = windows[n_numbered : n_numbered + 2]
        roi = (self._canvas.x + x.start, self._canvas.y + y.start, x.stop - x.start, y.stop - y.start)
        box = np.empty([window.stop - window.start for window in windows], self.data_dtype)
        with _failing(self.source, f"read at {describe_selection(self.original_axes, selection)}"):
            for place in np.ndindex(*box.shape[:n_numbered]):
                plane = {
                    axis: window.start + offset
                    for axis, window, offset in zip(self._numbered, windows, place, strict=False)
                }
                pixels = reader.read(roi=roi, plane=plane, scene=self._canvas.scene)
                # The samples of a colour are stored blue first; a grey plane has one sample.
                box[place] = pixels[..., ::-1][..., windows[-1]] if self._planes.is_rgb else pixels[..., 0]
        return box.reshape([index.stop - index.start for index in selection if isinstance(index, slice)])

    def _open(self) -> Any:
        czi = require("pylibCZIrw.czi", extra="czi")
        cache = czi.CacheOptions(max_memory_usage=CACHE_BYTES)
        opened = ExitStack()
        with _failing(self._path, "opened as a CZI"):
            self._reader = opened.enter_context(czi.open_czi(self._path, cache_options=cache))
        weakref.finalize(self, opened.close)
        return self._reader

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_reader": None}


class _Canvas(NamedTuple):
    """The rectangle of the stage, in pixels, that is the image."""

    scene: int | None
    x: int
    y: int
    width: int
    height: int


class _Planes(NamedTuple):
    """Which planes there are, and what is in one."""

    sizes: dict[str, int]
    """How many there are along each dimension that numbers them; others have one."""
    is_rgb: bool
    dtype: np.dtype[Any]


@contextmanager
def _failing(path: str | Path, what: str) -> Iterator[None]:
    try:
        yield
    except PatchloomError:
        raise
    except (RuntimeError, ValueError, KeyError) as error:
        raise SourceError(f"{path} cannot be {what}: {error}") from error


def _canvas(path: str | Path, reader: Any, scene: int | None) -> _Canvas:
    scenes = reader.scenes_bounding_rectangle_no_pyramid
    listed = ", ".join(f"{path}@{number} ({box.w} × {box.h} pixels)" for number, box in sorted(scenes.items()))
    if scene is None:
        if len(scenes) > 1:
            raise SourceError(f"{path} has {len(scenes)} scenes: choose one of {listed}")
        box = reader.total_bounding_rectangle_no_pyramid
    elif scene in scenes:
        box = scenes[scene]
    else:
        raise SourceNotFoundError(
            f"{path} has no scene {scene}: " + (f"it has {listed}" if scenes else "it has no scenes")
        )
    return _Canvas(scene, int(box.x), int(box.y), int(box.w), int(box.h))


def _planes(path: str | Path, reader: Any) -> _Planes:
    bounds = reader.total_bounding_box_no_pyramid
    sizes = {axis: int(bounds[axis][1]) for axis in _PLANE_DIMENSIONS if axis in bounds}
    types = {reader.get_channel_pixel_type(channel) for channel in range(sizes.get("C", 1))}
    is_rgb = {name.startswith("Bgr") for name in types}
    if not types <= set(_DTYPES) or len(is_rgb) > 1:
        raise SourceError(f"{path} has pixels of the types {', '.join(sorted(types))}, which make up no array")
    return _Planes(sizes, is_rgb.pop(), np.result_type(*(_DTYPES[name] for name in types)))
