"""One model on several devices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from patchloom.argument_checks import function, instances
from patchloom.errors import GeometryError
from patchloom.prediction.models.model import Model, ModelDescription, describe


@dataclass(frozen=True, slots=True)
class ReplicatedModel:
    """The same model on several devices: `predict` deals its batches out in turn, each replica in a thread of its own.

    Results are put together in the order of the batches, so that they do not depend on which device is faster. They are those of
    one device if all devices compute the same.

    Parameters
    ----------
    replicas : sequence of callable
        The model, once for each device.

    Raises
    ------
    GeometryError
        If there are none.

    Examples
    --------
    >>> import numpy as np
    >>> ReplicatedModel([np.negative, np.negative])(np.ones(2)).tolist()
    [-1.0, -1.0]
    """

    replicas: tuple[Model, ...]

    def __post_init__(self) -> None:
        given = instances("replicas", self.replicas, object, "a sequence of models")
        replicas = tuple(function(f"replicas[{number}]", replica) for number, replica in enumerate(given))
        if not replicas:
            raise GeometryError("replicas is empty: give at least one model")
        object.__setattr__(self, "replicas", replicas)

    @property
    def description(self) -> ModelDescription:
        """The description of the model."""
        return describe(self.replicas[0])

    def __call__(self, batch: NDArray[Any], /) -> Any:
        """Predict a batch on the first device; see `Model`."""
        return self.replicas[0](batch)


def replicas_of(model: Model) -> tuple[Model, ...]:
    """Return the model once for each device that it runs on.

    Parameters
    ----------
    model : callable
        Any model.
    """
    return model.replicas if isinstance(model, ReplicatedModel) else (model,)
