"""Images that change on disk while they are trained on, noticed before their pixels are used."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchloom.errors import SourceError
from patchloom.image_stacks import HasFiles, ImageStack

_ZARR_DOCUMENTS = ("zarr.json", ".zarray", "attributes.json", "info")
_State = tuple[Any, ...]


class SeriesWatch:
    """Knows the state of a series' files when it was made, and looks again when asked.

    A file counts as changed when it is another one, or its size or time of change differs; a Zarr when its folder is another
    one, or its metadata have changed. Chunks that are rewritten in place are not noticed, as that would take a question to the
    file system for every chunk of every patch; nor is anything remote.

    Parameters
    ----------
    stacks : sequence of ImageStack
        The series.
    """

    def __init__(self, stacks: Sequence[ImageStack]) -> None:
        self._files = [tuple(stack.files) if isinstance(stack, HasFiles) else () for stack in stacks]
        self._sources = [stack.source for stack in stacks]
        self._states = [_state(files) for files in self._files]
        self._has_files = any(self._files)

    def check(self, stacks: NDArray[np.int64]) -> None:
        """Look at the files of some image stacks, which may be named more than once.

        Raises
        ------
        SourceError
            If one has changed or is gone.
        """
        if not self._has_files:
            return
        for data_idx in np.unique(stacks).tolist():
            there_is = 0 <= data_idx < len(self._files)  # what there is not is refused by the extractor
            if there_is and _state(self._files[data_idx]) != self._states[data_idx]:
                raise SourceError(
                    f"{self._sources[data_idx]} has changed on disk since the dataset was made: patches of before and after "
                    "would be mixed; make the dataset anew"
                )


def _state(files: Sequence[Path]) -> tuple[_State, ...]:
    return tuple(_file_state(path) for path in files)


def _file_state(path: Path) -> _State:
    try:
        status = path.stat()
        if not path.is_dir():
            return status.st_ino, status.st_size, status.st_mtime_ns
        documents = (path / name for name in _ZARR_DOCUMENTS)
        return status.st_ino, *(_file_state(document) for document in documents if document.exists())
    except FileNotFoundError:
        return ()
