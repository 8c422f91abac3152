"""The outputs of a model: their channels, dtype, scale and margin, and their arrays by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from patchloom.argument_checks import whole_number
from patchloom.axes import spatial_axes
from patchloom.errors import ModelOutputError
from patchloom.geometry.checks import one_per_axis
from patchloom.prediction.models.model import check_scale
from patchloom.prediction.plain_data import parse_fields
from patchloom.tensors.tensor_pixels import Pixels, kept_on_device

_TORCH_FLOATS_WITHOUT_NUMPY = ("torch.bfloat16", "torch.float8")
_REMEDY = "return a NumPy array or a tensor, or several of them in a tuple, or in a mapping by name"

_ML_DTYPES = {"bfloat16", "float8_e4m3fn", "float8_e5m2"}
"""Dtypes of floats that JAX and TensorFlow return, and NumPy does not have."""


@dataclass(frozen=True)
class OutputSpec:
    """One output of a model: its channels, dtype, scale and margin.

    `pl.predict` infers it by running the model on a tile, unless the model declares it; it is part of a plan.

    Parameters
    ----------
    n_channels : int
        Number of channels.
    dtype : numpy dtype
        Dtype of the array that the model returns.
    scale : tuple of Fraction
        Voxels of the output for one voxel of the input, along each spatial axis: a whole number, or one over a whole number.
    margin : tuple of int
        Voxels of the input that the output does not cover, on each side along each spatial axis; convolutions without padding
        cause a margin.
    name : str
        Name of the output; empty if the model has a single output.

    Raises
    ------
    ArgumentError
        If a number is not allowed, or `scale` and `margin` have another number of axes.

    Examples
    --------
    >>> import patchloom as pl
    >>> doubled = pl.OutputSpec(3, np.dtype("float32"), scale=(Fraction(2), Fraction(2)), margin=(7, 7))
    >>> doubled.scale_coords((10, 20)), doubled.scale_size((5, 5))
    ((20, 40), (10, 10))
    >>> pl.OutputSpec.from_dict(doubled.to_dict()) == doubled
    True
    """

    n_channels: int
    dtype: np.dtype[Any]
    scale: tuple[Fraction, ...]
    margin: tuple[int, ...]
    name: str = ""

    def __post_init__(self) -> None:
        whole_number("n_channels", self.n_channels, least=1)
        object.__setattr__(self, "scale", check_scale(self.scale))
        object.__setattr__(self, "margin", one_per_axis("margin", self.margin, len(self.scale), least=0))

    @cached_property
    def is_scaled(self) -> bool:
        """True if an output voxel is larger or smaller than an input voxel."""
        return any(factor.numerator != factor.denominator for factor in self.scale)

    def scale_coords(self, coords: Sequence[int]) -> tuple[int, ...]:
        """Convert coordinates in the input, `(z,) y, x` in voxels, to coordinates in the output.

        Parameters
        ----------
        coords : sequence of int
            Coordinates in the input; multiples of 1 / `scale`.
        """
        if not self.is_scaled:
            return tuple(map(int, coords))
        return tuple(int(coord * factor) for coord, factor in zip(coords, self.scale, strict=True))

    def scale_size(self, sizes: Sequence[int]) -> tuple[int, ...]:
        """Convert a size in the input, or the end of a window, to the output; part of a voxel counts as one voxel.

        Parameters
        ----------
        sizes : sequence of int
            Size in the input, `(z,) y, x` in voxels.
        """
        if not self.is_scaled:
            return tuple(map(int, sizes))
        return tuple(-int(-size * factor // 1) for size, factor in zip(sizes, self.scale, strict=True))

    def scale_window(self, window: Sequence[slice]) -> tuple[slice, ...]:
        """Convert a window in the input to a window in the output.

        Parameters
        ----------
        window : sequence of slice
            Window in the input, `(z,) y, x` in voxels.
        """
        if not self.is_scaled:
            return tuple(window)
        starts = self.scale_coords([part.start for part in window])
        stops = self.scale_size([part.stop for part in window])
        return tuple(map(slice, starts, stops))

    def to_dict(self) -> dict[str, Any]:
        """Return plain values that go to JSON."""
        return {
            "n_channels": self.n_channels,
            "dtype": str(self.dtype),
            "scale": list(map(str, self.scale)),
            "margin": list(self.margin),
            "name": self.name,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Make an output spec from the values that `to_dict` returns.

        Parameters
        ----------
        values : mapping of str to object
            The values, before or after JSON.

        Raises
        ------
        TypeError, ValueError, ArithmeticError
            If the values are not those of an output spec.
        """
        return cls(**parse_fields(cls, values))


def infer_output_spec(
    name: str, prediction: NDArray[Any], patch_size: Sequence[int], scale: Sequence[Fraction]
) -> OutputSpec:
    """Infer the spec of an output of known scale from the prediction of one batch.

    Parameters
    ----------
    name : str
        Name of the output.
    prediction : array
        `(B, C, (Z), Y, X)`.
    patch_size : sequence of int
        Size of the tiles, `(z,) y, x` in voxels.
    scale : sequence of Fraction
        Voxels of the output for one voxel of the input, along each spatial axis.

    Raises
    ------
    ModelOutputError
        If the margin is not the same whole number of voxels on both sides.

    Examples
    --------
    >>> infer_output_spec("", np.zeros((1, 3, 228, 228)), (128, 128), (Fraction(2), Fraction(2))).margin
    (7, 7)
    """
    margin = []
    for axis, (out, size, factor) in enumerate(zip(prediction.shape[2:], patch_size, scale, strict=True)):
        lacking = size - out / factor
        if lacking < 0 or (lacking / 2).denominator != 1:
            raise ModelOutputError(
                f"the model returned size {prediction.shape[2:]} for tiles of size {tuple(patch_size)} at a scale of "
                f"{' × '.join(map(str, scale))}: along {spatial_axes(len(patch_size))[axis]} it lacks {lacking} voxel(s), and the margin "
                "must be the same whole number of voxels on both sides: choose a patch_size (--patch-size) that is a multiple of the "
                "model's stride, such as a power of two, or crop or pad the output"
            )
        margin.append(int(lacking / 2))
    return OutputSpec(int(prediction.shape[1]), prediction.dtype, tuple(scale), tuple(margin), name)


def crop_to_margin(prediction: Pixels, spec: OutputSpec, margin: Sequence[int]) -> Pixels:
    """Crop a prediction to the region that all outputs of a model cover.

    Parameters
    ----------
    prediction : array or tensor
        `(B, C, (Z), Y, X)`.
    spec : OutputSpec
        The spec of the output.
    margin : sequence of int
        The largest margin of all outputs, in voxels of the input.
    """
    if spec.margin == tuple(margin):
        return prediction
    cuts = [int((largest - own) * factor) for largest, own, factor in zip(margin, spec.margin, spec.scale, strict=True)]
    kept = [slice(cut, size - cut) for cut, size in zip(cuts, prediction.shape[2:], strict=True)]
    return prediction[(slice(None), slice(None), *kept)]


def as_outputs(returned: Any) -> dict[str, Any]:
    """Return the outputs of a model by name.

    Parameters
    ----------
    returned : object
        The object that the model returned: one array, or several in a sequence of arrays or a mapping. Items of a sequence are
        named by their index, and a single array has an empty name.

    Raises
    ------
    ModelOutputError
        If two keys of a mapping have the same text, such as `1` and `"1"`, or a mapping or sequence cannot be read.

    Examples
    --------
    >>> sorted(as_outputs({"mask": np.zeros(1), "flow": np.zeros(2)})), list(as_outputs((np.zeros(1), np.zeros(2))))
    (['flow', 'mask'], ['0', '1'])
    """
    try:
        return _named(returned)
    except ModelOutputError:
        raise
    except Exception as error:  # containers of other libraries raise any error
        raise ModelOutputError(
            f"the model returned {type(returned).__name__}, which cannot be read ({type(error).__name__}: {error}): {_REMEDY}"
        ) from error


def _named(returned: Any) -> dict[str, Any]:
    if isinstance(returned, Mapping):
        named = {str(name): value for name, value in returned.items()}
        if len(named) < len(returned):
            raise ModelOutputError(
                f"the model returned outputs with the keys {list(returned)}: return names that differ as text"
            )
        return named
    if isinstance(returned, tuple) or (
        isinstance(returned, list) and all(hasattr(value, "shape") for value in returned)
    ):
        return {str(index): value for index, value in enumerate(returned)}
    return {"": returned}


def as_pixels(output: Any, device: str | None) -> Pixels:
    """Return one output as a tensor if it lies on a GPU, or on `device`, and as an array if not; see `as_array`.

    Tensors of dtypes that are not stitched on a device are copied, too.

    Parameters
    ----------
    output : array-like or tensor
        One output of a model.
    device : str, optional
        A device whose tensors are kept, besides GPUs.
    """
    tensor = kept_on_device(output, device)
    return as_array(output) if tensor is None else tensor


def as_array(output: Any) -> NDArray[Any]:
    """Convert one output to an array of numbers.

    A tensor of PyTorch is detached and copied to the CPU. Floats that NumPy does not have, such as bfloat16, become float32,
    which represents them exactly.

    Parameters
    ----------
    output : array-like or tensor
        One output of a model.

    Raises
    ------
    ModelOutputError
        If it is not an array of numbers.

    Examples
    --------
    >>> as_array([[1, 2], [3]])
    Traceback (most recent call last):
        ...
    patchloom.errors.ModelOutputError: the model returned list, which is not an array of numbers: return a NumPy array or a
    tensor, or several of them in a tuple, or in a mapping by name
    """
    try:
        array = np.asarray(_detached(output))
    except Exception as error:  # other libraries raise any error
        reason = "" if isinstance(output, list) else f" ({type(error).__name__}: {error})"
        raise ModelOutputError(
            f"the model returned {type(output).__name__}, which is not an array of numbers{reason}: {_REMEDY}"
        ) from error
    if array.dtype.isbuiltin == 2 and array.dtype.name in _ML_DTYPES:  # of the package ml_dtypes
        array = array.astype(np.float32)
    if array.dtype.kind not in "buifc":
        raise ModelOutputError(
            f"the model returned {type(output).__name__}, which is not an array of numbers (dtype {array.dtype}): {_REMEDY}"
        )
    return array


def _detached(output: Any) -> Any:
    """Detach a tensor of PyTorch and copy it to the CPU, without importing PyTorch; return other objects as they are."""
    if not (hasattr(output, "detach") and hasattr(output, "cpu")):
        return output
    tensor = output.detach().cpu()
    return tensor.float() if str(tensor.dtype).startswith(_TORCH_FLOATS_WITHOUT_NUMPY) else tensor
