"""Whether an output holds labels, of which no mean may be taken: classes, objects, masks."""

from __future__ import annotations

from patchloom.errors import ModelOutputError
from patchloom.pixel_arrays import dtype_of_labels
from patchloom.prediction.models.output_spec import OutputSpec
from patchloom.prediction.planning.tile_layout import TileLayout
from patchloom.prediction.postprocessing import MakesLabels


def holds_labels(layout: TileLayout, data_idx: int, spec: OutputSpec) -> bool:
    """Return whether an output holds labels.

    The postprocessing decides where it makes labels (`argmax`, `threshold`). Blended predictions are intensities. Otherwise the
    dtype that the model returns decides; see `dtype_of_labels`. The dtype that an output is converted to does not count.

    Parameters
    ----------
    layout : TileLayout
        The tiles, with known outputs.
    data_idx : int
        Index of the image.
    spec : OutputSpec
        One of its outputs.
    """
    postprocess = layout.request.postprocess
    if isinstance(postprocess, MakesLabels) and postprocess.makes_labels:
        return True
    return layout.request.blend is None and dtype_of_labels(spec.dtype, layout.batch_dtype(data_idx))


def check_blend_of_labels(layout: TileLayout) -> None:
    """Refuse to blend outputs that are labels: the mean of classes 1 and 3 is class 2, which was not predicted.

    Integers are taken for labels where they are written as integers and have another dtype than what the model is given:
    those of a filter, a denoised image or an identity have the same. Truth values blend to the weighted majority of the tiles.
    A postprocessing such as `argmax` comes after blending, and what goes into it is not looked at.

    Parameters
    ----------
    layout : TileLayout
        The tiles; outputs that are not known are not checked.

    Raises
    ------
    ModelOutputError
        If one of the outputs is taken for labels.
    """
    blend = layout.request.blend
    if blend is None or layout.request.block_postprocess is not None or not layout.outputs_known:
        return
    for data_idx in range(len(layout.stacks)):
        given = layout.batch_dtype(data_idx)
        for spec in layout.outputs(data_idx):
            if (
                spec.dtype.kind in "iu"
                and spec.dtype != given
                and layout.output_channels_and_dtype(spec)[1].kind in "iu"
            ):
                raise ModelOutputError(
                    f"blend is {blend!r}, and the model returns {spec.dtype} for {given}, which are labels, most likely: "
                    "the mean of two labels is a third. Leave blend out to crop tiles, or return a score for each class and "
                    "postprocess='argmax' (--postprocess argmax), or, if they are intensities, return floats"
                )
