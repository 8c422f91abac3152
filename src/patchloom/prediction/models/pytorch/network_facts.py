"""What a network of PyTorch shows without being run: the dtype and device of its weights, its axes, and its inputs."""

from __future__ import annotations

import inspect
import re
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

from patchloom._optional import require
from patchloom.errors import ModelError

_DIMENSIONS = {"Conv1d": 1, "ConvTranspose1d": 1, "Conv2d": 2, "ConvTranspose2d": 2, "Conv3d": 3, "ConvTranspose3d": 3}
_INPUT_DTYPES = ("float16", "bfloat16", "float32", "float64", "complex64", "complex128")
"""Dtypes that an input may have. Weights in 8 bits are computed with in another dtype."""


def typical_weight(module: Any) -> Any | None:
    """Return a weight that has the dtype and the device that the network expects of its input.

    Most weights have its dtype: a network in half precision may keep its norms in float32. A kernel is preferred to a bias.

    Parameters
    ----------
    module : torch.nn.Module
        The network.

    Returns
    -------
    torch.Tensor or None
        A parameter, else a buffer; None if it has no floats.

    Raises
    ------
    ModelError
        If the weights are not loaded.

    Examples
    --------
    >>> import torch
    >>> module = torch.nn.Sequential(torch.nn.BatchNorm2d(2), torch.nn.Conv2d(2, 3, 3).bfloat16())
    >>> typical_weight(module).dtype
    torch.bfloat16
    """
    torch = require("torch", extra="torch")
    dtypes = [getattr(torch, name) for name in _INPUT_DTYPES]
    parameters = [weight for weight in module.parameters() if weight.dtype in dtypes]
    weights = parameters or [buffer for buffer in module.buffers() if buffer.dtype in dtypes]
    for weight in weights:
        if torch.nn.parameter.is_lazy(weight) or weight.device.type == "meta":
            raise ModelError(
                f"the network {name_of(module)} has weights without values: load them, or run it once on an example, before it is used"
            )
    sizes: Counter[Any] = Counter()
    for weight in weights:
        sizes[weight.dtype] += weight.numel()
    typical = [weight for weight in weights if weight.dtype == max(sizes, key=lambda dtype: sizes[dtype])]
    return next((weight for weight in typical if weight.dim() > 1), typical[0] if typical else None)


def is_spread(module: Any) -> bool:
    """Return whether the weights of a network are on several devices."""
    return len({weight.device for weight in (*module.parameters(), *module.buffers())}) > 1


def move_graphs(module: Any, device: str) -> None:
    """Change the device that the graphs of a traced network name, such as for the tensors that they make; `module` is changed."""
    fx = require("torch.fx", extra="torch")
    torch = require("torch", extra="torch")

    def moved(value: Any) -> Any:
        return torch.device(device) if isinstance(value, torch.device) else value

    for part in module.modules():
        if not isinstance(part, fx.GraphModule):
            continue
        for node in part.graph.nodes:
            node.args, node.kwargs = fx.node.map_aggregate(node.args, moved), fx.node.map_aggregate(node.kwargs, moved)
        part.recompile()


def count_axes(parts: Collection[Any]) -> int | None:
    """Return the number of spatial axes of a network, by its convolutions; None if they do not agree, or there are none.

    Parameters
    ----------
    parts : collection of torch.nn.Module
        The network and all modules inside.

    Examples
    --------
    >>> import torch
    >>> count_axes([torch.nn.Conv3d(1, 2, 3), torch.nn.ReLU()])
    3
    """
    found = {_DIMENSIONS[kind] for part in parts for kind in _kinds(part) if kind in _DIMENSIONS}
    return next(iter(found)) if found in ({2}, {3}) else None


def has_part(parts: Collection[Any], *starts: str) -> bool:
    """Return whether a part of a network has a class, or a base class, whose name starts with one of some texts."""
    return any(kind.startswith(starts) for part in parts for kind in _kinds(part))


def _kinds(part: Any) -> list[str]:
    """Return the names of the classes of a part; TorchScript keeps only the first."""
    scripted = getattr(part, "original_name", None)
    return [scripted] if isinstance(scripted, str) else [kind.__name__ for kind in type(part).__mro__]


def name_of(module: Any) -> str:
    """Return the name of the class of a network, as its author wrote it."""
    scripted = getattr(module, "original_name", None)
    inner = getattr(module, "_orig_mod", module)  # torch.compile wraps it
    return scripted if isinstance(scripted, str) else type(inner).__name__


def check_inputs(module: Any, bound: Collection[str]) -> tuple[str, ...]:
    """Check that a network takes one batch, and the bound inputs by name.

    Parameters
    ----------
    module : torch.nn.Module
        The network.
    bound : collection of str
        Names of inputs that have a value.

    Returns
    -------
    tuple of str
        The bound inputs in their order, if the network takes them by position only, as a program of `torch.export` does.

    Raises
    ------
    ModelError
        If it needs more than one input, or has no input of a bound name.
    """
    found = _inputs(module)
    if found is None:
        return ()
    required, known = found
    unknown = [name for name in bound if known is not None and name not in known]
    if unknown:
        raise ModelError(
            f"inputs has {unknown[0]!r}, and {name_of(module)}.forward takes {', '.join(known or ()) or 'none'}: use one of these names"
        )
    missing = [name for name in required if name not in bound][1:]
    if missing or (required and required[0] in bound):
        named = ", ".join(f"{name}=…" for name in missing or required[:1])
        advice = (
            f"bind the others by functools.partial(network, {named}), or with inputs= of load_model (--input)"
            if missing
            else "do not bind the first one"
        )
        raise ModelError(
            f"{name_of(module)}.forward needs the inputs {', '.join(required)}, and the first one is the batch of tiles: {advice}"
        )
    is_traced = isinstance(module, require("torch.fx", extra="torch").GraphModule)
    return tuple(name for name in known or () if name in bound) if is_traced else ()


def _inputs(module: Any) -> tuple[list[str], list[str] | None] | None:
    """Return the inputs that a network needs, and all that it takes by name, None for any; None if that cannot be known."""
    schema = getattr(getattr(module, "forward", None), "schema", None)
    if schema is not None:  # TorchScript
        arguments = list(schema.arguments)[1:]
        return [item.name for item in arguments if not item.has_default_value()], [item.name for item in arguments]
    try:
        parameters = list(inspect.signature(getattr(module, "_orig_mod", module).forward).parameters.values())
    except (TypeError, ValueError):
        return None
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    if any(item.kind == inspect.Parameter.VAR_POSITIONAL for item in parameters):
        return None
    required = [
        item.name for item in parameters if item.default is item.empty and item.kind in (*positional, item.KEYWORD_ONLY)
    ]
    takes_any = any(item.kind == inspect.Parameter.VAR_KEYWORD for item in parameters)
    return required, None if takes_any else [item.name for item in parameters]


_OTHER_CHANNELS = re.compile(r"to have (\d+) channels, but got (\d+) channels instead")
"""The error of a convolution of PyTorch about a batch with other channels than it takes."""


@contextmanager
def explained_errors(module: Any) -> Iterator[None]:
    """Turn an error about channels, and a long one of TorchScript, into a sentence.

    Raises
    ------
    ModelError
        If a convolution gets another number of channels than it takes, or TorchScript raises an error of Python.
    """
    try:
        yield
    except Exception as error:
        counts = _OTHER_CHANNELS.search(str(error))
        if counts:
            raise ModelError(
                f"a convolution of {name_of(module)} takes {counts[1]} channel(s) and got {counts[2]}: if these are the channels of the "
                "image, choose some with channels= (--channels), or take another model"
            ) from error
        if "TorchScript interpreter" in str(error):  # with a traceback of code that is not at hand
            last = str(error).strip().splitlines()[-1]
            raise ModelError(f"{name_of(module)} raised {last}") from error
        raise
