"""One series of images on its way into batches: some channels, in one dtype, normalized, with lateral context if wanted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import DTypeLike, NDArray

from patchloom.argument_checks import listed, shown
from patchloom.errors import GeometryError
from patchloom.extraction import ChunkCache, PatchExtractor
from patchloom.extraction.downscaling import Downscale, check_downscale
from patchloom.extraction.lateral_context import (
    check_context_fits,
    checked_scales,
    context_windows,
    fill_scales,
    middle_windows,
)
from patchloom.extraction.rescaling import Rescaling, rescale
from patchloom.extraction.series_windows import SeriesWindows
from patchloom.geometry.padding import Padding
from patchloom.image_stacks import ImageStack, SourceWatch, select_channels
from patchloom.pixel_arrays import pixel_dtype
from patchloom.specs.spec_table import SpecTable
from patchloom.torch.datasets.series_normalization import ScaleAndOffset, SeriesNormalization
from patchloom.torch.datasets.whole_numbers import cast, holds_all, may_be_rounded
from patchloom.torch.tensor_memory import Allocate


@dataclass(frozen=True, slots=True)
class LateralContext:
    """The coarser scales that are read around a patch.

    Parameters
    ----------
    n_scales : int
        Number of scales, the patch itself among them.
    downscale : {"mean", "resize"}
        By the mean of blocks, or as CAREamics does.
    scale_z : bool
        Whether coarser scales cover more along Z too.

    Raises
    ------
    GeometryError
        If the number of scales is not from 1 to 16, or `downscale` is something else.
    """

    n_scales: int = 1
    downscale: Downscale = "mean"
    scale_z: bool = True

    def __post_init__(self) -> None:
        checked_scales(self.n_scales)
        check_downscale(self.downscale)

    def check_fits(self, stacks: Sequence[ImageStack], patch_size: Sequence[int]) -> None:
        """Refuse context larger than an image; see `check_context_fits`."""
        check_context_fits([stack.data_shape for stack in stacks], patch_size, self.n_scales, scale_z=self.scale_z)


class SeriesFacts(NamedTuple):
    """What a series was created from, which is saved with a network that is trained on it."""

    stacks: Sequence[ImageStack]
    """The images, with all their channels."""

    channels: tuple[int, ...] | None
    """The channels that are read; None for all."""

    n_channels: int
    """Number of channels of a batch."""

    normalization: ScaleAndOffset | Sequence[ScaleAndOffset] | None
    """As it was given."""


class LocatedPatches(NamedTuple):
    """The places of patches in a series, and the numbers that they are normalized with."""

    windows: SeriesWindows
    """What is read: the patches, or the windows of their coarsest scale."""

    patch_size: tuple[int, ...]
    """`(z,) y, x`."""

    rescaling: Rescaling | None
    """Scale and offset; None for pixels that are not normalized."""

    @property
    def n_patches(self) -> int:
        """Number of patches."""
        return self.windows.n_patches

    def of_rows(self, rows: slice) -> LocatedPatches:
        """Choose some patches."""
        windows = self.windows.of_patches(rows.start, rows.stop)
        return self._replace(
            windows=windows, rescaling=None if self.rescaling is None else self.rescaling.of_rows(rows)
        )


class SeriesReader:
    """Reads batches of patches of a series; pickles as its image stacks do.

    Parameters
    ----------
    stacks : sequence of ImageStack
        The series.
    channels : sequence of int, optional
        The channels that are read, in this order. If None, all.
    dtype : dtype-like
        Of the batches; one that PyTorch has. Whole numbers keep their value in it, or are refused when they are read.
    normalization : ScaleAndOffset or sequence of them, optional
        For the whole series, or one for each stack.
    padding : {"constant", "reflect", "edge", "wrap"}
        How pixels outside the images are filled.
    context : LateralContext, optional
        The scales of a batch, which is `(B, C, L, (Z), Y, X)` then and of floats. If None, it is `(B, C, (Z), Y, X)`.
    cache : ChunkCache, optional
        Keeps decoded chunks, so that each serves many patches.
    dtype_name : str, optional
        Name of the argument `dtype`, for messages. If None, the caller cannot choose another dtype.

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
        context: LateralContext | None = None,
        cache: ChunkCache | None = None,
        dtype_name: str | None = None,
    ) -> None:
        if channels is not None:
            channels = listed("channels", channels, "a sequence of whole numbers, such as [0, 2]")
        chosen = stacks if channels is None else [select_channels(stack, channels) for stack in stacks]
        self._extractor = PatchExtractor(chosen, padding, cache=cache)
        self.image_stacks = self._extractor.image_stacks
        read = None if channels is None else tuple(channels)
        self.facts = SeriesFacts(list(stacks), read, self._extractor.n_channels, normalization)
        self.dtype = np.dtype(dtype)
        self._torch_dtype = _torch_dtype(self.dtype)
        self._context = context
        self._values = None if normalization is None else SeriesNormalization(normalization, stacks, channels)
        if self._values is not None and self.dtype.kind != "f":
            raise GeometryError(f"dtype is {self.dtype}, which holds no normalized pixels: take a floating-point one")
        self._dtype_name = dtype_name
        self._check_kinds()
        self._holds_all = all(holds_all(stack.data_dtype, self.dtype) for stack in self.image_stacks)
        self._watch = SourceWatch(self.image_stacks)

    @property
    def n_channels(self) -> int:
        """Number of channels of a batch."""
        return self._extractor.n_channels

    @property
    def n_scales(self) -> int:
        """Number of scales of a batch."""
        return 1 if self._context is None else self._context.n_scales

    @property
    def working_dtype(self) -> np.dtype[Any]:
        """The dtype that pixels need until they are normalized, so that no differences are lost."""
        return self.dtype if self._values is None else self._values.working_dtype

    @property
    def may_hold_nan(self) -> bool:
        """Whether there can be a NaN in a batch at all."""
        return self.dtype.kind in "fc" and any(stack.data_dtype.kind in "fc" for stack in self.image_stacks)

    def locate(self, table: SpecTable) -> LocatedPatches:
        """Locate patches of one size in the series, for one batch or many.

        Raises
        ------
        SpecError
            If the patches differ in size or do not lie in the series.
        """
        windows = self._extractor.locate(table)
        size = windows.patch_size
        if self._context is not None and self._context.n_scales > 1:
            scales = self._context
            windows = self._extractor.locate(context_windows(table, scales.n_scales, scale_z=scales.scale_z))
        return LocatedPatches(windows, size, None if self._values is None else self._values.of(table))

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
            `(B, C, (Z), Y, X)`, or `(B, C, L, (Z), Y, X)` with lateral context.

        Raises
        ------
        SourceError
            If pixels cannot be read, or an image has changed on disk.
        GeometryError
            If the dtype does not hold a pixel.
        """
        scales = () if self._context is None else (self.n_scales,)
        batch = allocate((located.n_patches, self.n_channels, *scales, *located.patch_size), self._torch_dtype)
        self.read_into(located, batch.numpy())
        return batch

    def read_into(self, located: LocatedPatches, out: NDArray[Any]) -> None:
        """Read a batch into an array; see `read`."""
        if located.rescaling is None or self.n_scales == 1:
            self._read(located, out, located.rescaling)
            return
        # Means are taken of pixels in their own gray values, which are exact for integers.
        pixels = out if self.working_dtype == out.dtype else np.empty(out.shape, self.working_dtype)
        self._read(located, pixels, None)
        rescale(pixels, out, located.rescaling)

    def read_gray_values(self, located: LocatedPatches, out: NDArray[Any]) -> None:
        """Read a batch in the image's own gray values, whatever the normalization; see `read`."""
        self._read(located, out, None)

    def _read(self, located: LocatedPatches, out: NDArray[Any], rescaling: Rescaling | None) -> None:
        self._watch.check(sorted(set(located.windows.stacks.tolist())))
        if self._context is None or self._context.n_scales == 1:
            patches, windows = out if self._context is None else out[:, :, 0], located.windows
            if rescaling is not None or self._values is not None or self._holds_all:
                self._extractor.extract_located(windows, patches, rescaling)
            else:
                self._read_as_they_are(windows, patches)
            return
        context = self._context
        fill_scales(self._extractor, located.windows, out, downscale=context.downscale, scale_z=context.scale_z)
        patches = out[:, :, 0]
        if self._values is None and not self._holds_all and may_be_rounded(patches, self.dtype):
            self._read_exactly(middle_windows(located.windows, located.patch_size), np.empty(patches.shape, self.dtype))

    def _read_as_they_are(self, windows: SeriesWindows, out: NDArray[Any]) -> None:
        """Read pixels that the dtype does not hold in general; whole numbers stay what they are."""
        if out.dtype.kind == "f":
            with np.errstate(over="ignore"):
                self._extractor.extract_located(windows, out)
            if not may_be_rounded(out, self.dtype):
                return
        self._read_exactly(windows, out if out.dtype == self.dtype else np.empty(out.shape, self.dtype))

    def _read_exactly(self, windows: SeriesWindows, out: NDArray[Any]) -> None:
        """Read pixels in their own dtype, and refuse one that changes in that of `out`."""
        pixels = np.empty(out.shape, self._extractor.data_dtype)
        self._extractor.extract_located(windows, pixels)
        changed = cast(pixels, out)
        if changed is None:
            return
        row, channel = changed[:2]
        source = self.image_stacks[windows.stacks[row * windows.per_patch + channel % windows.per_patch]].source
        if self._dtype_name is None:
            remedy = "give a normalization, or train on labels with a PatchDataset(target_dtype='int64')"
        else:
            fitting = "float64" if pixels.dtype.kind == "f" else "uint64" if pixels.dtype == np.uint64 else "int64"
            remedy = f"take one that does, such as {self._dtype_name}='{fitting}'"
        raise GeometryError(
            f"{self._dtype_name or 'dtype'} is {self.dtype}, which does not hold {pixels[changed]} of {source}: {remedy}"
        )

    def _check_kinds(self) -> None:
        for stack in self.image_stacks:
            if stack.data_dtype.kind == "c" and self.dtype.kind != "c":
                raise GeometryError(
                    f"{self._dtype_name or 'dtype'} is {self.dtype}, but {stack.source} has complex pixels: "
                    + ("take its real part first" if self._dtype_name is None else "take a complex dtype")
                )


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


def _torch_dtype(dtype: np.dtype[Any]) -> torch.dtype:
    try:
        return torch.from_numpy(np.empty(0, dtype)).dtype
    except TypeError as error:
        raise GeometryError(f"dtype is {dtype}, which PyTorch does not have: take another, such as float32") from error
