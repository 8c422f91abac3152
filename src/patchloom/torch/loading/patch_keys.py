"""Keys of patches, from a sampler to a dataset: epoch and index.

As a key contains the epoch, a patch is the same in every process: a dataset does not keep the current epoch, and worker processes
that persist over epochs return the same patches as new ones.
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
    """The key of a patch.

    Examples
    --------
    >>> from patchloom.torch import EpochSampler, PatchKey
    >>> next(iter(EpochSampler(4, shuffle=False))) == PatchKey(epoch=0, index=0)
    True
    """

    epoch: int
    """Number of the epoch, from 0."""

    index: int  # type: ignore[assignment]  # hides a method of tuples that keys do not need
    """Index of the patch in the epoch, from 0."""


class PatchKeys(NamedTuple):
    """The keys of several patches of one epoch.

    Examples
    --------
    >>> PatchKeys.of([PatchKey(epoch=3, index=7), PatchKey(epoch=3, index=2)])
    PatchKeys(epoch=3, indices=array([7, 2]))
    """

    epoch: int | None
    """If None, the epoch of the dataset."""

    indices: NDArray[np.int64]

    @classmethod
    def of(cls, keys: PatchKeys | Iterable[PatchKey | SupportsIndex]) -> PatchKeys:
        """Combine keys.

        Raises
        ------
        PatchIndexError
            If the keys are of several epochs.
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
    """Return whether keys are of one kind and of plain non-negative integers, as samplers yield them."""
    kinds = set(map(type, keys))
    numbers = list(chain.from_iterable(keys)) if kinds == {PatchKey} else keys
    return kinds in ({PatchKey}, {int}) and set(map(type, numbers)) == {int} and min(numbers) >= 0


def _check_key(name: str, key: Any) -> None:
    """Refuse an object that is not a key; the dataset checks whether the plan has the patch."""
    if not isinstance(key, tuple):
        whole_number(name, key, least=0)
    elif len(key) != len(PatchKey._fields):
        raise PatchIndexError(f"{name} is {shown(key)}: it must be an index, or an epoch and an index")
    else:
        whole_number(f"epoch of {name}", key[0], least=0)
        whole_number(f"index of {name}", key[1], least=0)
