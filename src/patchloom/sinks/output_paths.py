"""Paths of the results of a run: pure functions of the sources and the output."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from patchloom.local_paths import is_url

_NOT_IN_FILE_NAMES = '%/\\<>:"|?*'
OUTPUT_SUFFIX = ".ome.zarr"
_SOURCE_SUFFIXES = (".ome.zarr", ".zarr", ".ome.tiff", ".ome.tif", ".tiff", ".tif", ".btf", ".czi", ".n5", ".npy")


def series_destinations(sources: Sequence[str | Path], folder: Path) -> list[Path]:
    """Return one output path for each source of a series. No two are the same.

    An output has the name of its source. If two sources have the same name, the names of their folders are put before it,
    until they differ. Sources with the same path are numbered.

    Parameters
    ----------
    sources : sequence of str or Path
        The `source` of each image stack.
    folder : Path
        The folder of the outputs.

    Examples
    --------
    >>> [path.name for path in series_destinations(["a/0", "b/0", "c/cells.tif", "array", "array"], Path("out"))]
    ['a-0.ome.zarr', 'b-0.ome.zarr', 'cells.ome.zarr', 'array.ome.zarr', 'array-2.ome.zarr']
    """
    parts = [
        [_stem(part) for part in PurePosixPath(_without_query(source)).parts if part not in ("/", "..")]
        for source in sources
    ]
    depth = [1] * len(parts)
    names = [_name(part, length) for part, length in zip(parts, depth, strict=True)]
    while True:
        repeated = {name for name, count in Counter(map(str.casefold, names)).items() if count > 1}
        deeper = [
            length + 1 if name.casefold() in repeated and length < len(part) else length
            for name, part, length in zip(names, parts, depth, strict=True)
        ]
        if deeper == depth:
            break
        depth = deeper
        names = [_name(part, length) for part, length in zip(parts, depth, strict=True)]
    return [folder / f"{name}{OUTPUT_SUFFIX}" for name in _number_repeats(names)]


def output_path(destination: Path, name: str) -> Path:
    """Return the path of one of several outputs of an image: the name of the output goes before the ending.

    Characters that a file system may not allow in a name, and `%`, are written as `%` and their code in UTF-8, as in a URL,
    so that different names stay different.

    Examples
    --------
    >>> output_path(Path("cells.ome.zarr"), "flow").name, output_path(Path("cells.ome.zarr"), "").name
    ('cells-flow.ome.zarr', 'cells.ome.zarr')
    >>> output_path(Path("cells.ome.zarr"), "decoder/mask:0").name
    'cells-decoder%2Fmask%3A0.ome.zarr'
    """
    stem = _stem(destination.name)
    if not name:
        return destination
    return destination.with_name(f"{stem}-{_as_file_name(name)}{destination.name[len(stem) :]}")


def _as_file_name(name: str) -> str:
    return "".join(
        "".join(f"%{code:02X}" for code in char.encode("utf-8", "surrogatepass"))
        if char in _NOT_IN_FILE_NAMES or unicodedata.category(char) in ("Cc", "Cs")
        else char
        for char in name
    )


def _without_query(source: str | Path) -> str:
    return str(source).partition("?")[0] if is_url(source) else Path(source).as_posix()


def _stem(part: str) -> str:
    for suffix in _SOURCE_SUFFIXES:
        if part.lower().endswith(suffix) and len(part) > len(suffix):
            return part[: -len(suffix)]
    return part


def _name(parts: Sequence[str], depth: int) -> str:
    return "-".join(parts[-depth:]).replace(":", "") or "image"


def _number_repeats(names: Sequence[str]) -> list[str]:
    """Append a number to repeated names from the second on. Names that differ in case only count as repeated."""
    taken: set[str] = set()
    distinct = []
    for name in names:
        number, candidate = 1, name
        while candidate.casefold() in taken:
            number += 1
            candidate = f"{name}-{number}"
        taken.add(candidate.casefold())
        distinct.append(candidate)
    return distinct
