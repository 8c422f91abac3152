"""One series of images on its way into batches: some channels, in one dtype, normalized."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import DTypeLike, NDArray

from patchloom.argument_checks import listed, shown
from patchloom.errors import GeometryError
from patchloom.extraction import ChunkCache, PatchExtractor
from patchloom.extraction.rescaling import Rescaling
from patchloom.extraction.series_windows import SeriesWindows
from patchloom.geometry.padding import Padding
from patchloom.image_stacks import ImageStack, SourceWatch, select_channels
from patchloom.pixel_arrays import pixel_dtype
from patchloom.specs.spec_table import SpecTable
from patchloom.torch.datasets.gray_values import GrayValues, ScaleAndOffset
from patchloom.torch.datasets.whole_numbers import cast, holds_all, may_be_rounded
from patchloom.torch.patches import Allocate


class LocatedPatches(NamedTuple):
    """Where patches lie, and what they are normalized with."""

    windows: SeriesWindows

    rescaling: Rescaling | None
    """Scale and offset; None for pixels that are not normalized."""

    def of_rows(self, rows: slice) -> LocatedPatches:
        """Choose some of them."""
        windows = self.windows.of_patches(rows.start, rows.stop)
        return LocatedPatches(windows, None if self.rescaling is None else self.rescaling.of_rows(rows))


class SeriesReader:
    """Reads batches of patches of a series; pickles as its image stacks do.

    Parameters
    ----------
    stacks : sequence of ImageStack
        The series.
    channels : sequence of int, optional
        Which channels are read; all where not given.
    dtype : dtype-like
        Of the batches; one that PyTorch has. Whole numbers keep their value in it, or are refused when they are read.
    normalization : ScaleAndOffset or sequence of them, optional
        For the whole series, or one for each stack.
    padding : {"constant", "reflect", "edge", "wrap"}
        What stands outside the images.
    pool : ChunkCache, optional
        Keeps decoded chunks, so that each serves many patches.
    dtype_name : str
        What messages call the dtype.

    Raises
    ------
    GeometryError
        If the stacks make no series, a channel does not exist, PyTorch has no such dtype, or an integer one is to be
        normalized.
    """

    def __init__(
        self,
        stacks: Sequence[ImageStack],
        *,
        channels: Sequence[int] | None = None,
        dtype: DTypeLike = np.float32,
        normalization: ScaleAndOffset | Sequence[ScaleAndOffset] | None = None,
        padding: Padding = "reflect",
        pool: ChunkCache | None = None,
        dtype_name: str = "dtype",
    ) -> None:
        if channels is not None:
            channels = listed("channels", channels, "a sequence of whole numbers, such as [0, 2]")
        chosen = stacks if channels is None else [select_channels(stack, channels) for stack in stacks]
        self._extractor = PatchExtractor(chosen, padding, pool=pool)
        self.image_stacks = self._extractor.image_stacks
        self.dtype = np.dtype(dtype)
        self._torch_dtype = _torch_dtype(self.dtype)
        self._values = None if normalization is None else GrayValues(normalization, stacks, channels)
        if self._values is not None and self.dtype.kind != "f":
            raise GeometryError(f"dtype is {self.dtype}, which holds no normalized pixels: take a floating-point one")
        self._dtype_name = dtype_name
        self._check_kinds()
        self._holds_all = all(holds_all(stack.data_dtype, self.dtype) for stack in self.image_stacks)
        self._watch = SourceWatch(self.image_stacks)

    @property
    def n_channels(self) -> int:
        """Channels of a batch."""
        return self._extractor.n_channels

    @property
    def may_hold_nan(self) -> bool:
        """Whether there can be a NaN in a batch at all."""
        return self.dtype.kind in "fc" and any(stack.data_dtype.kind in "fc" for stack in self.image_stacks)

    def locate(self, table: SpecTable) -> LocatedPatches:
        """Say where patches of one size lie and what they are normalized with, for one batch or many.

        Raises
        ------
        SpecError
            If the patches differ in size or do not lie in the series.
        """
        windows = self._extractor.locate(table)
        return LocatedPatches(windows, None if self._values is None else self._values.of(table))

    def read(self, located: LocatedPatches, allocate: Allocate) -> torch.Tensor:
        """Read a batch.

        Parameters
        ----------
        located : LocatedPatches
            The patches.
        allocate : callable
            Makes the tensor.

        Returns
        -------
        torch.Tensor
            `(B, C, (Z), Y, X)`.

        Raises
        ------
        SourceError
            If pixels cannot be read, or an image has changed on disk.
        GeometryError
            If the dtype does not hold a whole number.
        """
        windows = located.windows
        batch = allocate((windows.n_patches, self.n_channels, *windows.patch_size), self._torch_dtype)
        self.read_into(located, batch.numpy())
        return batch

    def read_into(self, located: LocatedPatches, out: NDArray[Any]) -> None:
        """Read a batch to where it is wanted, `(B, C, (Z), Y, X)`; see `read`."""
        windows, rescaling = located
        self._watch.check(sorted(set(windows.stacks.tolist())))
        if rescaling is None:
            self._read_as_they_are(windows, out)
        else:
            self._extractor.extract_located(windows, out, rescaling)

    def _check_kinds(self) -> None:
        for stack in self.image_stacks:
            if stack.data_dtype.kind == "c" and self.dtype.kind != "c":
                raise GeometryError(
                    f"{self._dtype_name} is {self.dtype}, but {stack.source} has complex pixels: take a complex dtype"
                )

    def _read_as_they_are(self, windows: SeriesWindows, out: NDArray[Any]) -> None:
        """Read pixels that are not normalized; whole numbers stay what they are."""
        if self._holds_all:
            self._extractor.extract_located(windows, out)
            return
        if out.dtype.kind == "f":
            with np.errstate(over="ignore"):
                self._extractor.extract_located(windows, out)
            if not may_be_rounded(out, out.dtype):
                return
        pixels = np.empty(out.shape, self._extractor.data_dtype)
        self._extractor.extract_located(windows, pixels)
        changed = cast(pixels, out)
        if changed is not None:
            row, channel = changed[:2]
            source = self.image_stacks[windows.stacks[row * windows.per_patch + channel % windows.per_patch]].source
            fitting = "float64" if pixels.dtype.kind == "f" else "uint64" if pixels.dtype == np.uint64 else "int64"
            raise GeometryError(
                f"{self._dtype_name} is {self.dtype}, which does not hold {pixels[changed]} of {source}: take one that does, "
                f"such as {self._dtype_name}='{fitting}'"
            )


def _torch_dtype(dtype: np.dtype[Any]) -> torch.dtype:
    try:
        return torch.from_numpy(np.empty(0, dtype)).dtype
    except TypeError as error:
        raise GeometryError(f"dtype is {dtype}, which PyTorch does not have: take another, such as float32") from error


def tensor_dtype(name: str, dtype: DTypeLike) -> np.dtype[Any]:
    """Return the dtype of a tensor of pixels; messages call it by the name given.

    Raises
    ------
    GeometryError
        If PyTorch has no such dtype.
    """
    try:
        return pixel_dtype(name, dtype)
    except GeometryError as error:
        raise GeometryError(
            f"{name} is {shown(dtype)}: it must be a dtype of numbers that PyTorch has, such as 'float32'"
        ) from error
