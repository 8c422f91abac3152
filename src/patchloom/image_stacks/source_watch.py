"""Images that change on disk while they are read, noticed before their pixels are used."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from patchloom.errors import SourceChangedError, SourceError
from patchloom.image_stacks.fingerprints import files_digest, glance, storage_of
from patchloom.image_stacks.protocols import ImageStack


class SourceWatch:
    """Remembers the state of the files of a series when it was made, and compares.

    A file counts as changed when it is another one, or its size or times differ; a Zarr when its folder is another one, or
    its metadata have changed. Chunks that are rewritten in place are noticed by `check_thoroughly` only, since each takes
    a question to the file system. Arrays in memory and remote images are not watched.

    Parameters
    ----------
    stacks : sequence of ImageStack
        The series.
    masks : sequence of ImageStack
        Further images that are read with the series: one for each of its images in their order, or any number that are read
        with every one.
    thoroughly : bool
        Whether `check_thoroughly` will be called, for which all files in folders are looked at now.

    Raises
    ------
    SourceError
        If a file of an image is missing.
    """

    def __init__(
        self, stacks: Sequence[ImageStack], masks: Sequence[ImageStack] = (), *, thoroughly: bool = False
    ) -> None:
        every = [*stacks, *masks]
        self._n_images, self._n_masks = len(stacks), len(masks)
        self._sources = [stack.source for stack in every]
        self._files = [storage_of(stack).files for stack in every]
        self._glances = list(map(glance, self._files))
        self._details = [self._detail(number) for number in range(len(every))] if thoroughly else []

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
            for number in self._read_with(data_idx):
                if glance(self._files[number]) != self._glances[number]:
                    raise self._changed(number)

    def check_thoroughly(self, data_idx: int) -> None:
        """Check that an image has not changed, by looking at all of its files.

        Raises
        ------
        SourceChangedError
            If it has changed or is gone.
        """
        self.check([data_idx])
        for number in self._read_with(data_idx):
            if self._detail(number) != self._details[number]:
                raise self._changed(number)

    def _read_with(self, data_idx: int) -> Sequence[int]:
        """List an image and its masks by their places in `_files`."""
        if not 0 <= data_idx < self._n_images:
            return ()
        masks = range(self._n_images, self._n_images + self._n_masks)
        return (data_idx, *(masks[data_idx : data_idx + 1] if self._n_masks == self._n_images else masks))

    def _detail(self, number: int) -> str:
        try:
            return files_digest(self._files[number])
        except OSError as error:
            raise SourceError(f"{self._sources[number]} cannot be read: {error}") from error

    def _changed(self, number: int) -> SourceChangedError:
        return SourceChangedError(
            f"{self._sources[number]} has changed on disk since it was opened: pixels of before and after would be mixed; "
            "open it anew and start again"
        )
