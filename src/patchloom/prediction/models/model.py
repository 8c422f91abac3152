"""What a model is to Patchloom: a callable on batches, that may say what it wants to be fed."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from operator import attrgetter
from types import MemberDescriptorType
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from patchloom.argument_checks import shown
from patchloom.errors import ArgumentTypeError


class Model(Protocol):
    """Any callable from a batch of tiles to a batch of predictions."""

    def __call__(self, batch: NDArray[Any], /) -> Any:
        """Predict a batch.

        Parameters
        ----------
        batch : array
            `(B, C, (Z), Y, X)` in the source's dtype. It is the model's to change: no caller's array is behind it.

        Returns
        -------
        array-like
            `(B, C', (Z), Y, X)`: any number of channels; as large, larger, smaller or without a margin, see `predict`.
        """


@dataclass(frozen=True, slots=True)
class ModelDescription:
    """What a model says of its own input and output; `None` or empty where it is silent.

    Parameters
    ----------
    patch_size : tuple of int, optional
        The only tile size the model takes, `(z,) y, x`.
    overlaps : tuple of int, optional
        The overlap that its makers declare to be enough, `(z,) y, x`.
    origin_multiple : tuple of int, optional
        The stride of the network along each spatial axis, `(z,) y, x`: its output depends on where on this grid a tile starts.
        Every tile starts on a multiple of it.
    batch_size : int, optional
        The only batch size the model takes. It is called with so many tiles each time: a smaller batch is filled up with copies
        of its last tile, and a larger one goes in portions.
    n_dims : int, optional
        2 or 3.
    in_channels, out_channels : int, optional
        Number of channels.
    out_channel_names : tuple of str
        One name an output channel, such as the classes of a segmentation.
    out_channel_colors : tuple of str
        One color an output channel, as `RRGGBB`.
    out_dtype : str, optional
        Name of the dtype of the output.
    scale : tuple of Fraction, optional
        Voxels of the output for one of the input, along each spatial axis: a whole number or one over it. What the output lacks
        beyond that is the margin, the same on both sides. By default the scale is inferred, which cannot see a scale whose gain
        is exactly what the margin takes away.
    identity : str
        Tells this model from any other, as the digest of its file does: a run is not resumed with a model of another
        identity. A model that declares none is known by its code and everything that this refers to.
    """

    patch_size: tuple[int, ...] | None = None
    overlaps: tuple[int, ...] | None = None
    origin_multiple: tuple[int, ...] | None = None
    batch_size: int | None = None
    n_dims: int | None = None
    in_channels: int | None = None
    out_channels: int | None = None
    out_channel_names: tuple[str, ...] = ()
    out_channel_colors: tuple[str, ...] = ()
    out_dtype: str | None = None
    scale: tuple[Fraction, ...] | None = None
    identity: str = ""


@runtime_checkable
class DescribesItself(Protocol):
    """A model that knows what it wants to be fed."""

    @property
    def description(self) -> ModelDescription:
        """What the model says of itself."""


def describe(model: Model) -> ModelDescription:
    """Ask a model what it wants to be fed; a plain callable says nothing but its name.

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
    """Return what an object declares to be, by its attribute `identity` or by that of its description.

    A description that is made from that of an object inside, as a wrapper passes it on, declares nothing of the wrapper.

    Parameters
    ----------
    value : object
        Any object.

    Returns
    -------
    str
        Empty if nothing is declared.

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
    inside = [_described(inner) for inner in attributes_of(value).values() if callable(inner)]
    return "" if any(identity and identity in described for identity in inside) else described


def _described(value: Any) -> str:
    """Return what `describe` calls an object, whatever its attributes raise."""
    return text_attribute(value, "description.identity") or _name(value)


def text_attribute(value: Any, attribute: str) -> str:
    """Return a text that is an attribute of an object, dotted if need be; an empty one if it is no text or raises."""
    try:
        answer = attrgetter(attribute)(value)
    except Exception:  # noqa: BLE001  # whatever somebody else's properties raise
        return ""
    return answer if isinstance(answer, str) else ""


def attributes_of(value: Any) -> dict[str, Any]:
    """Return the attributes of an object, in its dictionary and its slots."""
    names = [
        name
        for kind in type(value).__mro__
        for name, slot in vars(kind).items()
        if isinstance(slot, MemberDescriptorType)
    ]
    slots = {name: getattr(value, name) for name in names if hasattr(value, name)}
    return {**slots, **getattr(value, "__dict__", {})}


def check_batch(batch: Any) -> None:
    """Refuse what is not a batch of images.

    Raises
    ------
    ArgumentTypeError
        If it is not an array `(B, C, (Z), Y, X)` of numbers.
    """
    if not isinstance(batch, np.ndarray) or batch.dtype.kind not in "biufc":
        raise ArgumentTypeError(f"batch is {shown(batch)}: it must be an array (B, C, (Z), Y, X) of numbers")
