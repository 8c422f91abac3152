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
from patchloom.argument_checks import whole_number
from patchloom.errors import PatchloomError, SeveralImagesError, SourceError, SourceNotFoundError
from patchloom.image_stacks.czi.directory import SubblockChecks, read_directory
from patchloom.image_stacks.czi.metadata import czi_metadata
from patchloom.image_stacks.open_files import OpenFiles, check_unchanged, file_fingerprint
from patchloom.image_stacks.sliced_stack import SlicedStack, describe_selection
from patchloom.image_stacks.source_axes import axes_from_names, axes_map_of, unknown_axes
from patchloom.image_stacks.source_paths import checked_path

CACHE_BYTES = 64 << 20
"""Decoded subblocks that libCZI keeps for each open file."""

OPEN_DOCUMENTS = 16
"""Number of files that are kept open, all stacks of a process together."""

_DTYPES = {
    "Gray8": "uint8",
    "Gray16": "uint16",
    "Gray32Float": "float32",
    "Bgr24": "uint8",
    "Bgr48": "uint16",
    "Bgr96Float": "float32",
}


class CziStack(SlicedStack):
    """An image stack over one scene of a CZI, of which only the subblocks of a region are decoded.

    The image is the bounding rectangle of the scene's tiles on the stage; pixels without a tile are 0. The planes are those of
    the scene, even if other scenes have more. A scene that lacks planes is refused. Axes of size 1 are left out, except Y and
    X. The samples of an RGB image are `C`, the last axis, in the order red, green, blue.

    Parameters
    ----------
    path : str or Path
        The file.
    scene : int, optional
        Index of the scene. If None, the file must have one scene only.
    axes : str, optional
        Other letters for the axes of the file, one for each: a `Z` of independent slices may be `S`. If None, the axes of the
        file.

    Raises
    ------
    SourceNotFoundError
        If there is no such file or scene.
    SourceError
        If the file is not a CZI, is corrupt, or has several scenes and none is chosen; the message lists them. If planes of the
        scene were never acquired.
    AxesError
        If the file has an axis without a letter in `STCZYX`, or has another number of axes than `axes`.
    MissingExtraError
        If pylibCZIrw is not installed.

    Examples
    --------
    >>> stack = CziStack("slide.czi", scene=1)                                                        # doctest: +SKIP
    >>> stack.extract_patch(0, None, coords=(0, 0), patch_size=(256, 256)).shape                      # doctest: +SKIP
    (3, 256, 256)
    """

    def __init__(self, path: str | Path, scene: int | None = None, axes: str | None = None) -> None:
        path = checked_path("path", path)
        scene = None if scene is None else whole_number("scene", scene)
        if not Path(path).is_file():
            raise SourceNotFoundError(f"there is no file {path}: check the path")
        self._path = Path(path).absolute()
        self._fingerprint = file_fingerprint(path, self._path)
        self.source = source = path if scene is None else f"{path}@{scene}"
        document = self._opened()
        with _failing(path, "read"):
            self._canvas = _canvas(path, document.reader, scene)
            self._planes = _planes(path, document.reader, document.directory.planes_of(source, scene))
            document_metadata = document.reader.metadata
        self._numbered = tuple(axis for axis, indices in self._planes.indices.items() if len(indices) > 1)
        named = [*self._numbered, "Y", "X", *("C" * self._planes.is_rgb)]
        shape = [len(self._planes.indices[axis]) for axis in self._numbered]
        shape += [self._canvas.height, self._canvas.width] + [3] * self._planes.is_rgb
        own = axes_from_names(named) if axes is None else axes
        if own is None:
            raise unknown_axes(path, shape, f"its axes are {''.join(named)!r}", named)
        axes_map = axes_map_of(path, own, shape)
        metadata = czi_metadata(document_metadata, axes_map, self._planes.indices["C"], is_rgb=self._planes.is_rgb)
        super().__init__(source, axes_map, self._planes.dtype, metadata)

    @property
    def files(self) -> tuple[Path, ...]:
        """The file; see `HasFiles.files`."""
        return (self._path,)

    @property
    def image_in_files(self) -> str:
        """Index of the scene; see `HasFiles.image_in_files`."""
        return f"scene {self._canvas.scene}"

    def read(self, selection: tuple[slice | int, ...]) -> NDArray[Any]:
        """Read a box plane by plane; see `SlicedStack.read`."""
        document = self._opened()  # held until the end, however many others are opened meanwhile
        n_numbered = len(self._numbered)
        windows = [slice(index, index + 1) if isinstance(index, int) else index for index in selection]
        y, x = windows[n_numbered : n_numbered + 2]
        roi = (self._canvas.x + x.start, self._canvas.y + y.start, x.stop - x.start, y.stop - y.start)
        box = np.empty([window.stop - window.start for window in windows], self.data_dtype)
        with _failing(self.source, f"read at {describe_selection(self.original_axes, selection)}"):
            for place in np.ndindex(*box.shape[:n_numbered]):
                chosen = dict.fromkeys(self._planes.indices, 0) | {
                    axis: window.start + offset
                    for axis, window, offset in zip(self._numbered, windows, place, strict=False)
                }
                plane = {axis: self._planes.indices[axis][index] for axis, index in chosen.items()}
                document.checks.check(plane, roi)
                pixels = document.reader.read(
                    roi, plane, self._canvas.scene, pixel_type=self._planes.pixel_types[plane["C"]]
                )
                # The samples of a color are stored blue first; a gray plane has one sample.
                box[place] = pixels[..., ::-1][..., windows[-1]] if self._planes.is_rgb else pixels[..., 0]
        return box.reshape([index.stop - index.start for index in selection if isinstance(index, slice)])

    def _opened(self) -> _OpenDocument:
        return OPEN_FILES.of(self, self._open)

    def _open(self) -> _OpenDocument:
        check_unchanged(self.source, self._path, self._fingerprint)
        return _OpenDocument(self.source, self._path)


class _OpenDocument:
    """An open file, which is closed when its last reader releases it."""

    def __init__(self, source: str | Path, path: Path) -> None:
        self.directory = read_directory(path)
        self.checks = SubblockChecks(path, self.directory)
        czi = require("pylibCZIrw.czi", extra="czi")
        cache = czi.CacheOptions(max_memory_usage=CACHE_BYTES)
        opened = ExitStack()
        with _failing(source, "opened as a CZI"):
            self.reader = opened.enter_context(czi.open_czi(str(path), cache_options=cache))
        weakref.finalize(self, opened.close)


OPEN_FILES: OpenFiles[_OpenDocument] = OpenFiles(OPEN_DOCUMENTS)


class _Canvas(NamedTuple):
    """The rectangle of the image on the stage, in pixels."""

    scene: int | None
    x: int
    y: int
    width: int
    height: int


class _Planes(NamedTuple):
    """Indices and pixel types of the planes of an image."""

    indices: dict[str, tuple[int, ...]]
    """Indices along each dimension of planes."""
    pixel_types: dict[int, str]
    """CZI's name of the pixel type of each channel."""
    is_rgb: bool
    dtype: np.dtype[Any]


@contextmanager
def _failing(path: str | Path, what: str) -> Iterator[None]:
    try:
        yield
    except PatchloomError:
        raise
    except Exception as error:  # any error of the vendor's library or the parser of its XML
        raise SourceError(f"{path} cannot be {what}: {error}") from error


def _canvas(path: str | Path, reader: Any, scene: int | None) -> _Canvas:
    scenes = reader.scenes_bounding_rectangle_no_pyramid
    listed = ", ".join(f"{path}@{number} ({box.w} × {box.h} pixels)" for number, box in sorted(scenes.items()))
    if scene is None:
        if len(scenes) > 1:
            images = {f"{path}@{number}": f"{box.w} × {box.h} pixels" for number, box in sorted(scenes.items())}
            raise SeveralImagesError.of(path, images, called="scenes")
        box = reader.total_bounding_rectangle_no_pyramid
    elif scene in scenes:
        box = scenes[scene]
    else:
        raise SourceNotFoundError(
            f"{path} has no scene {scene}: " + (f"it has {listed}" if scenes else "it has no scenes")
        )
    return _Canvas(scene, int(box.x), int(box.y), int(box.w), int(box.h))


def _planes(path: str | Path, reader: Any, indices: dict[str, tuple[int, ...]]) -> _Planes:
    pixel_types = {channel: reader.get_channel_pixel_type(channel) for channel in indices["C"]}
    types = set(pixel_types.values())
    is_rgb = {name.startswith("Bgr") for name in types}
    if not types <= set(_DTYPES) or len(is_rgb) > 1:
        raise SourceError(
            f"{path} has pixels of the types {', '.join(sorted(types))}, which do not fit into one array: select channels of one type when exporting it"
        )
    return _Planes(indices, pixel_types, is_rgb.pop(), np.result_type(*(_DTYPES[name] for name in types)))
