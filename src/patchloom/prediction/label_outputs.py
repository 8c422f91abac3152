"""Whether an output holds labels, of which no mean may be taken: classes, objects, masks."""

from __future__ import annotations

from typing import Any

import numpy as np

from patchloom.prediction.output_form import OutputForm
from patchloom.prediction.plan import PredictionPlan
from patchloom.prediction.reductions import MakesLabels
from patchloom.prediction.tile_reading import batch_dtype


def holds_labels(plan: PredictionPlan, data_idx: int, form: OutputForm) -> bool:
    """Return whether an output of a plan holds labels.

    The reduction decides where it makes labels (`argmax`, `threshold`). Blended predictions are intensities. Otherwise the
    dtype that the model returns decides; see `dtype_of_labels`. The dtype that an output is converted to does not count.

    Parameters
    ----------
    plan : PredictionPlan
        The plan, with forms.
    data_idx : int
        Index of the image.
    form : OutputForm
        One of its outputs.
    """
    reduction = plan.reduction
    if isinstance(reduction, MakesLabels) and reduction.makes_labels:
        return True
    return plan.blend is None and dtype_of_labels(form.dtype, batch_dtype(plan, data_idx))


def dtype_of_labels(dtype: np.dtype[Any], source_dtype: np.dtype[Any]) -> bool:
    """Return whether a model that returns this dtype returns labels, most likely.

    Truth values are labels; so are integers, unless they have 8 or 16 bits and the dtype of the image itself, as those of a
    filter or of a denoised image do.

    Parameters
    ----------
    dtype : numpy dtype
        Dtype that the model returns.
    source_dtype : numpy dtype
        Dtype of the batches that it is given.

    Examples
    --------
    >>> image = np.dtype("uint16")
    >>> [dtype_of_labels(np.dtype(name), image) for name in ("bool", "int64", "uint8", "uint16", "float32")]
    [True, True, True, False, False]
    """
    if dtype.kind in "iu":
        return dtype.itemsize >= 4 or dtype != source_dtype
    return dtype.kind == "b"
