"""Patches of images, with or without a target, for `torch.utils.data`."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import partial
from typing import get_args

import numpy as np
import torch
from numpy.typing import DTypeLike, NDArray

from patchloom.argument_checks import one_of
from patchloom.errors import SourceError
from patchloom.extraction import ChunkCache
from patchloom.geometry.padding import Padding
from patchloom.image_stacks import ImageStack, listed_stacks
from patchloom.patching import Patching
from patchloom.patching.counter_random import Stream
from patchloom.specs.patch_specs import PatchSpecs
from patchloom.specs.spec_table import SpecTable
from patchloom.torch.augmentation import FlipRot90
from patchloom.torch.datasets.nan_search import NanPolicy, name_nan, rows_with_nan
from patchloom.torch.datasets.pairing import check_pairs, check_plan
from patchloom.torch.datasets.planned_dataset import PlannedDataset, PlannedRun, Transform
from patchloom.torch.datasets.series_normalization import ScaleAndOffset
from patchloom.torch.datasets.series_reader import LocatedPatches, SeriesReader, tensor_dtype
from patchloom.torch.patches import Patch, PatchBatch, PatchPair
from patchloom.torch.tensor_memory import Allocate

_MOST_SUBSTITUTES = 100
"""So many patches in a row are tried in place of one with a NaN."""


class PatchDataset(PlannedDataset):
    """Patches of a series of images, and of a paired series of targets.

    A batch is read in one call, each series once. Every patch carries its specification. The dataset pickles as its image
    stacks do, and gives the same patches in every process.

    Parameters
    ----------
    inputs : sequence of ImageStack
        The images; see `patchloom.open_stacks`.
    patching : Patching
        Where the patches lie.
    targets : sequence of ImageStack, optional
        The images that the network is to make of the inputs: as many, of the same samples and size.
    channels, target_channels : sequence of int, optional
        Which channels, in this order; all where not given. Others are not read.
    dtype, target_dtype : dtype-like
        Of the tensors. Whole numbers, such as labels, keep their value: one that the dtype does not hold is refused when its patch
        is read, if there is no normalization. Fractions are rounded to floats, and refused for integers.
    normalization, target_normalization : ScaleAndOffset or sequence of them, optional
        `pixel * scale + offset` with the `scale` and `offset` of these objects: one for the series, or one for each image. They
        name all channels of the images, chosen or not; see `patchloom.prediction.normalization.normalization.measure_normalization`.
    padding : {"constant", "reflect", "edge", "wrap"}
        What stands outside the images.
    cache : ChunkCache, optional
        Keeps decoded chunks, so that each serves many patches; `ChunkCache()` where not given, which grows to 1 GiB at most.
        In a worker process it begins empty, so each has one. It is closed by whoever made it.
    nan : {"raise", "skip", "keep"}
        What becomes of a patch with a NaN, in the input or the target. With `"skip"` another patch of the plan, drawn by
        (seed, epoch, index), stands in for it. With `"skip"` and `"keep"` the place of the first is said in a warning, once.
    augmentation, transform, seed
        As of `PlannedDataset`.

    Raises
    ------
    GeometryError
        If the target does not pair with the input, the plan is of other images, a channel does not exist, or a dtype or
        normalization does not fit.

    Examples
    --------
    >>> import patchloom as pl
    >>> from patchloom.torch import PatchDataset
    >>> inputs = pl.open_stacks(np.random.default_rng(0).integers(0, 255, (3, 80, 100), np.uint8), axes="CYX")
    >>> patching = pl.RandomPatching([stack.data_shape for stack in inputs], patch_size=(32, 32), seed=7)
    >>> dataset = PatchDataset(inputs, patching, channels=[2, 0])
    >>> patch = dataset[5]
    >>> patch.input.shape, patch.input.dtype, patch.specs["coords"] == patching[5]["coords"]
    (torch.Size([2, 32, 32]), torch.float32, True)
    """

    def __init__(
        self,
        inputs: Sequence[ImageStack],
        patching: Patching[PatchSpecs],
        targets: Sequence[ImageStack] | None = None,
        *,
        channels: Sequence[int] | None = None,
        target_channels: Sequence[int] | None = None,
        dtype: DTypeLike = np.float32,
        target_dtype: DTypeLike = np.float32,
        normalization: ScaleAndOffset | Sequence[ScaleAndOffset] | None = None,
        target_normalization: ScaleAndOffset | Sequence[ScaleAndOffset] | None = None,
        padding: Padding = "reflect",
        cache: ChunkCache | None = None,
        nan: NanPolicy = "raise",
        augmentation: FlipRot90 | None = None,
        transform: Transform | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(patching, augmentation=augmentation, transform=transform, seed=seed)
        one_of("nan", nan, get_args(NanPolicy))
        inputs = listed_stacks("inputs", inputs)
        targets = None if targets is None else listed_stacks("targets", targets)
        self.nan = nan
        self._nan_reported = False
        series = partial(SeriesReader, padding=padding, cache=ChunkCache() if cache is None else cache)
        self._series = [
            series(
                inputs,
                dtype_name="dtype",
                channels=channels,
                dtype=tensor_dtype("dtype", dtype),
                normalization=normalization,
            )
        ]
        if targets is not None:
            check_pairs(inputs, targets)
            self._series.append(
                series(
                    targets,
                    dtype_name="target_dtype",
                    channels=target_channels,
                    dtype=tensor_dtype("target_dtype", target_dtype),
                    normalization=target_normalization,
                )
            )
        check_plan(patching, inputs)

    @property
    def image_stacks(self) -> list[ImageStack]:
        """The input series, with the channels chosen."""
        return self._series[0].image_stacks

    def _locate(self, table: SpecTable) -> list[LocatedPatches]:
        return [series.locate(table) for series in self._series]

    def _read(self, run: PlannedRun, rows: slice, allocate: Allocate) -> PatchBatch:
        tensors = [
            series.read(located.of_rows(rows), allocate)
            for series, located in zip(self._series, run.located, strict=True)
        ]
        table = run.table[rows]
        if any(series.may_hold_nan for series in self._series):
            table = self._without_nan(tensors, table, run.epoch, run.indices[rows])
        kind = Patch if len(tensors) == 1 else PatchPair
        return PatchBatch(kind._make([*tensors, {}]), table)

    def _without_nan(
        self, tensors: Sequence[torch.Tensor], table: SpecTable, epoch: int, indices: NDArray[np.int64]
    ) -> SpecTable:
        """Treat the patches with a NaN as asked for; give the specifications of those that are there in the end."""
        rows = self._rows_with_nan(tensors)
        if not len(rows):
            return table
        found = self._name_first(tensors, rows, table)
        if self.nan == "raise":
            raise SourceError(f"there is a NaN in {found}: mend the image, or choose nan='skip' or nan='keep'")
        if not self._nan_reported:
            self._nan_reported = True
            fate = "give place to others" if self.nan == "skip" else "stay as they are"
            warnings.warn(f"there is a NaN in {found}: patches with one {fate}", RuntimeWarning, stacklevel=2)
        return self._substituted(tensors, rows, table, epoch, indices) if self.nan == "skip" else table

    def _rows_with_nan(self, tensors: Sequence[torch.Tensor]) -> NDArray[np.intp]:
        return np.unique(np.concatenate([rows_with_nan(tensor.numpy()) for tensor in tensors]))

    def _name_first(self, tensors: Sequence[torch.Tensor], rows: NDArray[np.intp], table: SpecTable) -> str:
        row = int(rows[0])
        for series, tensor in zip(self._series, tensors, strict=True):
            batch = tensor.numpy()
            if np.isnan(batch[row]).any():
                return name_nan(batch, row, table, series.image_stacks)
        raise AssertionError("the row has a NaN")

    def _substituted(
        self,
        tensors: Sequence[torch.Tensor],
        rows: NDArray[np.intp],
        table: SpecTable,
        epoch: int,
        indices: NDArray[np.int64],
    ) -> SpecTable:
        """Put other patches in the place of those with a NaN, until there is none."""
        random = self._random(Stream.SUBSTITUTE, epoch)
        columns = {field: column.copy() for field, column in table.columns.items()}
        for attempt in range(_MOST_SUBSTITUTES):
            draws = indices[rows] * _MOST_SUBSTITUTES + attempt
            others = self._plan(epoch).specs(random.below_many(len(self), draws))
            for series, tensor in zip(self._series, tensors, strict=True):
                read = np.empty((len(rows), *tensor.shape[1:]), tensor.numpy().dtype)
                series.read_into(series.locate(others), read)
                tensor.numpy()[rows] = read
            for field, column in columns.items():
                column[rows] = others.columns[field]
            rows = self._rows_with_nan(tensors)
            if not len(rows):
                return SpecTable(columns)
        raise SourceError(f"{_MOST_SUBSTITUTES} patches in a row have a NaN: exclude these regions from the plan")
