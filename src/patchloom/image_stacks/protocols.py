"""What an image stack is, and what it may be able to do beyond that.

`ImageStack` has the members of CAREamics' protocol of the same name, so that either side's stacks serve the other. The
further protocols are capabilities: code asks `isinstance(stack, ReadsRegions)` and never for a concrete class.
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
    """One image, possibly of many samples, read region by region.

    A stack is lazy (pixels are read when asked for) and picklable (handles open anew in a worker).
    """

    @property
    def source(self) -> str | Path:
        """Where the image is: a path or URL; `"array"` for one in memory."""

    @property
    def data_shape(self) -> tuple[int, ...]:
        """Shape as `SC(Z)YX`."""

    @property
    def data_dtype(self) -> np.dtype[Any]:
        """The source's own dtype, which is that of every patch."""

    @property
    def original_axes(self) -> str:
        """The source's own axes, letters of `STCZYX`, outermost first."""

    @property
    def original_data_shape(self) -> tuple[int, ...]:
        """The source's own shape, in the order of `original_axes`."""

    def extract_patch(
        self, sample_idx: int, channels: Sequence[int] | None, coords: Sequence[int], patch_size: Sequence[int]
    ) -> NDArray[Any]:
        """Read one patch.

        Parameters
        ----------
        sample_idx : int
            Which sample.
        channels : sequence of int or None
            Which channels, in the order wanted; `None` for all.
        coords : sequence of int
            First voxel inside, `(z,) y, x`; may lie outside the image.
        patch_size : sequence of int
            Extent along each spatial axis.

        Returns
        -------
        array
            `C(Z)YX` in the source's dtype, the caller's to keep and change. Voxels outside the image are 0.

        Raises
        ------
        GeometryError
            If a sample or channel does not exist, or the dimensions are not the image's.
        SourceError
            If the pixels cannot be read.
        """


class Region(NamedTuple):
    """A box of one sample that lies wholly inside the image."""

    sample_idx: int
    """Which sample."""

    channels: slice
    """Which channels; start and stop given, step 1."""

    window: tuple[slice, ...]
    """One slice for each spatial axis, `(z,) y, x`; start and stop given, step 1."""


@runtime_checkable
class ReadsRegions(Protocol):
    """A stack that reads many regions faster together than one by one."""

    def read_regions(self, regions: Sequence[Region], out: Sequence[NDArray[Any]]) -> None:
        """Read regions into given arrays; returns when all are there.

        Parameters
        ----------
        regions : sequence of Region
            Boxes inside the image.
        out : sequence of array
            One `C(Z)YX` array (mostly a view of a batch) for each region, of the region's shape and of any dtype: values
            are cast as by assignment. The caller owns them; on an error their content is undefined.

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
    """A stack that may hold its pixels in memory, to be read without being asked."""

    @property
    def pixels(self) -> NDArray[Any] | None:
        """The whole image, `SC(Z)YX`, as a view; `None` where it is not in memory, or is no array in this order."""


@runtime_checkable
class HasStorageGrid(Protocol):
    """A stack whose pixels are stored in boxes that are decoded whole."""

    @property
    def chunk_shape(self) -> tuple[int, ...]:
        """The box decoded at once, `SC(Z)YX`."""

    @property
    def shard_shape(self) -> tuple[int, ...]:
        """The box that one file or object holds, `SC(Z)YX`; `chunk_shape` where there are no shards."""


@runtime_checkable
class HasFiles(Protocol):
    """A stack of which all pixels lie in local files, and stay as they are while these do not change."""

    @property
    def files(self) -> Sequence[Path]:
        """The files, and folders with all that is in them; none where the image is not local."""

    @property
    def image_in_files(self) -> str:
        """Which image of these files: one of other pixels has another name."""


@dataclass(frozen=True, slots=True)
class Storage:
    """Where pixels lie.

    Parameters
    ----------
    files : tuple of Path
        Local files, and folders with all that is in them.
    part : str
        Which part of the files, or how the pixels are computed from them.
    arrays : tuple of array
        Arrays in memory.
    unknown : str
        Why some pixels cannot be identified; empty if all can.
    """

    files: tuple[Path, ...] = ()
    part: str = ""
    arrays: tuple[NDArray[Any], ...] = ()
    unknown: str = ""


@runtime_checkable
class HasStorage(Protocol):
    """A stack that knows where its pixels lie, in files or in memory."""

    @property
    def storage(self) -> Storage:
        """The files or arrays, by which the image is identified."""


@runtime_checkable
class HasMetadata(Protocol):
    """A stack whose source says what its voxels and channels are."""

    @property
    def metadata(self) -> ImageMetadata:
        """Voxel sizes and channels."""
