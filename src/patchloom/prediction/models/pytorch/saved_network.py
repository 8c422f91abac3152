"""Networks that `patchloom.torch.save_model` wrote: a program or weights, and a description of what prediction needs.

====== =================================== ===============================================
suffix network                             description
====== =================================== ===============================================
.pt2   a program of `torch.export`         the extra file `patchloom.json`
.pt    weights, and the name of a factory  the entry `patchloom` of the dictionary of weights
====== =================================== ===============================================
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from patchloom._optional import require
from patchloom.argument_checks import instance
from patchloom.digests import file_digest
from patchloom.errors import ArgumentError, ModelError, ModelNotFoundError
from patchloom.prediction.models.callables import load_callable
from patchloom.prediction.models.model import ModelDescription
from patchloom.prediction.models.pytorch.exported_program import load_program, read_extra_file
from patchloom.prediction.models.pytorch.torch_model import TorchModel
from patchloom.prediction.plain_data import parse_fields

DESCRIPTION = "patchloom.json"
"""Name of the description in a program."""

ENTRY = "patchloom"
"""Name of the description in a dictionary of weights."""

_FORMAT = 1


@dataclass(frozen=True, slots=True)
class SavedDescription:
    """What is saved beside the weights of a network.

    Parameters
    ----------
    model : ModelDescription
        What prediction needs.
    training : mapping of str to object
        Facts about the training for people, as plain values: axes, channels and patch size of the images, versions.
    factory : str
        Function or class that makes the network, as `module:name`; empty for a program.
    arguments : mapping of str to object
        Keyword arguments of the factory, as plain values.

    Examples
    --------
    >>> saved = SavedDescription(ModelDescription(size_step=(4, 4), normalize="mean_std"), training={"axes": "YX"})
    >>> SavedDescription.from_json(saved.to_json()) == saved
    True
    """

    model: ModelDescription
    training: Mapping[str, Any] = field(default_factory=dict)
    factory: str = ""
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> str:
        """Return the description as JSON.

        Raises
        ------
        ArgumentError
            If an argument of the factory is not a plain value.
        """
        declared = {name: value for name, value in asdict(self.model).items() if value not in (None, (), "")}
        declared["scale"] = self.model.scale and list(map(str, self.model.scale))
        try:
            return json.dumps(
                {
                    "format": _FORMAT,
                    "model": declared,
                    "training": dict(self.training),
                    "network": {"factory": self.factory, "arguments": dict(self.arguments)},
                },
                indent=1,
                allow_nan=False,
            )
        except (TypeError, ValueError) as error:
            raise ArgumentError(
                f"arguments is {dict(self.arguments)!r}, which JSON does not store ({error}): give numbers, texts, truth values, "
                "None, and lists or mappings of these"
            ) from error

    @classmethod
    def from_json(cls, text: str) -> SavedDescription:
        """Return the description that `to_json` was made of.

        Raises
        ------
        ValueError, TypeError, LookupError, ArithmeticError, AttributeError
            If the text is something else, or of another version.
        """
        values = json.loads(text)
        if values["format"] != _FORMAT:
            raise ValueError(f"format {values['format']!r} is of another version of Patchloom")
        defaults = asdict(ModelDescription())
        unknown = sorted(set(values["model"]) - set(defaults))
        if unknown:
            raise ValueError(f"{', '.join(unknown)}: unknown to this version of Patchloom")
        declared = {name: list(value) if isinstance(value, tuple) else value for name, value in defaults.items()}
        model = ModelDescription(**parse_fields(ModelDescription, declared | values["model"]))
        network = values["network"]
        instance("factory", network["factory"], str)
        return cls(model, dict(values["training"]), network["factory"], dict(network["arguments"]))


def load_saved_network(path: str | Path, *, network: str | None = None, trust: bool | None = None) -> TorchModel:
    """Load a network that `patchloom.torch.save_model` wrote, or another program of `torch.export`.

    Parameters
    ----------
    path : str or Path
        The file, `.pt2` or `.pt`.
    network : str, optional
        The function or class that makes the network, as `module:name` or `path/to/file.py:name`. If None, the one that the file
        names, which is imported only if it is trusted.
    trust : bool, optional
        Whether code that the file contains or names is run. If None, it is refused.

    Returns
    -------
    TorchModel
        The network and its description.

    Raises
    ------
    ModelNotFoundError
        If there is no such file.
    ModelError
        If it cannot be loaded, or needs code that is not trusted.
    """
    file = Path(path)
    if not file.is_file():
        raise ModelNotFoundError(f"there is no file {file}")
    if file.suffix.lower() == ".pt2":
        if network is not None:
            raise ModelError(f"network is {network!r}, and {file} is a program, which needs no code: leave network out")
        module = load_program(file, trust=bool(trust))
        text = read_extra_file(file, DESCRIPTION)
        known = ModelDescription() if text is None else _parsed(file, text).model
        return TorchModel(module, replace(known, identity=f"{file.name} {file_digest(file)}"))
    return _load_weights(file, network, trusts=bool(trust))


def _load_weights(path: Path, network: str | None, *, trusts: bool) -> TorchModel:
    torch = require("torch", extra="torch")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # PyTorch raises errors of many types
        raise ModelError(
            f"{path} does not contain weights alone ({type(error).__name__}): save it with patchloom.torch.save_model"
        ) from error
    if not isinstance(content, dict) or not isinstance(content.get(ENTRY), str):
        raise ModelError(
            f"{path} contains no description of its network: save it with patchloom.torch.save_model, or give a function that "
            "makes and calls the network (module:name)"
        )
    saved = _parsed(path, content[ENTRY])
    if network is None and not trusts:
        raise ModelError(
            f"{path} contains weights, and names the code that makes its network, {saved.factory!r}: if you trust it, load it with "
            f"trust=True (--trust), or name it yourself with network={saved.factory!r} (--network)"
        )
    module = make_network(network or saved.factory, saved.arguments)
    try:
        module.load_state_dict(content["weights"])
    except (RuntimeError, KeyError, AttributeError, TypeError) as error:
        raise ModelError(
            f"the weights of {path} do not fit the network that {network or saved.factory} makes: {error}"
        ) from error
    return TorchModel(module, saved.model)


def make_network(reference: str, arguments: Mapping[str, Any]) -> Any:
    """Make a network by calling a function or class.

    Parameters
    ----------
    reference : str
        The function or class, as `module:name` or `path/to/file.py:name`.
    arguments : mapping of str to object
        Its keyword arguments.

    Raises
    ------
    ModelError
        If it cannot be imported, fails, or makes something else.
    """
    torch = require("torch", extra="torch")
    factory: Callable[..., Any] = load_callable(reference, allow_class=True)
    try:
        module = factory(**arguments)
    except Exception as error:  # code of the user may raise any error
        raise ModelError(
            f"{reference} made no network of {dict(arguments)} ({type(error).__name__}: {error})"
        ) from error
    if not isinstance(module, torch.nn.Module):
        raise ModelError(f"{reference} made a {type(module).__name__}: it must make a torch.nn.Module")
    return module


def _parsed(path: Path, text: str) -> SavedDescription:
    try:
        return SavedDescription.from_json(text)
    except (ValueError, TypeError, LookupError, ArithmeticError, AttributeError) as error:
        raise ModelError(f"the description in {path} cannot be read ({error}): save the network again") from error
