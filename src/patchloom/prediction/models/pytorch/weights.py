"""Weights of PyTorch in files: read without running code, and loaded into a network."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from patchloom._optional import require
from patchloom.errors import ModelError

_CONTAINERS = (
    "state_dict",
    "model_state_dict",
    "network_weights",
    "model_state",
    "model",
    "net",
    "network",
    "weights",
    "params",
)
"""Keys under which training scripts save weights beside other things, such as the state of the optimizer."""

_COMPILED = "_orig_mod."
"""What `torch.compile` puts into the names of weights."""

_MOST_NAMED = 4


def is_safetensors(path: Path) -> bool:
    """Return whether a file starts as those of safetensors do: the length of a header, and JSON."""
    with path.open("rb") as file:
        start = file.read(9)
    return len(start) == 9 and start[8:] == b"{" and int.from_bytes(start[:8], "little") < path.stat().st_size


def read_safetensors(path: Path) -> dict[str, Any]:
    """Read weights from a file of safetensors, by their names.

    Raises
    ------
    ModelError
        If it is damaged.
    """
    safetensors = require("safetensors.torch", extra="torch")
    try:
        return dict(safetensors.load_file(path))
    except Exception as error:  # the package raises errors of its own
        raise ModelError(f"{path} is a damaged file of safetensors ({error}): copy it again") from error


def weights_in(path: Path, content: Any) -> dict[str, Any]:
    """Return the weights in what was read from a file, by their names.

    Parameters
    ----------
    path : Path
        The file, for messages.
    content : object
        The weights alone, or a checkpoint that contains them beside other things, under `state_dict`, `model_state_dict`, `model` or a
        similar key; or a network.

    Raises
    ------
    ModelError
        If it contains no weights.
    """
    found = find_weights(content)
    if found is None:
        raise ModelError(
            f"{path} contains {_described(content)}, and no weights by their names: save network.state_dict() with torch.save"
        )
    return found


def find_weights(content: Any) -> dict[str, Any] | None:
    """Return the weights in what was read from a file; None if there are none, or several."""
    torch = require("torch", extra="torch")
    if isinstance(content, torch.nn.Module):
        return dict(content.state_dict())
    if not isinstance(content, Mapping):
        return None
    if _is_weights(torch, content):
        return dict(content)
    inside = {str(key): found for key, value in content.items() if (found := _inside(torch, value)) is not None}
    known = [inside[key] for key in _CONTAINERS if key in inside]
    return next(iter(known), next(iter(inside.values())) if len(inside) == 1 else None)


def _inside(torch: Any, value: Any) -> dict[str, Any] | None:
    if isinstance(value, torch.nn.Module):
        return dict(value.state_dict())
    return dict(value) if isinstance(value, Mapping) and _is_weights(torch, value) else None


def _is_weights(torch: Any, content: Mapping[Any, Any]) -> bool:
    """Return whether a mapping contains tensors by name, and nothing but small extra states beside them."""
    tensors = [isinstance(value, torch.Tensor) for value in content.values()]
    others = [key for key, is_tensor in zip(content, tensors, strict=True) if not is_tensor]
    return (
        any(tensors) and all(isinstance(key, str) for key in content) and all("_extra_state" in key for key in others)
    )


def _described(content: Any) -> str:
    if isinstance(content, Mapping):
        keys = ", ".join(map(repr, list(content)[:_MOST_NAMED]))
        return f"a mapping of {keys or 'nothing'}"
    return f"an object of type {type(content).__name__}"


def load_weights(module: Any, weights: Mapping[str, Any], path: Path) -> None:
    """Load weights into a network; each weight of the network needs one of the same shape.

    Prefixes that all names share, such as `module.` of `DataParallel` or `model.` of Lightning, are removed if the network has the
    names without them.

    Parameters
    ----------
    module : torch.nn.Module
        The network.
    weights : mapping of str to torch.Tensor
        Weights by their names.
    path : Path
        Their file, for messages.

    Raises
    ------
    ModelError
        If weights are missing, left over, or of another shape. The message names some of them.
    """
    torch = require("torch", extra="torch")
    module = getattr(module, "_orig_mod", module)
    expected = module.state_dict()
    plain = {key.replace(_COMPILED, ""): value for key, value in weights.items()}
    fitting = _without_prefix(plain, expected)
    faults = [
        ("lacks", [key for key in expected if key not in fitting]),
        ("has, and the network does not,", [key for key in fitting if key not in expected]),
        ("has other shapes than the network for", [_shapes(key, value, expected[key]) for key, value in fitting.items() if key in expected and not _fits(torch, value, expected[key])]),
    ]  # fmt: skip
    texts = [f"{what} {_some(keys)}" for what, keys in faults if keys]
    if texts:
        raise ModelError(
            f"the weights in {path} are not those of {type(module).__name__}: the file {'; it '.join(texts)}: make the network with "
            "the arguments of its training (arguments=, --argument), or give the file of its weights"
        )
    try:
        module.load_state_dict(fitting)
    except Exception as error:  # hooks of the network may raise any error
        raise ModelError(f"the weights in {path} cannot be loaded into {type(module).__name__}: {error}") from error


def _without_prefix(weights: dict[str, Any], expected: Mapping[str, Any]) -> dict[str, Any]:
    """Return the weights without a common prefix of their names if their names are then exactly the expected ones; else as they are."""
    if not expected or weights.keys() == expected.keys():
        return weights
    first = next(iter(expected))
    prefixes = sorted({key.removesuffix(first) for key in weights if key.endswith(f".{first}")})
    for prefix in prefixes:
        inside = {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}
        if inside.keys() == expected.keys():
            return inside
    common = next((prefix for prefix in prefixes if all(key.startswith(prefix) for key in weights)), "")
    return {key.removeprefix(common): value for key, value in weights.items()}


def _fits(torch: Any, value: Any, expected: Any) -> bool:
    if not isinstance(expected, torch.Tensor) or torch.nn.parameter.is_lazy(expected):
        return True
    return isinstance(value, torch.Tensor) and value.shape == expected.shape


def _shapes(key: str, value: Any, expected: Any) -> str:
    shape = tuple(getattr(value, "shape", ()))
    return f"{key} ({shape} instead of {tuple(getattr(expected, 'shape', ()))})"


def _some(names: Collection[str]) -> str:
    shown = ", ".join(list(names)[:_MOST_NAMED])
    more = len(names) - _MOST_NAMED
    return f"{shown} and {more} more" if more > 0 else shown
