"""Whether an output holds labels, of which no mean may be taken: classes, objects, masks."""

from __future__ import annotations

from patchloom.errors import ModelOutputError
from patchloom.pixel_arrays import dtype_of_labels
from patchloom.prediction.models.output_spec import OutputSpec
from patchloom.prediction.planning.plan import PredictionPlan
from patchloom.prediction.postprocessing import MakesLabels
from patchloom.prediction.running.tile_reading import batch_dtype


def holds_labels(plan: PredictionPlan, data_idx: int, form: OutputSpec) -> bool:
    """Return whether an output of a plan holds labels.

    The postprocessing decides where it makes labels (`argmax`, `threshold`). Blended predictions are intensities. Otherwise the
    dtype that the model returns decides; see `dtype_of_labels`. The dtype that an output is converted to does not count.

    Parameters
    ----------
    plan : PredictionPlan
        The plan, with forms.
    data_idx : int
        Index of the image.
    form : OutputSpec
        One of its outputs.
    """
    postprocessing = plan.postprocessing
    if isinstance(postprocessing, MakesLabels) and postprocessing.makes_labels:
        return True
    return plan.blend is None and dtype_of_labels(form.dtype, batch_dtype(plan, data_idx))


def check_blend_of_labels(plan: PredictionPlan) -> None:
    """Refuse to blend outputs that are labels: the mean of classes 1 and 3 is class 2, which nobody predicted.

    Integers are taken for labels where they are written as integers and have another dtype than what the model is given:
    those of a filter, a denoised image or an identity have the same. Truth values blend to what most tiles say, by weight.
    A postprocessing such as `argmax` comes after blending, and what goes into it is not looked at.

    Parameters
    ----------
    plan : PredictionPlan
        The plan, with forms or without.

    Raises
    ------
    ModelOutputError
        If one of the outputs is taken for labels.
    """
    if plan.blend is None or plan.postprocessing is not None or not plan.output_known:
        return
    for data_idx in range(len(plan.stacks)):
        given = batch_dtype(plan, data_idx)
        for form in plan.output_forms(data_idx):
            if form.dtype.kind in "iu" and form.dtype != given and plan.stored(form)[1].kind in "iu":
                raise ModelOutputError(
                    f"blend is {plan.blend!r}, and the model returns {form.dtype} for {given}, which are labels, most likely: "
                    "the mean of two labels is a third. Leave blend out to crop tiles, or return a score for each class and "
                    "postprocess='argmax' (--postprocess argmax), or, if they are intensities, return floats"
                )
