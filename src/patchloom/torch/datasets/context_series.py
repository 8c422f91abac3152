"""One series of images read with lateral context, for datasets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from patchloom.argument_checks import one_of
from patchloom.errors import GeometryError
from patchloom.extraction import ChunkCache, PatchExtractor, extract_lateral_context
from patchloom.extraction.downscaling import Downscale, check_downscale
from patchloom.extraction.lateral_context import check_context_fits, checked_scales
from patchloom.geometry.padding import Padding
from patchloom.image_stacks import ImageStack, SourceWatch, select_channels
from patchloom.specs.spec_table import SpecTable
from patchloom.torch.datasets.gray_values import GrayValues, ScaleAndOffset
from patchloom.torch.datasets.whole_numbers import cast, holds_all, may_be_rounded

_FLOAT32 = np.dtype(np.float32)

ContextPadding = Literal["reflect", "wrap", "zeros"]


@dataclass(frozen=True, slots=True)
class LateralContext:
    """How much of its surroundings a patch brings along, and how.

    Parameters
    ----------
    n_scales : int
        How many scales, the patch itself among them.
    downscale : {"mean", "resize"}
        By the mean of blocks, or as CAREamics does.
    scale_z : bool
        Whether scales cover more along Z too.
    padding : {"reflect", "wrap", "zeros"}
        What stands outside the images.

    Raises
    ------
    GeometryError
        If one of them makes no sense.
    """

    n_scales: int = 1
    downscale: Downscale = "mean"
    scale_z: bool = True
    padding: ContextPadding = "reflect"

    def __post_init__(self) -> None:
        checked_scales(self.n_scales, "multiscale_count")
        check_downscale(self.downscale)
        one_of("padding", self.padding, get_args(ContextPadding))

    @property
    def extractor_padding(self) -> Padding:
        """What a `PatchExtractor` calls it."""
        return "constant" if self.padding == "zeros" else self.padding

    def check_fits(self, stacks: Sequence[ImageStack], patch_size: Sequence[int]) -> None:
        """Refuse surroundings larger than an image; see `check_context_fits`."""
        shapes = [stack.data_shape for stack in stacks]
        check_context_fits(shapes, patch_size, self.n_scales, scale_z=self.scale_z, name="multiscale_count")


class ContextSeries:
    """Reads batches of patches of a series at several scales; pickles as its image stacks do.

    Parameters
    ----------
    stacks : sequence of ImageStack
        The series.
    context : LateralContext
        Which scales.
    channels : sequence of int, optional
        Which channels are read; all where not given.
    normalization : ScaleAndOffset or sequence of them, optional
        For the whole series, or one for each stack.
    pool : ChunkCache, optional
        Keeps decoded chunks.

    Raises
    ------
    GeometryError
        If the stacks make no series, a channel does not exist, or the normalization does not fit.
    """

    def __init__(
        self,
        stacks: Sequence[ImageStack],
        context: LateralContext,
        *,
        channels: Sequence[int] | None = None,
        normalization: ScaleAndOffset | Sequence[ScaleAndOffset] | None = None,
        pool: ChunkCache | None = None,
    ) -> None:
        chosen = stacks if channels is None else [select_channels(stack, channels) for stack in stacks]
        self._context = context
        self._extractor = PatchExtractor(chosen, context.extractor_padding, pool=pool)
        self._values = None if normalization is None else GrayValues(normalization, stacks, channels)
        self._holds_all = all(holds_all(stack.data_dtype, _FLOAT32) for stack in self.image_stacks)
        self._watch = SourceWatch(self.image_stacks)

    @property
    def image_stacks(self) -> list[ImageStack]:
        """The series, with the channels chosen."""
        return self._extractor.image_stacks

    @property
    def n_channels(self) -> int:
        """Channels of a batch."""
        return self._extractor.n_channels

    @property
    def n_scales(self) -> int:
        """Scales of a batch."""
        return self._context.n_scales

    @property
    def working_dtype(self) -> np.dtype[Any]:
        """The dtype in which batches are read and normalized, so that no differences are lost; see `working_dtype`."""
        return _FLOAT32 if self._values is None else self._values.working_dtype

    @property
    def may_hold_nan(self) -> bool:
        """Whether there can be a NaN in a batch."""
        return any(stack.data_dtype.kind == "f" for stack in self.image_stacks)

    def read(self, table: SpecTable, out: NDArray[Any]) -> None:
        """Read patches at all scales, in the image's own gray values.

        Parameters
        ----------
        table : SpecTable
            Patches of one size.
        out : array
            `(B, C, L, (Z), Y, X)` of floats, to be filled.

        Raises
        ------
        SpecError
            If the patches differ in size or do not lie in the series.
        SourceError
            If pixels cannot be read, or an image has changed on disk.
        GeometryError
            If nothing is normalized, and a whole number, such as a label, is not held by the floats.
        """
        self._watch.check(np.unique(table.columns.get("all_data_idx", table.columns["data_idx"])).tolist())
        context = self._context
        extract_lateral_context(
            self._extractor, table, context.n_scales, downscale=context.downscale, scale_z=context.scale_z, out=out
        )
        patches = out[:, :, 0]
        if self._values is None and not self._holds_all and may_be_rounded(patches, _FLOAT32):
            self._refuse_rounded(table, np.empty(patches.shape, _FLOAT32))

    def _refuse_rounded(self, table: SpecTable, patches: NDArray[Any]) -> None:
        pixels = self._extractor.extract_batch(table)
        changed = cast(pixels, patches)
        if changed is not None:
            row, channel = changed[:2]
            columns = table.columns
            stack = columns["all_data_idx"][row, channel] if "all_data_idx" in columns else columns["data_idx"][row]
            raise GeometryError(
                f"{self.image_stacks[stack].source} has the whole number {pixels[changed]}, which {patches.dtype} does not hold: give a "
                "normalization, or train on labels with a PatchDataset(target_dtype='int64')"
            )

    def read_normalized(self, table: SpecTable, out: NDArray[Any]) -> None:
        """Read patches at all scales, normalized; see `read`."""
        pixels = out if self.working_dtype == out.dtype else np.empty(out.shape, self.working_dtype)
        self.read(table, pixels)
        self.normalize(table, pixels)
        if pixels is not out:
            out[...] = pixels

    def normalize(self, table: SpecTable, batch: NDArray[Any]) -> None:
        """Normalize patches, `(B, C, ...)`, in place, by the numbers of where they come from."""
        if self._values is not None:
            values = self._values.of(table)
            for numbers, apply in ((values.scale, np.multiply), (values.offset, np.add)):
                per_channel = np.atleast_2d(numbers).astype(batch.dtype)
                apply(batch, per_channel[(..., *(np.newaxis,) * (batch.ndim - 2))], out=batch)
