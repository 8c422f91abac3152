"""Models: callables on batches of tiles, which may describe their input and output."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from operator import attrgetter
from types import MemberDescriptorType
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from patchloom.argument_checks import MAX_SIZE, flag, instance, instances, listed, real_number, shown, whole_number
from patchloom.errors import ArgumentTypeError, GeometryError, ModelError
from patchloom.geometry.blend_weights import check_blend
from patchloom.geometry.checks import one_per_axis, spatial_tuple
from patchloom.tensors.tensor_pixels import is_tensor


class Model(Protocol):
    """Any callable from a batch of tiles to a batch of predictions."""

    def __call__(self, batch: NDArray[Any], /) -> Any:
        """Predict a batch.

        Parameters
        ----------
        batch : array
            `(B, C, (Z), Y, X)` in the dtype of the source, or float32 if it is normalized. The model may change it: it is
            not an array of the caller.

        Returns
        -------
        array-like
            `(B, C', (Z), Y, X)` with any number of channels. Its spatial size may be that of the batch, or larger or smaller by
            a factor, and it may lack a margin; see `predict`. Several outputs are returned in a tuple, or in a mapping by
            their names.
        """


_NUMBERS = ("batch_size", "preferred_batch_size", "in_channels", "out_channels")

_SIZES = (
    *[(name, 1) for name in ("patch_size", "min_size", "size_step", "preferred_patch_size", "origin_multiple")],
    ("overlaps", 0),
    ("halo", 0),
)
"""What has one number for each axis, and its least value."""


@dataclass(frozen=True, slots=True)
class ModelDescription:
    """The input and output of a model, as it declares them; None or empty if it does not declare them.

    `predict` uses all of it: what is declared need not be given as an argument, and is not inferred. If `n_dims` is declared, one
    number stands for all axes of a size.

    Parameters
    ----------
    patch_size : tuple of int, optional
        The only tile size that the model accepts, `(z,) y, x`, in voxels.
    min_size, size_step : tuple of int, optional
        The tile sizes that the model accepts, `(z,) y, x`: `min_size`, and more by a multiple of `size_step`. If only one of them
        is given, the least size is the step, or the step is 1. A model with such a rule needs no `patch_size`: the default is
        about 512 voxels in 2D, 96 in 3D, more if tiles have to share more, and no more than the images need.
    preferred_patch_size : tuple of int, optional
        The tile size that is used if none is given, `(z,) y, x`, in voxels, such as that of the training. Others are accepted.
    overlaps : tuple of int, optional
        Voxels that two neighboring tiles have to share, `(z,) y, x`: the default of `overlaps`. It may be as large as a tile
        along an axis that a single tile covers.
    halo : tuple of int, optional
        Voxels at the borders of a prediction that are not to be used, `(z,) y, x`: the default of `halo`.
    context : tuple of (int, int), optional
        Voxels of the input on which a voxel of the output depends, before and after the voxels under it, along each axis,
        `((before, after), …)`. Voxels of a prediction whose context is not in the tile are not used, as if they were in the halo,
        except at the ends of the image. With a rule for sizes, a tile is no larger than the image needs.
    is_global : bool
        Whether every voxel of the output depends on the whole tile, as after instance normalization or global attention; then
        `context` holds as if what is computed of the whole tile were constant.
    origin_multiple : tuple of int, optional
        The stride of the network, `(z,) y, x`, in voxels. Its output depends on where a tile starts on a grid of this step, so
        every tile starts on a multiple of it.
    batch_size : int, optional
        The only batch size that the model accepts, in tiles: the default of `batch_size`. The model is always called with this
        number of tiles: a smaller batch is filled up with copies of its last tile, and a larger one is divided.
    preferred_batch_size : int, optional
        The number of tiles that go through the model together if none is given. Others are accepted.
    n_dims : int, optional
        Number of spatial axes, 2 or 3; if None, that of the sizes that are declared. A 2D model is run on 3D images slice by slice.
    in_channels, out_channels : int, optional
        Number of channels of the input and of the output.
    out_channel_names : tuple of str
        One name for each output channel, such as the classes of a segmentation. They are written to the output.
    out_channel_colors : tuple of str
        One color for each output channel, as `RRGGBB`. They are written to the output.
    out_dtype : str, optional
        Name of the dtype of the output.
    scale : tuple of Fraction, optional
        Voxels of the output for one voxel of the input, along each spatial axis: a whole number, or one over a whole number.
        What the output lacks beyond that is the margin, the same on both sides. If None, the scale is inferred, which is not
        possible if the margin is exactly as large as the gain in size.
    normalize : str, optional
        How images have to be normalized, by statistics of the whole image: the default of `normalize`, such as
        `"mean_std/channel"`.
    denormalize : bool
        Whether predictions are gray values once the normalization of the image is undone: the default of `denormalize`.
    blend : {"hann", "gaussian", "linear", "mean"}, optional
        How overlapping tiles are blended: the default of `blend`.
    postprocess : str, optional
        What is done to finished blocks: the default of `postprocess`, such as `"softmax|argmax"`.
    pixel_size : tuple of float, optional
        Size of a voxel of the images that the model was trained on, `(z,) y, x`, in micrometers.
    identity : str
        A text that differs from that of any other model, such as the digest of its file. A run is not resumed with a model of
        another identity. If empty, the model is identified by its code and all that the code refers to.

    Raises
    ------
    ArgumentError
        If a value is not allowed, or sizes have different numbers of axes.

    Examples
    --------
    >>> import patchloom as pl
    >>> class Identity:
    ...     description = pl.ModelDescription(patch_size=(64, 64), overlaps=(16, 16), batch_size=4)
    ...
    ...     def __call__(self, batch):
    ...         return batch
    >>> prepared = pl.plan(np.zeros((100, 200)), model=Identity(), axes="YX")
    >>> prepared.layout.patch_size, prepared.layout.batch_size
    ((64, 64), 4)
    """

    patch_size: tuple[int, ...] | None = None
    min_size: tuple[int, ...] | None = None
    size_step: tuple[int, ...] | None = None
    preferred_patch_size: tuple[int, ...] | None = None
    overlaps: tuple[int, ...] | None = None
    halo: tuple[int, ...] | None = None
    context: tuple[tuple[int, int], ...] | None = None
    is_global: bool = False
    origin_multiple: tuple[int, ...] | None = None
    batch_size: int | None = None
    preferred_batch_size: int | None = None
    n_dims: int | None = None
    in_channels: int | None = None
    out_channels: int | None = None
    out_channel_names: tuple[str, ...] = ()
    out_channel_colors: tuple[str, ...] = ()
    out_dtype: str | None = None
    scale: tuple[Fraction, ...] | None = None
    normalize: str | None = None
    denormalize: bool = False
    blend: str | None = None
    postprocess: str | None = None
    pixel_size: tuple[float, ...] | None = None
    identity: str = ""

    def __post_init__(self) -> None:
        for name, most in (("n_dims", 3), *[(name, 2**31) for name in _NUMBERS]):
            if getattr(self, name) is not None:
                number = whole_number(name, getattr(self, name), least=2 if name == "n_dims" else 1, most=most)
                object.__setattr__(self, name, number)
        self._check_axes()
        for name in ("out_channel_names", "out_channel_colors"):
            texts = instances(name, getattr(self, name), str, "a sequence of texts, one for each output channel")
            object.__setattr__(self, name, tuple(texts))
        instance("identity", self.identity, str)
        for name in ("normalize", "postprocess"):
            if getattr(self, name) is not None:
                instance(name, getattr(self, name), str)
        if self.blend is not None:
            check_blend(self.blend)
        flag("denormalize", self.denormalize)
        flag("is_global", self.is_global)
        if self.out_dtype is not None:
            _check_dtype(self.out_dtype)

    def _check_axes(self) -> None:
        """Check what has one number for each axis; all of it has as many as `n_dims`, or else as the first."""
        n_dims = self.n_dims
        if self.scale is not None:
            object.__setattr__(self, "scale", check_scale(self.scale, n_dims))
            n_dims = len(self.scale)
        for name, least in _SIZES:
            value = getattr(self, name)
            if value is not None:
                checked = (
                    spatial_tuple(name, value, least=least)
                    if n_dims is None
                    else one_per_axis(name, value, n_dims, least=least)
                )
                object.__setattr__(self, name, checked)
                n_dims = len(checked)
        if self.context is not None:
            object.__setattr__(self, "context", check_context(self.context, n_dims))
            n_dims = len(self.context)
        if self.pixel_size is not None:
            checked_size = check_pixel_size(self.pixel_size, n_dims)
            object.__setattr__(self, "pixel_size", checked_size)
            n_dims = len(checked_size)
        object.__setattr__(self, "n_dims", n_dims)


def check_scale(scale: Any, n_dims: int | None = None) -> tuple[Fraction, ...]:
    """Return a scale as a tuple of fractions.

    Parameters
    ----------
    scale : sequence of Fraction
        Voxels of the output for one voxel of the input, `(z,) y, x`.
    n_dims : int, optional
        Number of spatial axes. If None, 2 or 3 are allowed.

    Raises
    ------
    ArgumentError
        If it is not a whole number, or one over a whole number, for each axis.

    Examples
    --------
    >>> check_scale([2, 0.5])
    (Fraction(2, 1), Fraction(1, 2))
    """
    try:
        factors = () if isinstance(scale, str) else tuple(map(Fraction, scale))
    except (TypeError, ValueError, ArithmeticError):
        factors = ()
    if len(factors) not in ((2, 3) if n_dims is None else (n_dims,)) or not all(
        min(factor.as_integer_ratio()) == 1 and max(factor.as_integer_ratio()) <= MAX_SIZE for factor in factors
    ):
        raise GeometryError(
            f"scale is {shown(scale)}: it must be a whole number, or one over a whole number, for each spatial axis, such as "
            "(Fraction(1, 2), Fraction(1, 2))"
        )
    return factors


def check_context(context: Any, n_dims: int | None = None) -> tuple[tuple[int, int], ...]:
    """Return how far a voxel of the output looks, as pairs of int.

    Parameters
    ----------
    context : sequence of (int, int)
        Voxels of the input before and after, for each spatial axis.
    n_dims : int, optional
        Number of spatial axes. If None, 2 or 3 are allowed.

    Raises
    ------
    ArgumentError
        If it is not two whole numbers of at least 0 for each axis.

    Examples
    --------
    >>> check_context([(20, 17), [20, 17]])
    ((20, 17), (20, 17))
    """
    wanted = "two numbers of voxels, before and after, for each spatial axis, such as ((20, 17), (20, 17))"
    pairs = [listed("context", pair, wanted) for pair in listed("context", context, wanted)]
    if len(pairs) not in ((2, 3) if n_dims is None else (n_dims,)) or any(len(pair) != 2 for pair in pairs):
        raise GeometryError(f"context is {shown(context)}: it must be {wanted}")
    return tuple(
        (whole_number("context", before, least=0), whole_number("context", after, least=0)) for before, after in pairs
    )


def size_rule(description: ModelDescription) -> tuple[tuple[int, int], ...] | None:
    """Return the least tile size and the step that a model declares, for each spatial axis; None if it declares neither, or one size.

    Parameters
    ----------
    description : ModelDescription
        What the model declares.

    Examples
    --------
    >>> size_rule(ModelDescription(size_step=(8, 16))), size_rule(ModelDescription())
    (((8, 8), (16, 16)), None)
    """
    least, step = description.min_size, description.size_step
    if description.patch_size is not None or (least is None and step is None):
        return None
    steps = step or (1,) * len(least or ())
    return tuple(zip(least or steps, steps, strict=True))


def check_pixel_size(pixel_size: Any, n_dims: int | None = None) -> tuple[float, ...]:
    """Return the size of a voxel as a tuple of floats.

    Parameters
    ----------
    pixel_size : sequence of float
        Size of a voxel, `(z,) y, x`, in micrometers.
    n_dims : int, optional
        Number of spatial axes. If None, 2 or 3 are allowed.

    Raises
    ------
    ArgumentError
        If it is not a positive number for each axis.

    Examples
    --------
    >>> check_pixel_size([1, 0.5])
    (1.0, 0.5)
    """
    sizes = listed("pixel_size", pixel_size, "a size in micrometers for each spatial axis")
    if len(sizes) not in ((2, 3) if n_dims is None else (n_dims,)):
        raise GeometryError(
            f"pixel_size is {shown(pixel_size)}: it must be a size in micrometers for each spatial axis, such as (0.5, 0.5)"
        )
    return tuple(real_number("pixel_size", size, least=1e-6) for size in sizes)


def _check_dtype(name: object) -> None:
    try:
        is_numeric = isinstance(name, str) and np.dtype(name).kind in "biufc"
    except TypeError:
        is_numeric = False
    if not is_numeric:
        raise ArgumentTypeError(
            f"out_dtype is {shown(name)}: it must be the name of a dtype of numbers, such as 'float32'"
        )


@runtime_checkable
class TakesTensors(Protocol):
    """A model that takes a batch as a tensor on a device, too, and returns tensors there.

    Its predictions are put together and postprocessed on that device, and only finished voxels are copied to the host.

    Examples
    --------
    >>> import numpy as np
    >>> isinstance(np.negative, TakesTensors)
    False
    """

    @property
    def tensor_device(self) -> str | None:
        """The device, such as `"cuda:0"`; None if batches are arrays."""


def tensor_device(model: Model) -> str | None:
    """Return the device on which a model takes tensors; None if it takes arrays."""
    return text_attribute(model, "tensor_device") or None


@runtime_checkable
class DescribesItself(Protocol):
    """A model with a `description` of its input and output.

    Examples
    --------
    >>> isinstance(np.negative, DescribesItself)
    False
    """

    @property
    def description(self) -> ModelDescription:
        """What the model declares."""


def describe(model: Model) -> ModelDescription:
    """Return the description of a model; of a plain callable, it contains the name only.

    Parameters
    ----------
    model : callable
        The model.

    Examples
    --------
    >>> def sharpen(batch):
    ...     return batch
    >>> describe(sharpen).identity.rpartition(".")[2], describe(sharpen).patch_size
    ('sharpen', None)
    """
    if isinstance(model, DescribesItself):
        return model.description
    return ModelDescription(identity=_name(model))


def _name(model: Any) -> str:
    named = model if text_attribute(model, "__qualname__") else type(model)
    return f"{text_attribute(named, '__module__')}.{text_attribute(named, '__qualname__')}"


def declared_identity(value: Any) -> str:
    """Return the identity that an object declares, in its attribute `identity` or in its description.

    If a wrapper makes its description from that of the model inside, this does not identify the wrapper, and is not returned.

    Parameters
    ----------
    value : object
        Any object.

    Returns
    -------
    str
        The identity; empty if none is declared.

    Examples
    --------
    >>> class Net:
    ...     identity = "trained on 3 May, epoch 80"
    >>> declared_identity(Net()), declared_identity(print)
    ('trained on 3 May, epoch 80', '')
    """
    own = text_attribute(value, "identity")
    described = text_attribute(value, "description.identity")
    if own or not described:
        return own
    held = attributes_of(value).values()
    items = [item for inner in held for item in (inner if isinstance(inner, (list, tuple)) else [inner])]
    inside = [_described(item) for item in items if callable(item)]
    # An inner model that declares no identity is identified by its code and weights, so the wrapper is too.
    return "" if any(identity in described for identity in inside) else described


def _described(value: Any) -> str:
    """Return the identity of the description of an object, even if its attributes raise; of an object without one, its name."""
    try:
        has_description = isinstance(value.description, ModelDescription)
    except Exception:  # noqa: BLE001  # properties of other libraries raise any error
        has_description = False
    return text_attribute(value, "description.identity") if has_description else _name(value)


def text_attribute(value: Any, attribute: str) -> str:
    """Return a text attribute of an object, whose name may be dotted; an empty text if it is not a text, or raises."""
    try:
        answer = attrgetter(attribute)(value)
    except Exception:  # noqa: BLE001  # properties of other libraries raise any error
        return ""
    return answer if isinstance(answer, str) else ""


def attributes_of(value: Any) -> dict[str, Any]:
    """Return the attributes of an object, from its dictionary and its slots."""
    names = [
        name
        for kind in type(value).__mro__
        for name, slot in vars(kind).items()
        if isinstance(slot, MemberDescriptorType)
    ]
    slots = {name: getattr(value, name) for name in names if hasattr(value, name)}
    return {**slots, **getattr(value, "__dict__", {})}


def check_batch(batch: Any, *, tensors: bool = False) -> None:
    """Check that an argument is a batch of images.

    Parameters
    ----------
    batch : object
        The argument.
    tensors : bool
        Whether it may be a tensor of PyTorch.

    Raises
    ------
    ArgumentTypeError
        If it is not an array of numbers.
    ModelError
        If it does not have the axes `(B, C, (Z), Y, X)`.
    """
    is_taken = tensors and is_tensor(batch)
    if not is_taken and (not isinstance(batch, np.ndarray) or batch.dtype.kind not in "biufc"):
        raise ArgumentTypeError(f"batch is {shown(batch)}: it must be a NumPy array (B, C, (Z), Y, X) of numbers")
    if batch.ndim not in (4, 5):
        raise ModelError(f"batch has shape {tuple(batch.shape)}: it must be (B, C, (Z), Y, X)")
