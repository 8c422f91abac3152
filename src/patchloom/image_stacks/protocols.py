"""The protocol of image stacks, and the protocols of what a stack may offer beyond it.

`ImageStack` has the members of CAREamics' protocol of the same name, so that the stacks of each library work in the other. The
other protocols are capabilities: code asks `isinstance(stack, ReadsRegions)`, and never for a concrete class.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from patchloom.image_metadata import ImageMetadata


@runtime_checkable
class ImageStack(Protocol):
    """One image of one or more samples, read region by region.

    A stack is lazy (pixels are read when they are needed) and picklable (files are opened again in a worker).

    Examples
    --------
    >>> import patchloom as pl
    >>> stack = pl.ArrayStack(np.arange(12).reshape(3, 4), axes="YX")
    >>> isinstance(stack, ImageStack), stack.data_shape
    (True, (1, 1, 3, 4))
    """

    @property
    def source(self) -> str | Path:
        """Path or URL of the image; `"array"` if it is in memory."""

    @property
    def data_shape(self) -> tuple[int, ...]:
        """Shape as `SC(Z)YX`."""

    @property
    def data_dtype(self) -> np.dtype[Any]:
        """The source's dtype, which every patch has."""

    @property
    def original_axes(self) -> str:
        """Axes of the source: letters of `STCZYX`, outermost first."""

    @property
    def original_data_shape(self) -> tuple[int, ...]:
        """Shape of the source, in the order of `original_axes`."""

    def extract_patch(
        self, sample_idx: int, channels: Sequence[int] | None, coords: Sequence[int], patch_size: Sequence[int]
    ) -> NDArray[Any]:
        """Read one patch.

        Parameters
        ----------
        sample_idx : int
            Index of the sample.
        channels : sequence of int or None
            Indices of the channels, in the order wanted. If None, all channels.
        coords : sequence of int
            First voxel of the patch, `(z,) y, x`; may lie outside the image.
        patch_size : sequence of int
            Size of the patch in voxels, `(z,) y, x`.

        Returns
        -------
        array
            `C(Z)YX` in the source's dtype, a new array that the caller may change. Voxels outside the image are 0.

        Raises
        ------
        GeometryError
            If a sample or channel does not exist, or `coords` or `patch_size` do not have one number for each spatial axis.
        SourceError
            If the pixels cannot be read.
        """


class Region(NamedTuple):
    """A box of one sample that lies inside the image.

    Slices have a start, a stop, and a step of 1.
    """

    sample_idx: int
    """Index of the sample."""

    channels: slice
    """The channels."""

    window: tuple[slice, ...]
    """One slice for each spatial axis, `(z,) y, x`, in voxels."""


@runtime_checkable
class ReadsRegions(Protocol):
    """A stack that reads many regions faster together than one by one.

    Examples
    --------
    >>> import patchloom as pl
    >>> stack = pl.ArrayStack(np.arange(12).reshape(3, 4), axes="YX")
    >>> pixels = np.empty((1, 2, 2))
    >>> if isinstance(stack, ReadsRegions):
    ...     stack.read_regions([Region(0, slice(0, 1), (slice(0, 2), slice(2, 4)))], out=[pixels])
    >>> pixels.tolist()
    [[[2.0, 3.0], [6.0, 7.0]]]
    """

    def read_regions(self, regions: Sequence[Region], out: Sequence[NDArray[Any]]) -> None:
        """Read regions into given arrays, and return when all are read.

        Parameters
        ----------
        regions : sequence of Region
            Boxes inside the image.
        out : sequence of array
            For each region, an array `C(Z)YX` of its shape (often a view of a batch) and of any dtype: values are cast as in
            an assignment. After an error their content is undefined.

        Raises
        ------
        SourceError
            If pixels cannot be read; the message names the source and the region.
        """


def read_regions(stack: ImageStack, regions: Sequence[Region], out: Sequence[NDArray[Any]]) -> None:
    """Read regions into given arrays: all together if the stack `ReadsRegions`, else one by one.

    Parameters
    ----------
    stack : ImageStack
        The image.
    regions, out
        As for `ReadsRegions.read_regions`.

    Raises
    ------
    SourceError
        If pixels cannot be read.

    Examples
    --------
    >>> from patchloom.image_stacks import ArrayStack
    >>> out = np.zeros((1, 1, 2), "uint8")
    >>> read_regions(ArrayStack(np.eye(3), "YX"), [Region(0, slice(0, 1), (slice(1, 2), slice(0, 2)))], [out])
    >>> out.tolist()
    [[[0, 1]]]
    """
    if isinstance(stack, ReadsRegions):
        stack.read_regions(regions, out)
        return
    for region, target in zip(regions, out, strict=True):
        channels = list(range(region.channels.start, region.channels.stop))  # other libraries index by it
        coords = [part.start for part in region.window]
        sizes = [part.stop - part.start for part in region.window]
        target[...] = stack.extract_patch(region.sample_idx, channels, coords, sizes)


@runtime_checkable
class HoldsPixels(Protocol):
    """A stack that may hold its pixels in memory, where they are read without calling it.

    Examples
    --------
    >>> import patchloom as pl
    >>> stack = pl.ArrayStack(np.arange(12).reshape(3, 4), axes="YX")
    >>> isinstance(stack, HoldsPixels), stack.pixels.shape
    (True, (1, 1, 3, 4))
    """

    @property
    def pixels(self) -> NDArray[Any] | None:
        """The whole image `SC(Z)YX`, as a view. None if it is not in memory, or is not an array with axes in this order."""


@runtime_checkable
class HasStorageGrid(Protocol):
    """A stack whose pixels are stored in chunks: boxes that are decoded as a whole.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> import patchloom as pl, tifffile
    >>> with TemporaryDirectory() as folder:
    ...     tifffile.imwrite(f"{folder}/a.tif", np.zeros((64, 96), "uint8"), tile=(32, 32))
    ...     stack = pl.TiffStack(f"{folder}/a.tif", axes="YX")
    >>> isinstance(stack, HasStorageGrid), stack.chunk_shape
    (True, (1, 1, 32, 32))
    """

    @property
    def chunk_shape(self) -> tuple[int, ...]:
        """Shape of a chunk, `SC(Z)YX`: a page's strip or tile, a chunk of a Zarr."""

    @property
    def shard_shape(self) -> tuple[int, ...]:
        """Shape of the box that one file or object contains, `SC(Z)YX`; equals `chunk_shape` if there are no shards."""


@runtime_checkable
class HasFiles(Protocol):
    """A stack whose pixels all lie in local files, and change only with them.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> import patchloom as pl
    >>> with TemporaryDirectory() as folder:
    ...     np.save(f"{folder}/a.npy", np.zeros((3, 4)))
    ...     stack = pl.NpyStack(f"{folder}/a.npy", axes="YX")
    >>> isinstance(stack, HasFiles), [file.name for file in stack.files]
    (True, ['a.npy'])
    """

    @property
    def files(self) -> Sequence[Path]:
        """The files, and folders with everything in them; empty if the image is not local."""

    @property
    def image_in_files(self) -> str:
        """Name of the image within these files; images with other pixels have other names."""


@dataclass(frozen=True, slots=True)
class Storage:
    """Files or arrays in which the pixels of an image lie.

    Parameters
    ----------
    files : tuple of Path
        Local files, and folders with everything in them.
    part : str
        Name of the part of the files that is read, or of the way in which pixels are computed from them.
    arrays : tuple of array
        Arrays in memory.
    unknown : str
        Why some pixels cannot be identified; empty if all can.

    Examples
    --------
    >>> import patchloom as pl
    >>> storage = pl.ArrayStack(np.zeros((3, 4)), axes="YX").storage
    >>> storage.files, [array.shape for array in storage.arrays]
    ((), [(3, 4)])
    """

    files: tuple[Path, ...] = ()
    part: str = ""
    arrays: tuple[NDArray[Any], ...] = ()
    unknown: str = ""


@runtime_checkable
class HasStorage(Protocol):
    """A stack that returns the files or arrays in which its pixels lie.

    Examples
    --------
    >>> import patchloom as pl
    >>> isinstance(pl.ArrayStack(np.zeros((3, 4)), axes="YX"), HasStorage)
    True
    """

    @property
    def storage(self) -> Storage:
        """Files or arrays by which the image is identified."""


@runtime_checkable
class HasMetadata(Protocol):
    """A stack with voxel sizes, and names and colors of channels.

    Examples
    --------
    >>> import patchloom as pl
    >>> metadata = pl.ImageMetadata(voxel_size={"Y": 0.5, "X": 0.5}, units={"Y": "micrometer", "X": "micrometer"})
    >>> stack = pl.ArrayStack(np.zeros((3, 4)), axes="YX", metadata=metadata)
    >>> isinstance(stack, HasMetadata), stack.metadata.voxel_size
    (True, {'Y': 0.5, 'X': 0.5})
    """

    @property
    def metadata(self) -> ImageMetadata:
        """Voxel sizes and channels, as far as the source contains them."""
