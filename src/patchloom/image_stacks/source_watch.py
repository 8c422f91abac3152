"""Images that change on disk while they are read, noticed before their pixels are used."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from patchloom.errors import SourceChangedError, SourceError
from patchloom.image_stacks.fingerprints import files_digest, glance, storage_of
from patchloom.image_stacks.image_stack import ImageStack


class SourceWatch:
    """Remembers the state of the files of a series when it was made, and compares.

    A file counts as changed when it is another one, or its size or times differ; a Zarr when its folder is another one, or
    its metadata have changed. Chunks that are rewritten in place are noticed by `check_thoroughly` only, since each takes
    a question to the file system. Arrays in memory and remote images are not watched.

    Parameters
    ----------
    stacks : sequence of ImageStack
        The series.
    thoroughly : bool
        Whether `check_thoroughly` will be called, for which all files in folders are looked at now.

    Raises
    ------
    SourceError
        If a file of an image is missing.
    """

    def __init__(self, stacks: Sequence[ImageStack], *, thoroughly: bool = False) -> None:
        self._sources = [stack.source for stack in stacks]
        self._files = [storage_of(stack).files for stack in stacks]
        self._glances = list(map(glance, self._files))
        self._details = [self._detail(data_idx) for data_idx in range(len(stacks))] if thoroughly else []

    def check(self, data_idxs: Iterable[int]) -> None:
        """Check that some images have not changed, by a few questions to the file system for each.

        Parameters
        ----------
        data_idxs : iterable of int
            Which images; numbers that the series does not have are passed over.

        Raises
        ------
        SourceChangedError
            If one has changed or is gone.
        """
        for data_idx in data_idxs:
            if 0 <= data_idx < len(self._files) and glance(self._files[data_idx]) != self._glances[data_idx]:
                raise self._changed(data_idx)

    def check_thoroughly(self, data_idx: int) -> None:
        """Check that an image has not changed, by looking at all of its files.

        Raises
        ------
        SourceChangedError
            If it has changed or is gone.
        """
        if (
            glance(self._files[data_idx]) != self._glances[data_idx]
            or self._detail(data_idx) != self._details[data_idx]
        ):
            raise self._changed(data_idx)

    def _detail(self, data_idx: int) -> str:
        try:
            return files_digest(self._files[data_idx])
        except OSError as error:
            raise SourceError(f"{self._sources[data_idx]} cannot be read: {error}") from error

    def _changed(self, data_idx: int) -> SourceChangedError:
        return SourceChangedError(
            f"{self._sources[data_idx]} has changed on disk since it was opened: pixels of before and after would be mixed; "
            "open it anew and start again"
        )
