"""What a network declares: its sizes, stride, channels and batch size."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from patchloom.argument_checks import listed, whole_number
from patchloom.errors import ModelError
from patchloom.prediction.models.model import ModelDescription
from patchloom.prediction.models.onnx.graph import OnnxGraph
from patchloom.prediction.models.onnx.inputs import BoundInput
from patchloom.prediction.models.onnx.outputs import ImageOutput
from patchloom.prediction.models.onnx.size_rule import ShapeInference, SizeRule, find_size_rules
from patchloom.prediction.models.onnx.tensors import declared_sizes
from patchloom.prediction.models.tensor_layout import TensorLayout


def describe_network(
    graph: OnnxGraph,
    *,
    image: Any,
    bound: Sequence[BoundInput],
    layout: TensorLayout,
    outputs: Sequence[ImageOutput],
    in_channels: int | None,
    identity: str,
) -> ModelDescription:
    """Return the description of a network.

    Parameters
    ----------
    graph : OnnxGraph
        The network without its weights.
    image : NodeArg
        The input for the image.
    bound : sequence of BoundInput
        The other inputs.
    layout : TensorLayout
        The layout of the image.
    outputs : sequence of ImageOutput
        The outputs that are used.
    in_channels : int, optional
        Number of channels of the image; None if it is not known.
    identity : str
        Identity of the model.
    """
    sizes = declared_sizes(image) or (None,) * len(layout.letters)
    batch_size, _, *space = layout.batch_shape(sizes)
    fixed = [size for size in space if size is not None]
    is_fixed = len(fixed) == len(space)
    rules = _size_rules(graph, image=image, bound=bound, layout=layout, outputs=outputs, in_channels=in_channels) or []
    free_rules = [] if fixed else rules  # sizes of which only some axes are fixed have no rule
    only = outputs[0] if len(outputs) == 1 else None
    scale = _declared_scale(rules, outputs, fixed) if rules and is_fixed else None
    has_margin = any(any(rule.lacking.values()) for rule in rules)
    return ModelDescription(
        patch_size=tuple(fixed) if is_fixed else None,
        min_size=tuple(rule.min_size for rule in free_rules) or None,
        size_step=tuple(rule.step for rule in free_rules) or None,
        origin_multiple=tuple(rule.stride for rule in rules) or None,
        batch_size=batch_size,
        n_dims=layout.n_dims,
        in_channels=in_channels,
        out_channels=only.n_channels if only else None,
        # A scale, channels and a dtype would be all about an output without a margin, and the model would not be run to infer it.
        out_dtype=only.dtype.name if only and not (scale and has_margin) else None,
        scale=scale,
        identity=identity,
    )


def check_channel_order(order: Sequence[int] | None, n_channels: int | None, name: str) -> list[int] | None:
    """Return the order of channels as a list of int.

    Parameters
    ----------
    order : sequence of int, optional
        As in `OnnxModel`.
    n_channels : int, optional
        Number of channels that the input declares.
    name : str
        Name of the network in messages.

    Raises
    ------
    ModelError
        If it does not contain each channel once.
    """
    if order is None:
        return None
    order = [
        whole_number("channel_order", channel) for channel in listed("channel_order", order, "a sequence of channels")
    ]
    n_channels = n_channels or len(order)
    if sorted(order) != list(range(n_channels)):
        raise ModelError(
            f"channel_order is {tuple(order)}: it must contain each of 0 to {n_channels - 1} once, as {name} takes {n_channels} "
            "channels"
        )
    return list(order)


def _size_rules(
    graph: OnnxGraph,
    *,
    image: Any,
    bound: Sequence[BoundInput],
    layout: TensorLayout,
    outputs: Sequence[ImageOutput],
    in_channels: int | None,
) -> list[SizeRule] | None:
    """Find the sizes that the network accepts; None if its number of channels is not known, or its shapes do not show it."""
    shapes = input_shapes(image, bound, layout, in_channels)
    if shapes is None:
        return None
    sizes = declared_sizes(image) or (None,) * len(layout.letters)
    axes = spatial_places(layout)
    inference = ShapeInference(graph, shapes, image.name, axes, [output.name for output in outputs])
    return find_size_rules(inference, [sizes[axis] for axis in axes])


def _declared_scale(
    rules: Sequence[SizeRule], outputs: Sequence[ImageOutput], sizes: Sequence[int]
) -> tuple[Fraction, ...] | None:
    """Return the scale of a network that accepts one size only, if one size does not show it: of 64, 32 may be half, or lack a margin."""
    scales = {tuple(rule.scales[output.name] for rule in rules) for output in outputs}
    if len(scales) > 1:
        return None
    (scale,) = scales
    is_whole = all(min(factor.as_integer_ratio()) == 1 for factor in scale)
    lacking = [max(rule.lacking[output.name] for output in outputs) for rule in rules]
    is_open = any(
        factor < 1 or (lost and size % (size - lost) == 0)
        for factor, lost, size in zip(scale, lacking, sizes, strict=True)
    )
    return scale if is_whole and is_open else None


def spatial_places(layout: TensorLayout) -> list[int]:
    """Return the indices of the spatial axes of a tensor, `(z,) y, x`."""
    return [layout.letters.index(letter) for letter in "DHW" if letter in layout.letters]


def input_shapes(
    image: Any, bound: Sequence[BoundInput], layout: TensorLayout, in_channels: int | None
) -> dict[str, tuple[int, ...]] | None:
    """Return the shapes of all inputs for one tile, by name; free spatial sizes are 1.

    Parameters
    ----------
    image : NodeArg
        The input for the image.
    bound : sequence of BoundInput
        The other inputs.
    layout : TensorLayout
        The layout of the image.
    in_channels : int, optional
        Number of channels of the image; None if it is not known.

    Returns
    -------
    dict of str to tuple of int, or None
        None if the number of channels is not known, or another input has the size of the image.
    """
    if (in_channels is None and "C" in layout.letters) or any(
        value.depends_on(spatial_places(layout)) for value in bound
    ):
        return None
    sizes = declared_sizes(image) or (None,) * len(layout.letters)
    known = {"N": 1, "C": in_channels, "D": 1, "H": 1, "W": 1}
    shape = tuple(size or known[letter] or 1 for size, letter in zip(sizes, layout.letters, strict=True))
    return {image.name: shape, **{value.name: value.for_image(shape).shape for value in bound}}
