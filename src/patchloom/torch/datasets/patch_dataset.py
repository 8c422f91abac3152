"""The dataset of patches of images, with or without targets."""

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
from patchloom.torch.datasets.series_reader import LocatedPatches, SeriesFacts, SeriesReader, tensor_dtype
from patchloom.torch.patches import Patch, PatchBatch, PatchPair
from patchloom.torch.tensor_memory import Allocate

_MOST_SUBSTITUTES = 100
"""Number of patches that are tried in place of one with a NaN."""


class PatchDataset(PlannedDataset):
    """A dataset of patches of a series of images, and of a paired series of targets.

    An item is a `Patch`, or a `PatchPair` with targets, and contains its specification. A batch is read in one call. The
    dataset can be pickled if its image stacks can, and has the same patches in every process.

    Parameters
    ----------
    inputs : sequence of ImageStack
        The images; see `patchloom.open_stacks`.
    patching : Patching
        The places of the patches, such as a `RandomPatching`.
    targets : sequence of ImageStack, optional
        The images that the network learns to predict from the inputs, paired with them by their order. Each has the samples and
        the size of its input.
    channels, target_channels : sequence of int, optional
        The channels that are read, in this order. If None, all.
    dtype, target_dtype : dtype-like, default float32
        Dtype of the tensors. Whole numbers, such as labels, keep their value: without a normalization, a number that the dtype
        does not hold is refused when its patch is read. Fractions are rounded to floats, and refused for integers.
    normalization, target_normalization : ScaleAndOffset or sequence of them, optional
        Objects with a `scale` and an `offset`, for `pixel * scale + offset`: one for the series, or one for each image. Their
        numbers are for all channels of the images, chosen or not. `measure_normalization` returns such an object. If None,
        pixels keep their values.
    padding : {"constant", "reflect", "edge", "wrap"}, default "reflect"
        How pixels outside the images are filled, as by `numpy.pad`.
    cache : ChunkCache, optional
        Keeps decoded chunks, so that each serves many patches. It is not closed by the dataset; each worker process has a copy
        of its own. If None, a `ChunkCache()` of at most 1 GiB.
    nan : {"raise", "skip", "keep"}, default "raise"
        Treatment of a patch with a NaN in its input or target. `"raise"`: a `SourceError`. `"skip"`: the patch is replaced by
        another patch of the plan, drawn by (seed, epoch, index). `"keep"`: the NaN stays. With `"skip"` and `"keep"`, one warning
        gives the place of the first NaN.
    augmentation : FlipRot90, optional
        Random flips and turns of each patch.
    transform : callable, optional
        Is called as `transform(patch, generator)` after the augmentation, with a `Patch` or `PatchPair` of tensors `C(Z)YX`, which
        it may change in place, and a NumPy generator; it returns a `Patch` or `PatchPair`.
    seed : int, default 0
        Seed of augmentation, transform and replaced patches: each is a pure function of (seed, epoch, index).

    Raises
    ------
    GeometryError
        If targets do not fit the inputs, the plan is for other images, a channel does not exist, or a dtype or normalization
        does not fit.
    ArgumentTypeError
        If an argument has another type.

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
        """The images of the inputs, with the chosen channels."""
        return self._series[0].image_stacks

    @property
    def series_facts(self) -> list[SeriesFacts]:
        """What the inputs, and the targets if there are any, were created from."""
        return [series.facts for series in self._series]

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
        """Treat patches with a NaN as `nan` demands, and return the specifications of the resulting patches."""
        rows = self._rows_with_nan(tensors)
        if not len(rows):
            return table
        found = self._name_first(tensors, rows, table)
        if self.nan == "raise":
            raise SourceError(f"there is a NaN in {found}: fix the image, or choose nan='skip' or nan='keep'")
        if not self._nan_reported:
            self._nan_reported = True
            fate = "are replaced by others" if self.nan == "skip" else "are kept"
            warnings.warn(f"there is a NaN in {found}: patches with a NaN {fate}", RuntimeWarning, stacklevel=2)
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
        """Replace patches with a NaN by others, until none is left."""
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
        raise SourceError(f"{_MOST_SUBSTITUTES} patches in a row contain a NaN: exclude these regions from the plan")
