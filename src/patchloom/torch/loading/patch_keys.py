"""How a sampler names patches to a dataset: by epoch and index.

With the epoch in its key a patch is the same whoever asks for it: a dataset need not be told which epoch it is, and worker
processes that live on from one epoch to the next give what new ones would.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from typing import Any, NamedTuple, SupportsIndex

import numpy as np
from numpy.typing import NDArray

from patchloom.argument_checks import listed, shown, whole_number
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
        given = listed("keys", keys, "a sequence of keys or indices of patches")
        if not _are_plain(given):
            for place, key in enumerate(given):
                _check_key(f"keys[{place}]", key)
        epochs = {key[0] if isinstance(key, tuple) else None for key in given}
        if len(epochs) > 1:
            raise PatchIndexError(f"a batch has keys of several epochs, {epochs}: it must be of one")
        indices = [key[1] if isinstance(key, tuple) else key for key in given]
        return cls(epochs.pop() if epochs else None, np.array(indices))


def _are_plain(keys: list[Any]) -> bool:
    """Return whether keys are right at a glance, as those of a sampler are: all of one kind, of plain integers."""
    kinds = set(map(type, keys))
    numbers = list(chain.from_iterable(keys)) if kinds == {PatchKey} else keys
    return kinds in ({PatchKey}, {int}) and set(map(type, numbers)) == {int} and min(numbers) >= 0


def _check_key(name: str, key: Any) -> None:
    """Refuse what names no patch; whether the plan has it is for the dataset to say."""
    if not isinstance(key, tuple):
        whole_number(name, key, least=0)
    elif len(key) != len(PatchKey._fields):
        raise PatchIndexError(f"{name} is {shown(key)}: it must be an index, or an epoch and an index")
    else:
        whole_number(f"epoch of {name}", key[0], least=0)
        whole_number(f"index of {name}", key[1], least=0)
