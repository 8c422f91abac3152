"""What a model computes with, part by part, so that a resumed run can tell whether it is the same."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from patchloom.prediction.models.identity.object_walk import ObjectWalk, TooManyObjectsError
from patchloom.prediction.models.identity.part_digests import Part
from patchloom.prediction.models.model import declared_identity, text_attribute


@dataclass(frozen=True, slots=True)
class ModelIdentity:
    """What a model computes with.

    Parameters
    ----------
    parts : mapping of str to str
        Digests by the name of the part, such as ``"attribute 'weights' of 'Net'"``.
    unknown : tuple of str
        What cannot be identified, one sentence each.
    """

    parts: Mapping[str, str]
    unknown: tuple[str, ...] = ()


def identify_model(model: Any) -> ModelIdentity:
    """Identify a model by everything that it computes with.

    Parameters
    ----------
    model : callable
        Any callable. One with an attribute `identity`, a text that is not empty, has declared what it is, and is not looked
        into; nor is one whose `description` has an `identity` of its own.

    Returns
    -------
    ModelIdentity
        Equal in another process for a model of the same code and weights. State that a call changes, such as a counter, cannot
        be told from weights and counts.

    Examples
    --------
    >>> def scaled(factor):
    ...     def model(batch):
    ...         return batch * factor
    ...     return model
    >>> two, three = identify_model(scaled(2)), identify_model(scaled(3))
    >>> [part for part in two.parts if two.parts[part] != three.parts[part]]
    ["closure variable 'factor' of 'model'"]
    """
    walk = ObjectWalk()
    name = repr(text_attribute(model, "__name__") or type(model).__name__)
    root = Part("what it declares to be" if declared_identity(model) else name, 0)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # what is deprecated in somebody else's objects is not the user's concern here
            walk.visit(model, root)
    except TooManyObjectsError:
        walk.unknown.append(f"{root.name} consists of more objects than are looked into")
    except RecursionError:
        walk.unknown.append(f"{root.name} is nested too deeply")
    except Exception as error:  # noqa: BLE001  # whatever somebody else's objects raise when they are looked at
        walk.unknown.append(f"{root.name} cannot be looked into ({type(error).__name__}: {error})")
    return ModelIdentity(
        {name: digest.hexdigest()[:16] for name, digest in walk.digests.items()}, tuple(dict.fromkeys(walk.unknown))
    )
