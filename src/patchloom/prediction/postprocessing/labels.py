"""Outputs that are labels: classes, objects, masks. Their values must not be averaged."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import numpy as np

from patchloom.errors import ModelOutputError
from patchloom.geometry.blend_weights import BlendWindow
from patchloom.pixel_arrays import dtype_of_labels


@runtime_checkable
class MakesLabels(Protocol):
    """A postprocessing step that declares whether its results are labels.

    If they are, the lower levels of a pyramid contain the most common label instead of the mean.

    Examples
    --------
    >>> import patchloom as pl
    >>> isinstance(pl.Argmax(), pl.MakesLabels), isinstance(pl.AsDtype("uint8"), pl.MakesLabels)
    (True, False)
    """

    @property
    def makes_labels(self) -> bool:
        """True if the results are labels of classes or objects."""


def holds_labels(
    dtype: np.dtype[Any], batch_dtype: np.dtype[Any], *, postprocess: object | None, blend: BlendWindow | None
) -> bool:
    """Return whether an output contains labels.

    It does if its postprocessing makes labels, such as `argmax` or `threshold`. Else, blended predictions are intensities, and the
    dtype that the model returns decides about others; see `dtype_of_labels`. The dtype that they are converted to does not.

    Parameters
    ----------
    dtype : numpy dtype
        The dtype that the model returns.
    batch_dtype : numpy dtype
        The dtype of the batches that the model is given.
    postprocess : Postprocessing, optional
        The postprocessing of the output.
    blend : str, optional
        The window with which tiles are blended; None if they are cropped.

    Examples
    --------
    >>> holds_labels(np.dtype("int64"), np.dtype("float32"), postprocess=None, blend=None)
    True
    """
    if isinstance(postprocess, MakesLabels) and postprocess.makes_labels:
        return True
    return blend is None and dtype_of_labels(dtype, batch_dtype)


def check_blend_of_labels(
    dtype: np.dtype[Any], batch_dtype: np.dtype[Any], *, stored_dtype: np.dtype[Any], blend: BlendWindow
) -> None:
    """Check that an output that is blended does not contain labels: the mean of classes 1 and 3 is class 2, which is wrong.

    Integers are taken for labels if they are stored as integers and their dtype differs from that of the batches, as the output
    of a filter or a denoiser has the dtype of its input. Booleans are blended to the value of most tiles, by weight.

    Parameters
    ----------
    dtype : numpy dtype
        The dtype that the model returns.
    batch_dtype : numpy dtype
        The dtype of the batches that the model is given.
    stored_dtype : numpy dtype
        The dtype that is written.
    blend : str
        The window with which tiles are blended.

    Raises
    ------
    ModelOutputError
        If the output contains labels.
    """
    if dtype.kind in "iu" and dtype != batch_dtype and stored_dtype.kind in "iu":
        raise ModelOutputError(
            f"blend is {blend!r}, and the model returns {dtype} for {batch_dtype}, which are most likely labels: labels cannot be "
            "blended. Leave blend out, or return a score for each class and give postprocess='argmax' (--postprocess argmax), or "
            "return floats if they are intensities"
        )
