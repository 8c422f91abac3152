"""The prediction of a region in one tile, as a run would write it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchloom.extraction import PatchExtractor
from patchloom.prediction.models.batch_prediction import check_predictions, predict_batch
from patchloom.prediction.models.model import Model
from patchloom.prediction.models.outputs import OutputSpec, crop_to_margin
from patchloom.prediction.planning.tile_layout import TileLayout
from patchloom.prediction.postprocessing.casting import to_dtype
from patchloom.prediction.running.stitcher import step_of_output, step_of_sample
from patchloom.prediction.running.tile_reading import read_tiles, specs_in_images
from patchloom.specs.patch_specs import TileSpecs
from patchloom.specs.spec_table import SpecTable


def predict_tile(
    layout: TileLayout, extractor: PatchExtractor, model: Model, spec: TileSpecs
) -> dict[str, NDArray[Any]]:
    """Predict one tile of any size at any place.

    Parameters
    ----------
    layout : TileLayout
        The tiles of the run, with known outputs.
    extractor : PatchExtractor
        Reads its series.
    model : callable
        The model, which gets voxels of the images.
    spec : TileSpecs
        The tile, without the margin that the outputs lack, of a sample of the stack that the model is run on.

    Returns
    -------
    dict of str to array
        For each output, what the model returns for the tile, `C(Z)YX`, without the margin.

    Raises
    ------
    SourceError, ModelError, ModelOutputError
        As `predict`.
    """
    data_idx, survey = spec["data_idx"], layout.survey
    size = tuple(side + 2 * margin for side, margin in zip(spec["patch_size"], layout.margin, strict=True))
    n_channels = int(layout.stacks[data_idx].data_shape[1])
    batch = np.empty((1, n_channels, *size), layout.batch_dtype(data_idx))
    read_tiles(layout, extractor, SpecTable.from_specs([spec]), batch)
    named = specs_in_images(layout, [spec])
    predictions = predict_batch(model, batch, named, survey.model.batch_size)
    outputs = survey.outputs[data_idx]
    check_predictions(predictions, outputs, size, named)
    return {
        output.name: np.asarray(crop_to_margin(predictions[output.name], output, layout.margin))[0]
        for output in outputs
    }


def as_written(
    layout: TileLayout, data_idx: int, sample_idx: int, output: OutputSpec, values: NDArray[Any]
) -> NDArray[Any]:
    """Turn predicted voxels into what a run writes.

    Parameters
    ----------
    layout : TileLayout
        The tiles of the run, with known outputs.
    data_idx, sample_idx : int
        The image stack, and the sample in it.
    output : OutputSpec
        The output.
    values : array
        `C(Z)YX`.
    """
    _, dtype = layout.output_channels_and_dtype(output)
    step = step_of_output(layout, output, step_of_sample(layout, data_idx, sample_idx))
    stitched = to_dtype(values, layout.accumulator(output), [])
    return to_dtype(stitched, dtype, []) if step is None else step(stitched)


def tile_at(data_idx: int, sample_idx: int, start: Sequence[int], size: Sequence[int]) -> TileSpecs:
    """Return the specification of a tile that is kept whole.

    Parameters
    ----------
    data_idx, sample_idx : int
        The image stack, and the sample in it.
    start, size : sequence of int
        First voxel and size, `(z,) y, x`.
    """
    return {
        "data_idx": data_idx,
        "sample_idx": sample_idx,
        "coords": tuple(start),
        "patch_size": tuple(size),
        "crop_coords": (0,) * len(start),
        "crop_size": tuple(size),
        "stitch_coords": tuple(start),
        "total_tiles": 1,
    }
