"""Scores in files, so that a series is scanned once.

A file contains the scores of one image stack by one filter. Its name is a digest of the question: image, cells, channels and
filter. It also contains the fingerprint of the image's files. If they have changed since, the next scan replaces the file.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchloom.array_archive import read_arrays
from patchloom.errors import SinkError
from patchloom.filters.cell_filters import CellFilter, HasIdentity
from patchloom.geometry.grid_cells import cell_counts
from patchloom.image_stacks import HasFiles, ImageStack
from patchloom.image_stacks.fingerprint import fingerprint

FOLDER_NAME = ".patchloom-scores"
"""Name of the folder beside the data."""

_FORMAT = 1
_ZARR_DOCUMENTS = ("zarr.json", ".zgroup", ".zattrs", ".zarray", "attributes.json")


@dataclass(frozen=True, slots=True)
class ScoreFile:
    """The file with the scores of one image stack by one filter."""

    path: Path
    question: str
    """Image, cells, channels and filter, as JSON."""

    state: str
    """The `"portable"` fingerprint of the image."""

    shape: tuple[int, ...]
    """Shape of the scores."""

    def read(self) -> NDArray[np.float64] | None:
        """Read the scores; None if the file is missing or damaged, or the image has changed."""
        try:
            found = read_arrays(self.path)
            scores: NDArray[np.float64] = found["scores"]
            holds = str(found["state"]) == self.state and str(found["question"]) == self.question
        except (OSError, ValueError, KeyError):
            return None
        return scores if holds and scores.shape == self.shape and scores.dtype == np.float64 else None

    def write(self, scores: NDArray[np.float64]) -> None:
        """Write the scores, all or nothing.

        Raises
        ------
        OSError
            If the file cannot be written.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = self.path.with_name(f"{self.path.name}.{os.getpid()}.tmp")
        try:
            with unfinished.open("wb") as file:
                np.savez_compressed(file, scores=scores, state=self.state, question=self.question)
            unfinished.replace(self.path)
        finally:
            unfinished.unlink(missing_ok=True)


def score_files(
    stack: ImageStack,
    cell_size: Sequence[int],
    channels: Sequence[int] | None,
    filters: Sequence[CellFilter],
    folder: Path | None,
) -> list[ScoreFile | None]:
    """Return the file for the scores of an image stack by each filter, or None if they are not kept.

    Parameters
    ----------
    stack, cell_size, channels, filters
        As in `score_cells`.
    folder : Path, optional
        Folder of the files. If None, `.patchloom-scores` beside the data.
    """
    nowhere: list[ScoreFile | None] = [None] * len(filters)
    if not isinstance(stack, HasFiles) or not stack.files:
        return nowhere
    first = Path(stack.files[0])
    folder = beside(first) if folder is None else folder
    try:
        state = fingerprint(stack, level="portable").digest
    except OSError:  # the file is gone, which is an error when it is read
        return nowhere
    shape = (stack.data_shape[0], *cell_counts(stack.data_shape[2:], cell_size))
    image = {
        "format": _FORMAT,
        "image": [_relative(first, folder), stack.image_in_files],
        "axes": stack.original_axes,
        "data_shape": list(stack.data_shape),
        "cell_size": list(cell_size),
        "channels": None if channels is None else list(channels),
    }
    return [
        _score_file({**image, "filter": cell_filter.identity}, folder, first.name, state, shape)
        if isinstance(cell_filter, HasIdentity)
        else None
        for cell_filter in filters
    ]


def _score_file(question: dict[str, Any], folder: Path, name: str, state: str, shape: tuple[int, ...]) -> ScoreFile:
    text = json.dumps(question, sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    return ScoreFile(folder / f"{name}.{digest}.npz", text, state, shape)


def beside(file: Path) -> Path:
    """Return the folder beside an image for its scores, which is never inside a Zarr."""
    folder = file.absolute().parent
    while any((folder / document).exists() for document in _ZARR_DOCUMENTS):
        folder = folder.parent
    return folder / FOLDER_NAME


def _relative(file: Path, folder: Path) -> str:
    """Return the path of a file relative to the scores, so that both can be moved together."""
    absolute, data_folder = file.absolute(), folder.absolute().parent
    return absolute.relative_to(data_folder).as_posix() if absolute.is_relative_to(data_folder) else absolute.as_posix()


def prepare_folder(folder: Path) -> Path:
    """Make the folder for scores, before any work is done.

    Raises
    ------
    SinkError
        If it cannot be made or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".{os.getpid()}.tmp"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise SinkError(
            f"cache is {str(folder)!r}, which cannot be written ({error}): choose another folder, or cache=False"
        ) from error
    return folder
