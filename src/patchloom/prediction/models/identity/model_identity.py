"""The identity of a model: digests of all that it computes with, so that a run is not resumed with another model."""

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
    """Digests of the parts of a model.

    Parameters
    ----------
    parts : mapping of str to str
        Digests, by the name of the part, such as ``"attribute 'weights' of 'Net'"``.
    unknown : tuple of str
        One sentence for each part that cannot be identified.
    """

    parts: Mapping[str, str]
    unknown: tuple[str, ...] = ()


def identify_model(model: Any) -> ModelIdentity:
    """Identify a model by everything that it computes with.

    Parameters
    ----------
    model : callable
        Any callable. If it declares an identity, in an attribute `identity` or in its `description`, this is used, and its parts
        are not walked.

    Returns
    -------
    ModelIdentity
        It is equal in another process if code and weights are equal. State that a call changes, such as a counter, counts as a
        weight.

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
            warnings.simplefilter("ignore")  # deprecated attributes of other libraries warn when they are read
            walk.visit(model, root)
    except TooManyObjectsError:
        walk.unknown.append(f"{root.name} consists of more objects than are inspected")
    except RecursionError:
        walk.unknown.append(f"{root.name} is nested too deeply")
    except Exception as error:  # noqa: BLE001  # attributes of other libraries raise any error
        walk.unknown.append(f"{root.name} cannot be inspected ({type(error).__name__}: {error})")
    return ModelIdentity(
        {name: digest.hexdigest()[:16] for name, digest in walk.digests.items()}, tuple(dict.fromkeys(walk.unknown))
    )
