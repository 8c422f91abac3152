"""How a sampler names patches to a dataset: by epoch and index.

With the epoch in its key a patch is the same whoever asks for it: a dataset need not be told which epoch it is, and worker
processes that live on from one epoch to the next give what new ones would.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple, SupportsIndex

import numpy as np
from numpy.typing import NDArray

from patchloom.errors import PatchIndexError


class PatchKey(NamedTuple):
    """One patch of one epoch."""

    epoch: int
    index: int  # type: ignore[assignment]  # hides a method of tuples that nobody asks of a key


class PatchKeys(NamedTuple):
    """Patches of one epoch.

    Examples
    --------
    >>> PatchKeys.of([PatchKey(epoch=3, index=7), PatchKey(epoch=3, index=2)])
    PatchKeys(epoch=3, indices=array([7, 2]))
    """

    epoch: int | None
    """`None` stands for the epoch that the dataset is at."""

    indices: NDArray[np.int64]

    @classmethod
    def of(cls, keys: PatchKeys | Iterable[PatchKey | SupportsIndex]) -> PatchKeys:
        """Take keys together.

        Raises
        ------
        PatchIndexError
            If they are of several epochs: a batch is of one.
        """
        if isinstance(keys, cls):
            return keys
        listed: list[Any] = list(keys)
        epochs = {key[0] if isinstance(key, tuple) else None for key in listed}
        if len(epochs) > 1:
            raise PatchIndexError(f"a batch has keys of several epochs, {epochs}: it must be of one")
        indices = [key[1] if isinstance(key, tuple) else key for key in listed]
        return cls(epochs.pop() if epochs else None, np.array(indices))
