"""Image stacks that are made of another: what its channels and its slices share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from patchloom.image_metadata import ImageMetadata
from patchloom.image_stacks.protocols import HasFiles, HasMetadata, HasStorageGrid, ImageStack, Storage
from patchloom.image_stacks.storage import storage_of


class DerivedStack:
    """A stack made of a whole one, with its source, dtype, original axes and files.

    Parameters
    ----------
    whole : ImageStack
        The stack that it is made of.
    data_shape : sequence of int
        Its own shape, `SC(Z)YX`.
    """

    def __init__(self, whole: ImageStack, data_shape: Sequence[int]) -> None:
        self.whole = whole
        self.source = whole.source
        self.data_shape = tuple(map(int, data_shape))
        self.data_dtype: np.dtype[Any] = np.dtype(whole.data_dtype)
        self.original_axes = whole.original_axes
        self.original_data_shape = tuple(whole.original_data_shape)

    @property
    def metadata(self) -> ImageMetadata:
        """See `HasMetadata.metadata`."""
        return self.whole.metadata if isinstance(self.whole, HasMetadata) else ImageMetadata()

    @property
    def files(self) -> Sequence[Path]:
        """See `HasFiles.files`."""
        return self.whole.files if isinstance(self.whole, HasFiles) else ()

    @property
    def image_in_files(self) -> str:
        """See `HasFiles.image_in_files`."""
        return self.whole.image_in_files if isinstance(self.whole, HasFiles) else ""

    @property
    def storage(self) -> Storage:
        """See `HasStorage.storage`."""
        return storage_of(self.whole)


class HasDerivedGrid(DerivedStack):
    """A derived stack whose whole has a storage grid, and which therefore has one itself."""

    @property
    def chunk_shape(self) -> tuple[int, ...]:
        """See `HasStorageGrid.chunk_shape`."""
        return self.derived_box(cast("HasStorageGrid", self.whole).chunk_shape)

    @property
    def shard_shape(self) -> tuple[int, ...]:
        """See `HasStorageGrid.shard_shape`: whole chunks."""
        n_samples, *rest = self.derived_box(cast("HasStorageGrid", self.whole).shard_shape)
        in_chunk = self.chunk_shape[0]
        return (-(-n_samples // in_chunk) * in_chunk, *rest)

    @abstractmethod
    def derived_box(self, box: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape, `SC(Z)YX`, that a chunk or shard of the whole has in this stack."""


def opened_stack(stack: ImageStack) -> ImageStack:
    """Return the stack that others were made of: the one that was opened.

    Examples
    --------
    >>> import patchloom as pl
    >>> from patchloom.image_stacks import as_planes, select_channels
    >>> image = pl.ArrayStack(np.zeros((3, 2, 8, 8)), axes="CZYX")
    >>> opened_stack(as_planes(select_channels(image, [1]))) is image
    True
    """
    while isinstance(stack, DerivedStack):
        stack = stack.whole
    return stack
