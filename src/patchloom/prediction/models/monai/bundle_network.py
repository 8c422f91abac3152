"""The network of a MONAI bundle: TorchScript, or a class of MONAI or PyTorch with weights."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from patchloom._optional import require
from patchloom.argument_checks import shown
from patchloom.errors import ModelError
from patchloom.prediction.models.monai.bundle import Bundle
from patchloom.prediction.models.monai.bundle_config import Unevaluated
from patchloom.prediction.models.pytorch.pickled_file import read_pickled
from patchloom.prediction.models.pytorch.script_file import open_script

NETWORK_MODULES = ("monai.networks.", "torch.nn.")
"""Beginnings of the names of classes that are made without trust: their code is installed, and takes plain values."""

_NOT_ARGUMENTS = frozenset({"_target_", "_disabled_", "_requires_", "_desc_", "_mode_"})
_CHECKPOINT_KEYS = ("state_dict", "model", "network", "net", "model_state_dict")
_TRUST = "give trust=True (--trust) if you trust its author"


def make_network(bundle: Bundle, *, trust: bool = False) -> Any:
    """Return the network of a bundle, with its weights.

    Parameters
    ----------
    bundle : Bundle
        The bundle.
    trust : bool
        Whether any code that it names is run.

    Returns
    -------
    torch.nn.Module
        Its TorchScript, if there is one. Else the network that its configuration defines.

    Raises
    ------
    ModelError
        If the network cannot be made, needs code that is not trusted, or its weights do not fit.
    MissingExtraError
        If PyTorch is not installed, or MONAI, which a network without TorchScript needs.
    """
    torch = require("torch", extra="torch")
    if bundle.script is not None:
        return open_script(bundle.script, trust=trust)
    definition = find_definition(bundle)
    if definition is None:
        raise ModelError(
            f"{bundle.root} has weights, and network_def in its configuration does not define their network: add it, or export the "
            "network as models/model.ts"
        )
    n_parameters = 0 if trust else _count_parameters(torch, definition)
    path = bundle.weights or Path()
    weights = _weights_in(read_pickled(path, trust=trust), path)
    n_numbers = sum(tensor.numel() for tensor in weights.values())
    if n_parameters > n_numbers:
        raise ModelError(
            f"the weights in {path} do not fit the network that the bundle defines: it has {n_parameters} parameters, and the file "
            f"{n_numbers} numbers; use the version of MONAI that the bundle names"
        )
    network = _instantiate(torch, definition, trust=trust)
    if not isinstance(network, torch.nn.Module):
        raise ModelError(
            f"network_def of {bundle.root} makes a {type(network).__name__}: it must make a torch.nn.Module"
        )
    _load_weights(network, weights, path)
    return network


def _count_parameters(torch: Any, definition: Any) -> int:
    """Count the parameters of a network before it takes memory; return 0 if it can only be made with memory."""
    try:
        with torch.device("meta"):
            network = _instantiate(torch, definition, trust=False)
    except ModelError as error:
        if error.__cause__ is None:
            raise
        return 0  # a constructor failed: some compute with their parameters
    return sum(parameter.numel() for parameter in network.parameters()) if isinstance(network, torch.nn.Module) else 0


def find_definition(bundle: Bundle) -> Any:
    """Return the definition of the network: a mapping with `_target_`, or an object if the bundle is trusted; None if there is none."""
    for name in ("network_def", "network", "net", "model"):
        found = bundle.config.get(name)
        if found is not None and not isinstance(found, (str, Unevaluated)):
            return found
    return None


def _instantiate(torch: Any, value: Any, *, trust: bool) -> Any:
    """Make the objects of a definition, from the inside out."""
    if isinstance(value, Unevaluated):
        raise ModelError(f"the network of the bundle needs {shown(value.text)}, which is code: {_TRUST}")
    if isinstance(value, list):
        return [_instantiate(torch, item, trust=trust) for item in value]
    if not isinstance(value, Mapping):
        return value
    if "_target_" not in value:
        return {key: _instantiate(torch, item, trust=trust) for key, item in value.items()}
    target, mode = value["_target_"], value.get("_mode_", "default")
    made = _find_class(torch, target, trust=trust)
    if mode != "default":
        raise ModelError(
            f"the network of the bundle has _mode_ {shown(mode)}: it must be 'default', or export it as models/model.ts"
        )
    arguments = {
        name: _instantiate(torch, argument, trust=trust)
        for name, argument in value.items()
        if name not in _NOT_ARGUMENTS
    }
    for name, argument in arguments.items():
        if not trust and (("pretrained" in name and argument) or (isinstance(argument, str) and "://" in argument)):
            raise ModelError(
                f"{target} of the bundle has {name} of {shown(argument)}, and nothing is downloaded: remove it, as the bundle contains the "
                f"weights, or {_TRUST}"
            )
    try:
        return made(**arguments)
    except Exception as error:  # constructors raise any error
        raise ModelError(
            f"{target} of the bundle cannot be made ({type(error).__name__}: {shown(str(error))}): fix its arguments, or use the "
            "version of MONAI that the bundle names"
        ) from error


def _find_class(torch: Any, target: Any, *, trust: bool) -> Any:
    """Return the class that a definition names."""
    if not isinstance(target, str):
        raise ModelError(f"_target_ of the bundle is {shown(target)}: it must be the name of a class")
    name = target if "." in target else f"monai.networks.nets.{target}"
    if not trust and not name.startswith(NETWORK_MODULES):
        raise ModelError(
            f"the network of the bundle needs {shown(target)}, and only classes of {' and '.join(NETWORK_MODULES)} are used without "
            f"trust: {_TRUST}"
        )
    module_name, _, class_name = name.rpartition(".")
    if module_name.startswith("monai."):
        require("monai.networks.nets", extra="monai")
    try:
        found = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError) as error:
        raise ModelError(
            f"the network of the bundle needs {shown(target)}, which is not installed: install the version of MONAI that the bundle names"
        ) from error
    if not trust and not (isinstance(found, type) and issubclass(found, torch.nn.Module)):
        raise ModelError(f"the network of the bundle needs {shown(target)}, which is not a class of networks: {_TRUST}")
    return found


def _weights_in(content: Any, path: Path) -> Mapping[str, Any]:
    weights = content
    if isinstance(content, Mapping) and not _are_weights(content):
        weights = next((content[key] for key in _CHECKPOINT_KEYS if _are_weights(content.get(key))), content)
    if not _are_weights(weights):
        raise ModelError(
            f"{path} contains {shown(list(content) if isinstance(content, Mapping) else content)}: it must be the state_dict of the "
            f"network, or contain it as {' or '.join(map(repr, _CHECKPOINT_KEYS[:2]))}"
        )
    found: Mapping[str, Any] = weights
    return found


def _load_weights(network: Any, weights: Mapping[str, Any], path: Path) -> None:
    if all(name.startswith("module.") for name in weights):  # of a network that was trained on several GPUs
        weights = {name.removeprefix("module."): tensor for name, tensor in weights.items()}
    try:
        network.load_state_dict(weights)
    except (RuntimeError, TypeError) as error:
        raise ModelError(
            f"the weights in {path} do not fit the network that the bundle defines: {shown(str(error))}; use the version of MONAI that "
            "the bundle names"
        ) from error


def _are_weights(value: Any) -> bool:
    if not isinstance(value, Mapping) or not value:
        return False
    return all(isinstance(name, str) and hasattr(tensor, "numel") for name, tensor in value.items())
