"""What `patchloom.torch.save_model` writes beside a network: a description of what prediction needs.

====== =================================== ===============================================
suffix network                             description
====== =================================== ===============================================
.pt2   a program of `torch.export`         the extra file `patchloom.json`
.pt    weights, and the name of a factory  the entry `patchloom` of the dictionary of weights
====== =================================== ===============================================
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from patchloom.argument_checks import instance
from patchloom.errors import ArgumentError, ModelError
from patchloom.prediction.models.model import ModelDescription
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


def parse_description(path: Path, text: str) -> SavedDescription:
    """Return the description that a file contains.

    Raises
    ------
    ModelError
        If it cannot be read.
    """
    try:
        return SavedDescription.from_json(text)
    except (ValueError, TypeError, LookupError, ArithmeticError, AttributeError) as error:
        raise ModelError(f"the description in {path} cannot be read ({error}): save the network again") from error
