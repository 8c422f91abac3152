"""Reads the pixels of patches, given their specifications."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from patchloom.argument_checks import instance, shown
from patchloom.errors import GeometryError, SpecError
from patchloom.extraction.box_reads import read_boxes
from patchloom.extraction.chunk_cache import ChunkCache
from patchloom.extraction.rescaling import Rescaling, rescale
from patchloom.extraction.series_windows import SeriesWindows, locate
from patchloom.extraction.window_reads import Windows, pick_windows, read_windows
from patchloom.geometry.padding import Padding, check_padding
from patchloom.image_stacks import HoldsPixels, ImageStack, check_series, listed_stacks
from patchloom.pixel_arrays import check_fillable, pixel_dtype, share_memory
from patchloom.specs.patch_specs import PatchSpecs
from patchloom.specs.spec_table import SpecTable


class PatchExtractor:
    """Reads patches of a series of image stacks.

    Parameters
    ----------
    image_stacks : sequence of ImageStack
        The series; `data_idx` of a specification is an index of it. All stacks have the same number of spatial axes and
        channels.
    padding : {"constant", "reflect", "edge", "wrap"}, default "reflect"
        How pixels outside an image are filled, as `numpy.pad` of the whole image fills them; `"constant"` is 0.
    cache : ChunkCache, optional
        Keeps decoded chunks, so that each serves many patches. It is not closed by the extractor. If None, nothing is kept.

    Raises
    ------
    GeometryError
        If the series is empty, its stacks differ in dimensions or channels, or `padding` is something else.

    Examples
    --------
    >>> from patchloom import ArrayStack, PatchExtractor
    >>> extractor = PatchExtractor([ArrayStack(np.arange(20).reshape(4, 5), axes="YX")], padding="reflect")
    >>> extractor.extract({"data_idx": 0, "sample_idx": 0, "coords": (-1, 3), "patch_size": (2, 3)}).tolist()
    [[[8, 9, 8], [3, 4, 3]]]
    """

    def __init__(
        self, image_stacks: Sequence[ImageStack], padding: Padding = "reflect", *, cache: ChunkCache | None = None
    ) -> None:
        self.image_stacks = listed_stacks("image_stacks", image_stacks)
        if cache is not None:
            instance("cache", cache, ChunkCache)
        check_series(self.image_stacks)
        self.padding = check_padding(padding)
        self.cache = cache
        self._shape_table = np.array(self.shapes, np.int64)
        self._n_channels = int(self._shape_table[0, 1])
        # Looked up once, as that takes longer than copying a small patch.
        self._pixels = [stack.pixels if isinstance(stack, HoldsPixels) else None for stack in self.image_stacks]
        self._readers = [
            partial(read_boxes, stack) if cache is None else cache.reader(stack) for stack in self.image_stacks
        ]

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """Shape of each image stack, `SC(Z)YX`."""
        return [tuple(stack.data_shape) for stack in self.image_stacks]

    @property
    def n_spatial_dims(self) -> int:
        """Number of spatial axes: 2 or 3."""
        return len(self.image_stacks[0].data_shape) - 2

    @property
    def n_channels(self) -> int:
        """Number of channels of every image stack."""
        return self._n_channels

    @property
    def data_dtype(self) -> np.dtype[Any]:
        """The dtype that holds the pixels of every stack of the series."""
        return np.result_type(*{np.dtype(stack.data_dtype) for stack in self.image_stacks})

    def extract_patch(
        self, data_idx: int, sample_idx: int, coords: Sequence[int], patch_size: Sequence[int]
    ) -> NDArray[Any]:
        """Read all channels of one patch.

        Parameters
        ----------
        data_idx, sample_idx : int
            Index of the stack in the series, and of the sample in the stack.
        coords : sequence of int
            First voxel of the patch, `(z,) y, x`; may be negative or past the end of the image.
        patch_size : sequence of int
            Size along each spatial axis, `(z,) y, x`, in voxels.

        Returns
        -------
        array
            `C(Z)YX` in the stack's own dtype.

        Raises
        ------
        SpecError
            If the series has no such stack or sample, or other dimensions.
        SourceError
            If the pixels cannot be read.
        """
        return self.extract(
            {"data_idx": data_idx, "sample_idx": sample_idx, "coords": coords, "patch_size": patch_size}
        )

    def extract(self, spec: PatchSpecs) -> NDArray[Any]:
        """Read the patch that a specification of any kind describes.

        Parameters
        ----------
        spec : PatchSpecs, TileSpecs or UncorrelatedPatchSpecs
            Where the patch lies. With `UncorrelatedPatchSpecs`, each channel is read at its own position.

        Returns
        -------
        array
            `C(Z)YX` in the dtype of its stack, or of the series if channels come from several stacks.

        Raises
        ------
        SpecError
            If the specification points outside the series, or its patch does not fit into memory.
        SourceError
            If the pixels cannot be read.
        """
        located = self.locate([spec])
        of_one_stack = located.per_patch == 1
        dtype = self.image_stacks[int(located.stacks[0])].data_dtype if of_one_stack else self.data_dtype
        batch = empty_batch((1, self.n_channels, *located.patch_size), dtype)
        self._read(located.by_stack(), batch, None)
        patch: NDArray[Any] = batch[0]
        return patch

    def extract_batch(
        self,
        specs: SpecTable | Iterable[PatchSpecs],
        out: NDArray[Any] | None = None,
        dtype: DTypeLike | None = None,
        scale: ArrayLike | None = None,
        offset: ArrayLike | None = None,
    ) -> NDArray[Any]:
        """Read a whole batch of patches of one size in one call.

        Parameters
        ----------
        specs : SpecTable or iterable of PatchSpecs
            Specifications of one kind and one patch size.
        out : array, optional
            `(B, C, (Z), Y, X)` array to fill, which may be used again for the next batch. Pixels are cast to its dtype as by
            assignment. If None, a new array is returned.
        dtype : dtype, optional
            Of a new array. If None, that of the series, or float32 with a `scale` or `offset`.
        scale, offset : float or array of float, default 1 and 0
            The batch holds `pixel * scale + offset`. One number, `(C,)` with one for each channel, or `(B, C)` with one for each
            patch and channel. Where an offset is large, pixels are subtracted before they are rounded to float32, so that their
            differences are kept.

        Returns
        -------
        array
            `(B, C, (Z), Y, X)`: `out`, or the new array.

        Raises
        ------
        SpecError
            If a specification points outside the series, they differ in size or kind, or do not fit into memory.
        GeometryError
            If `out`, `dtype`, `scale` or `offset` do not fit, or `out` cannot be written to or shares memory with an image.
        SourceError
            If the pixels cannot be read.

        Examples
        --------
        >>> from patchloom import ArrayStack, PatchExtractor
        >>> extractor = PatchExtractor([ArrayStack(np.arange(20).reshape(4, 5), axes="YX")])
        >>> specs = [{"data_idx": 0, "sample_idx": 0, "coords": (y, 0), "patch_size": (1, 3)} for y in range(2)]
        >>> extractor.extract_batch(specs, scale=[[1], [10]], offset=0.5).tolist()
        [[[[0.5, 1.5, 2.5]]], [[[50.5, 60.5, 70.5]]]]
        """
        located = self.locate(specs)
        plain = scale is None and offset is None
        if out is None:
            of_batch = (self.data_dtype if plain else np.float32) if dtype is None else pixel_dtype("dtype", dtype)
            out = empty_batch((located.n_patches, self.n_channels, *located.patch_size), of_batch)
        else:
            check_fillable("out", out, (located.n_patches, self.n_channels, *located.patch_size))
        self._extract(located, out, None if plain else self._rescaling(out, scale, offset))
        return out

    def locate(self, specs: SpecTable | Iterable[PatchSpecs]) -> SeriesWindows:
        """Find the windows of patches in the series, for `extract_located`.

        Parameters
        ----------
        specs : SpecTable or iterable of PatchSpecs
            Specifications of one kind and one patch size, of one batch or many.

        Returns
        -------
        SeriesWindows
            The windows; `of_patches` chooses some of them.

        Raises
        ------
        SpecError
            If a specification points outside the series, or they differ in size or kind.
        """
        return locate(SpecTable.from_specs(specs), self._shape_table)

    def extract_located(self, located: SeriesWindows, out: NDArray[Any], rescaling: Rescaling | None = None) -> None:
        """Read a batch of located patches, as `extract_batch` does.

        Patches are located a thousand at a time as fast as ten.

        Parameters
        ----------
        located : SeriesWindows
            From `locate` of this extractor, all of it or some patches.
        out : array
            `(B, C, (Z), Y, X)` array to fill.
        rescaling : Rescaling, optional
            Scale and offset. If None, pixels are cast only.

        Raises
        ------
        GeometryError
            If `out` or `rescaling` do not fit, or `out` cannot be written to or shares memory with an image.
        SourceError
            If the pixels cannot be read.
        """
        check_fillable("out", out, (located.n_patches, self.n_channels, *located.patch_size))
        if rescaling is not None:
            instance("rescaling", rescaling, Rescaling, "Rescaling.of makes it")
            _check_rescaling(rescaling, out)
        self._extract(located, out, rescaling)

    def _extract(self, located: SeriesWindows, out: NDArray[Any], rescaling: Rescaling | None) -> None:
        parts = list(located.by_stack())
        self.check_apart(out, [data_idx for data_idx, _ in parts])
        if rescaling is None:
            self._read(parts, out, None)
        elif rescaling.loses_differences(out.dtype):
            self._read_exactly(located, out, rescaling)
        else:
            self._read(parts, out, rescaling.astype(out.dtype))

    def _read_exactly(self, located: SeriesWindows, out: NDArray[Any], rescaling: Rescaling) -> None:
        """Read pixels in their own dtype first, so that their differences are not lost before they are rescaled."""
        parts = list(located.by_stack())
        dtypes = {self.image_stacks[data_idx].data_dtype for data_idx, _ in parts}
        if len(dtypes) > 1 and located.n_patches > 1:  # a patch must not depend on the others of its batch
            for row in range(located.n_patches):
                one = located.of_patches(row, row + 1)
                self._read_exactly(one, out[row : row + 1], rescaling.of_rows(slice(row, row + 1)))
            return
        dtype = np.result_type(*dtypes)
        if np.can_cast(dtype, out.dtype, "safe"):
            pixels = out
        else:
            pixels = out.view(dtype) if dtype.itemsize == out.itemsize else np.empty(out.shape, dtype)
        self._read(parts, pixels, None)
        rescale(pixels, out, rescaling)

    def check_apart(self, out: NDArray[Any], stacks: Iterable[int]) -> None:
        """Refuse an array that shares memory with an image that is read into it.

        Raises
        ------
        GeometryError
            If it shares memory with one of the image stacks of these indices.
        """
        for data_idx in stacks:
            pixels = self._pixels[data_idx]
            if pixels is not None and share_memory(out, pixels):
                source = self.image_stacks[data_idx].source
                raise GeometryError(f"out shares memory with the image {source}: give another array")

    def _read(self, parts: Iterable[tuple[int, Windows]], batch: NDArray[Any], rescaling: Rescaling | None) -> None:
        # Not every reader can write to memory that is not aligned.
        target = batch if batch.flags.aligned else np.empty(batch.shape, batch.dtype)
        for data_idx, windows in parts:
            stack, pixels = self.image_stacks[data_idx], self._pixels[data_idx]
            if pixels is not None:
                pick_windows(pixels, windows, target, padding=self.padding, rescaling=rescaling)
            else:
                read = self._readers[data_idx]
                read_windows(stack, windows, target, read, padding=self.padding, rescaling=rescaling)
        if target is not batch:
            batch[...] = target

    def __reduce__(self) -> tuple[Any, ...]:
        return _make_again, (type(self), self.image_stacks, self.padding, self.cache)

    def _rescaling(self, out: NDArray[Any], scale: ArrayLike | None, offset: ArrayLike | None) -> Rescaling:
        scales = self._per_channel("scale", 1.0 if scale is None else scale, out)
        offsets = self._per_channel("offset", 0.0 if offset is None else offset, out)
        if len(scales) != len(offsets):
            scales, offsets = np.broadcast_arrays(scales, offsets)
        return Rescaling(scales, offsets)

    def _per_channel(self, name: str, values: ArrayLike, out: NDArray[Any]) -> NDArray[Any]:
        """Return numbers of shape `(1, C)` or `(B, C)`."""
        _check_floats(out)
        numbers = _finite_numbers(name, values, out.dtype)
        if numbers.shape in {(), (1,)}:
            return np.full((1, self.n_channels), numbers)
        if numbers.shape not in {out.shape[1:2], out.shape[:2]}:
            raise GeometryError(
                f"{name} has shape {numbers.shape}: give one number, or one for each of {self.n_channels} channels, or that for "
                f"each of {len(out)} patches"
            )
        return np.atleast_2d(numbers)


def empty_batch(shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
    """Return an uninitialized array for a batch of patches.

    Raises
    ------
    SpecError
        If it does not fit into memory.

    Examples
    --------
    >>> empty_batch((1, 1, 2**40, 2**40), np.uint8)
    Traceback (most recent call last):
        ...
    patchloom.errors.SpecError: a batch of shape (1, 1, 1099511627776, 1099511627776) does not fit into memory: take smaller
    patches, or fewer at a time
    """
    try:
        return np.empty(shape, dtype)
    except (ValueError, MemoryError) as error:
        raise SpecError(
            f"a batch of shape {shape} does not fit into memory: take smaller patches, or fewer at a time"
        ) from error


def _finite_numbers(name: str, values: Any, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return numbers as an array of their own dtype, if another dtype holds them."""
    try:
        numbers = np.asarray(values)
    except (ValueError, TypeError, RuntimeError):  # lists of different lengths, tensors with a gradient
        numbers = np.empty(0, dtype=object)
    real = numbers.dtype.kind in "iuf" or (dtype.kind == "c" and numbers.dtype.kind == "c")
    most = float(np.finfo(dtype).max)
    # Python's numbers are compared, as NumPy takes longer for a few.
    if not real or not all(abs(number) <= most for number in numbers.ravel().tolist()):
        raise GeometryError(f"{name} is {shown(values)}: it must be a finite {dtype}, or one for each channel")
    return numbers


def _check_rescaling(rescaling: Rescaling, out: NDArray[Any]) -> None:
    _check_floats(out)
    for numbers in rescaling[:2]:
        if numbers.shape not in {(1, out.shape[1]), out.shape[:2]}:
            raise GeometryError(
                f"rescaling has numbers of shape {numbers.shape}: it must have one for each of {out.shape[1]} channels, or that "
                f"for each of {len(out)} patches"
            )


def _check_floats(out: NDArray[Any]) -> None:
    if out.dtype.kind not in "fc":
        raise GeometryError(f"scale and offset need a batch of floats; its dtype is {out.dtype}")


def _make_again(
    kind: type[PatchExtractor], stacks: Sequence[ImageStack], padding: Padding, cache: ChunkCache | None
) -> PatchExtractor:
    return kind(stacks, padding, cache=cache)
