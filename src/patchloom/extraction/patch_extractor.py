"""Specifications + stacks → pixels."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from patchloom.argument_checks import instance, shown
from patchloom.errors import GeometryError, SpecError
from patchloom.extraction.box_reads import read_boxes
from patchloom.extraction.chunk_cache import ChunkCache
from patchloom.extraction.exact_normalization import cancels, is_exact_in_float32, normalize_exactly
from patchloom.extraction.padded_window import Normalization
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
        The series; `data_idx` of a specification counts in it. All have the same number of spatial axes and channels.
    padding : {"constant", "reflect", "edge", "wrap"}
        What stands outside an image, as `numpy.pad` of the whole image would put it there; `"constant"` is 0.
    pool : ChunkCache, optional
        Keeps decoded chunks, so that each serves many patches. It is closed by whoever made it.

    Raises
    ------
    GeometryError
        If the series is empty or its stacks differ in dimensions or channels, or the padding is unknown.

    Examples
    --------
    >>> from patchloom import ArrayStack, PatchExtractor
    >>> extractor = PatchExtractor([ArrayStack(np.arange(20).reshape(4, 5), axes="YX")], padding="reflect")
    >>> extractor.extract({"data_idx": 0, "sample_idx": 0, "coords": (-1, 3), "patch_size": (2, 3)}).tolist()
    [[[8, 9, 8], [3, 4, 3]]]
    """

    def __init__(
        self, image_stacks: Sequence[ImageStack], padding: Padding = "constant", *, pool: ChunkCache | None = None
    ) -> None:
        self.image_stacks = listed_stacks("image_stacks", image_stacks)
        if pool is not None:
            instance("pool", pool, ChunkCache)
        check_series(self.image_stacks)
        self.padding = check_padding(padding)
        self.pool = pool
        self._shape_table = np.array(self.shapes, np.int64)
        self._n_channels = int(self._shape_table[0, 1])
        # Asked once, as the question takes longer than copying many a patch.
        self._pixels = [stack.pixels if isinstance(stack, HoldsPixels) else None for stack in self.image_stacks]
        self._readers = [
            partial(read_boxes, stack) if pool is None else pool.reader(stack) for stack in self.image_stacks
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
        """The dtype that holds the pixels of every stack of the series: their own, where they share one."""
        return np.result_type(*{np.dtype(stack.data_dtype) for stack in self.image_stacks})

    def extract_patch(
        self, data_idx: int, sample_idx: int, coords: Sequence[int], patch_size: Sequence[int]
    ) -> NDArray[Any]:
        """Read all channels of one patch.

        Parameters
        ----------
        data_idx, sample_idx : int
            Which stack, and which of its samples.
        coords : sequence of int
            First voxel inside, `(z,) y, x`; may be negative or past the image's end.
        patch_size : sequence of int
            Extent along each spatial axis.

        Returns
        -------
        array
            `C(Z)YX` in the stack's own dtype.

        Raises
        ------
        SpecError
            If there is no such stack or sample, or the dimensions are not the series'.
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
            Where the patch lies. With an `UncorrelatedPatchSpecs` channel `c` is read at its own place.

        Returns
        -------
        array
            `C(Z)YX` in the dtype of its stack (of the series, where channels come from several stacks).

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
        self._fill(located.by_stack(), batch, None)
        patch: NDArray[Any] = batch[0]
        return patch

    def extract_batch(
        self,
        specs: SpecTable | Iterable[PatchSpecs],
        out: NDArray[Any] | None = None,
        dtype: DTypeLike | None = None,
        scale: float | Sequence[float] | None = None,
        offset: float | Sequence[float] | None = None,
    ) -> NDArray[Any]:
        """Read a whole batch of patches of one size in one call.

        Parameters
        ----------
        specs : SpecTable or iterable of PatchSpecs
            Specifications of one kind and one patch size.
        out : array, optional
            `(B, C, (Z), Y, X)` array to fill, which may be used again for the next batch. Pixels are cast to its dtype as by
            assignment.
        dtype : dtype, optional
            Of a new array; the series' own where not given (float32 with a `scale` or `offset`).
        scale, offset : float or sequence of float, optional
            The batch holds `pixel * scale + offset`; one number, or one a channel. Large offsets do not blur the differences
            of large pixels: those are subtracted before they become float32.

        Returns
        -------
        array
            `(B, C, (Z), Y, X)`; `out` where it was given.

        Raises
        ------
        SpecError
            If a specification points outside the series, they differ in size or kind, or do not fit into memory.
        GeometryError
            If `out`, `dtype`, `scale` or `offset` do not fit, or `out` cannot be written to or shares memory with an image.
        SourceError
            If the pixels cannot be read.
        """
        located = self.locate(specs)
        if out is None:
            plain = scale is None and offset is None
            of_batch = (self.data_dtype if plain else np.float32) if dtype is None else pixel_dtype("dtype", dtype)
            out = empty_batch((located.n_patches, self.n_channels, *located.patch_size), of_batch)
        self.extract_located(located, out, scale, offset)
        return out

    def locate(self, specs: SpecTable | Iterable[PatchSpecs]) -> SeriesWindows:
        """Say where patches lie in the series, for `extract_located`.

        Parameters
        ----------
        specs : SpecTable or iterable of PatchSpecs
            Specifications of one kind and one patch size, of one batch or of many.

        Raises
        ------
        SpecError
            If a specification points outside the series, or they differ in size or kind.
        """
        return locate(SpecTable.from_specs(specs), self._shape_table)

    def extract_located(
        self,
        located: SeriesWindows,
        out: NDArray[Any],
        scale: float | Sequence[float] | NDArray[Any] | None = None,
        offset: float | Sequence[float] | NDArray[Any] | None = None,
    ) -> None:
        """Read a batch of which it is known where it lies: what `extract_batch` does, for many small batches.

        Where patches lie is worked out for a thousand of them as fast as for ten.

        Parameters
        ----------
        located : SeriesWindows
            As this extractor's `locate` gave it, all of it or some patches.
        out, scale, offset
            As of `extract_batch`.

        Raises
        ------
        GeometryError
            If `out`, `scale` or `offset` do not fit, or `out` cannot be written to or shares memory with an image.
        SourceError
            If the pixels cannot be read.
        """
        check_fillable("out", out, (located.n_patches, self.n_channels, *located.patch_size))
        parts = list(located.by_stack())
        self.check_apart(out, [data_idx for data_idx, _ in parts])
        normalization = None if scale is None and offset is None else self._normalization(out.dtype, scale, offset)
        if normalization is not None and out.dtype == np.float32 and cancels(normalization.offset):
            self._fill_exactly(located, out, scale, offset)
        elif out.flags.aligned:
            self._fill(parts, out, normalization)
        else:  # not every reader can write there
            aligned = np.empty(out.shape, out.dtype)
            self._fill(parts, aligned, normalization)
            out[...] = aligned

    def _fill_exactly(
        self,
        located: SeriesWindows,
        out: NDArray[Any],
        scale: float | Sequence[float] | NDArray[Any] | None,
        offset: float | Sequence[float] | NDArray[Any] | None,
    ) -> None:
        # Pixels are read in their own dtype, so that their differences are not lost before they are normalized.
        pixels = out if is_exact_in_float32(self.data_dtype) else np.empty(out.shape, self.data_dtype)
        self.extract_located(located, pixels)
        wide = self._normalization(np.dtype(np.float64), scale, offset)
        by_channel = (pixels.swapaxes(0, 1), out.swapaxes(0, 1))
        normalize_exactly(*by_channel, wide.scale.tolist(), wide.offset.tolist())

    def check_apart(self, out: NDArray[Any], stacks: Iterable[int]) -> None:
        """Refuse an array that shares memory with one of some images, which would change while it is read.

        Raises
        ------
        GeometryError
            If it does.
        """
        for data_idx in stacks:
            pixels = self._pixels[data_idx]
            if pixels is not None and share_memory(out, pixels):
                source = self.image_stacks[data_idx].source
                raise GeometryError(f"out shares memory with the image {source}: give an array of its own")

    def _fill(
        self, parts: Iterable[tuple[int, Windows]], batch: NDArray[Any], normalization: Normalization | None
    ) -> None:
        for data_idx, windows in parts:
            stack, pixels = self.image_stacks[data_idx], self._pixels[data_idx]
            if pixels is not None:
                pick_windows(pixels, windows, batch, padding=self.padding, normalization=normalization)
            else:
                read = self._readers[data_idx]
                read_windows(stack, windows, batch, read, padding=self.padding, normalization=normalization)

    def __reduce__(self) -> tuple[Any, ...]:
        return _make_again, (type(self), self.image_stacks, self.padding, self.pool)

    def _normalization(
        self,
        dtype: np.dtype[Any],
        scale: float | Sequence[float] | NDArray[Any] | None,
        offset: float | Sequence[float] | NDArray[Any] | None,
    ) -> Normalization:
        if dtype.kind not in "fc":
            raise GeometryError(f"scale and offset need a batch of floats; its dtype is {dtype}")
        return Normalization(
            self._per_channel("scale", 1.0 if scale is None else scale, dtype),
            self._per_channel("offset", 0.0 if offset is None else offset, dtype),
        )

    def _per_channel(
        self, name: str, values: float | Sequence[float] | NDArray[Any], dtype: np.dtype[Any]
    ) -> NDArray[Any]:
        numbers = _finite_numbers(name, values, dtype)
        if numbers.shape not in {(), (1,), (self.n_channels,)}:
            raise GeometryError(
                f"{name} has shape {numbers.shape}: give one number, or one for each of {self.n_channels} channels"
            )
        per_channel = np.empty(self.n_channels, dtype)
        per_channel[:] = numbers
        return per_channel


def empty_batch(shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
    """Make room for a batch of patches.

    Raises
    ------
    SpecError
        If there is not as much memory.

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
    """Return numbers that a dtype holds, in their own."""
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


def _make_again(
    kind: type[PatchExtractor], stacks: Sequence[ImageStack], padding: Padding, pool: ChunkCache | None
) -> PatchExtractor:
    return kind(stacks, padding, pool=pool)
