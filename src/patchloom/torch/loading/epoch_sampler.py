"""A sampler for training: the order of patches in each epoch, on any number of ranks, and its state for resuming."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence, Sized
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch.distributed
import torch.utils.data
from numpy.typing import NDArray

from patchloom.argument_checks import MAX_SIZE, flag, shown
from patchloom.errors import GeometryError
from patchloom.geometry.checks import whole_number
from patchloom.patching.counter_random import CounterRandom, Stream, checked_epoch, checked_seed
from patchloom.torch.loading.patch_keys import PatchKey, PatchKeys
from patchloom.torch.loading.shuffled_order import ShuffledOrder

Order = Callable[[NDArray[np.int64]], NDArray[np.int64]]
"""From positions in an epoch to indices of patches."""

_MAX_KEYS = 2**14
"""Number of keys that are computed at a time."""


@runtime_checkable
class YieldsRuns(Protocol):
    """A sampler that yields the keys of many batches at a time."""

    def key_runs(self, batch_size: int, *, drop_last: bool) -> Iterator[PatchKeys]:
        """Start an epoch now, and yield its keys in runs of whole batches; a smaller last batch can be dropped."""


@runtime_checkable
class KeepsState(Protocol):
    """A sampler that can be resumed in mid-epoch."""

    def state_dict(self, used: int | None = None) -> dict[str, Any]:
        """Return the position in the epoch; see `EpochSampler.state_dict`."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume at a position; see `EpochSampler.load_state_dict`."""


class EpochSampler(torch.utils.data.Sampler[PatchKey]):
    """A sampler that goes through all patches in each epoch; every key contains its epoch.

    The order is a pure function of (seed, epoch) and is not stored. Each iteration is the next epoch; `set_epoch` chooses another.

    Parameters
    ----------
    patches : Sized or int
        The dataset or patching, or the number of patches of an epoch.
    shuffle : bool, default True
        Whether patches come in random order, or in the order of the plan.
    seed : int, default 0
        Seed of the random order. All ranks need the same.
    rank : int, optional
        Number of this process, from 0. If None, the rank of `torch.distributed` if it is in use, otherwise 0.
    world_size : int, optional
        Number of processes, which divide the order of a single process among them. If None, the world size of
        `torch.distributed` if it is in use, otherwise 1.
    drop_last : bool, default False
        All ranks have the same number of patches. If they do not divide evenly, the last patches of the epoch are dropped if this
        is true; otherwise the first patches are repeated.

    Raises
    ------
    GeometryError
        If `rank` is not below `world_size`, or an epoch would be empty.
    ArgumentTypeError
        If an argument has another type.

    Examples
    --------
    >>> from patchloom.torch import EpochSampler
    >>> sampler = EpochSampler(4, seed=1)
    >>> [key.index for key in sampler], list(sampler)[0]
    ([1, 0, 3, 2], PatchKey(epoch=1, index=0))

    Notes
    -----
    A loader with worker processes requests keys before their batches are used. `state_dict` counts the keys that were requested,
    unless it is given the number of patches that were used, as by `PatchLoader.state_dict`.
    """

    def __init__(
        self,
        patches: Sized | int,
        *,
        shuffle: bool = True,
        seed: int = 0,
        rank: int | None = None,
        world_size: int | None = None,
        drop_last: bool = False,
    ) -> None:
        self.n_patches = _count(patches)
        self.shuffle = flag("shuffle", shuffle)
        self.seed = checked_seed(whole_number("seed", seed))  # None is refused: every rank needs the same seed
        self.rank, self.world_size = _checked_rank(rank, world_size)
        self.drop_last = flag("drop_last", drop_last)
        self._length = self.n_patches // self.world_size if drop_last else -(-self.n_patches // self.world_size)
        if self._length < 1:
            raise GeometryError(
                f"an epoch has {self.n_patches} patches for {self.world_size} ranks, and would be empty: use smaller patches, or more of "
                "them"
            )
        self.epoch = 0
        """The epoch in progress, or the first one."""
        self._next = 0
        self._resume_at = 0
        self._given = 0

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[PatchKey]:
        epoch, start, order = self._begin()  # with the first key, so that `set_epoch` may be called after `iter`
        for first in range(start, len(self), _MAX_KEYS):
            for index in self._indices(order, first, min(first + _MAX_KEYS, len(self))).tolist():
                self._count(epoch, 1)
                yield PatchKey(epoch, index)

    def key_runs(self, batch_size: int, *, drop_last: bool, max_keys: int = _MAX_KEYS) -> Iterator[PatchKeys]:
        """Start an epoch now, and yield its keys in runs of batches.

        Parameters
        ----------
        batch_size : int
            Number of keys of a batch.
        drop_last : bool
            Whether a smaller last batch is dropped.
        max_keys : int, default 16384
            Number of keys of a run, at most, but one batch at least.

        Returns
        -------
        iterator of PatchKeys
            Keys of one or several whole batches.
        """
        whole_number("batch_size", batch_size, least=1)
        flag("drop_last", drop_last)
        whole_number("max_keys", max_keys, least=1)
        epoch, start, order = self._begin()
        stop = len(self) - (len(self) - start) % batch_size if drop_last else len(self)
        return self._runs(epoch, order, range(start, stop, max(max_keys // batch_size, 1) * batch_size))

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next iteration; a loaded state is kept if it is of this epoch.

        Parameters
        ----------
        epoch : int
            From 0 to 2³² - 1.

        Raises
        ------
        GeometryError
            If it is out of this range.
        """
        if checked_epoch(epoch) != self._next:
            self._next, self._resume_at = epoch, 0

    def state_dict(self, used: int | None = None) -> dict[str, Any]:
        """Return the position in the epoch and the settings of its order, in plain numbers, strings and lists.

        Parameters
        ----------
        used : int, optional
            Number of patches of this epoch that were used on this rank. If None, the number of keys that were requested.

        Returns
        -------
        dict
            For `load_state_dict`, in this process or another.

        Raises
        ------
        GeometryError
            If `used` is more than the patches of an epoch.
        """
        if used is not None:
            whole_number("used", used, least=0, most=len(self))
        position = self._given if used is None else used
        return {"epoch": self.epoch, "position": position, **self._identity()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume the next iteration where a state was saved, on this rank or another.

        Parameters
        ----------
        state : mapping
            From `state_dict` of a sampler with the same settings.

        Raises
        ------
        GeometryError
            If the state is of another kind of sampler, or of a sampler with another seed, length or order, or is damaged. The
            sampler does not change.
        """
        own = self._identity()
        check_state(state, ["epoch", "position", *own], f"{type(self).__name__}.state_dict")
        for name, value in own.items():
            if type(state[name]) is not type(value) or state[name] != value:
                raise GeometryError(
                    f"the state is of a sampler with {name} {state[name]!r}, but this one has {value!r}, and would resume with "
                    "other patches: create the sampler as it was, or start an epoch without the state"
                )
        epoch, position = checked_epoch(state["epoch"]), whole_number("position", state["position"], least=0)
        if position > len(self):
            raise GeometryError(f"the state is damaged: position is {position}, but an epoch has {len(self)} patches")
        complete = position >= len(self)
        self.epoch = self._next = epoch + complete
        self._resume_at = self._given = 0 if complete else position

    def _identity(self) -> dict[str, Any]:
        """Return the settings that the order of an epoch depends on, and the kind of sampler."""
        names = ("seed", "n_patches", "world_size", "shuffle", "drop_last")
        return {"kind": type(self).__name__, **{name: getattr(self, name) for name in names}}

    def _begin(self) -> tuple[int, int, Order]:
        self.epoch, start = self._next, self._resume_at
        self._next, self._resume_at, self._given = self.epoch + 1, 0, start
        return self.epoch, start, self._order(self.epoch)

    def _order(self, epoch: int) -> Order:
        """Return the order of an epoch, for all ranks together."""
        if not self.shuffle:
            return _in_order
        return ShuffledOrder(self.n_patches, CounterRandom(self.seed, epoch, Stream.ORDER)).at

    def _places(self, start: int, stop: int) -> NDArray[np.int64]:
        """Return the positions in the order of all ranks that are from `start` to `stop` on this rank."""
        return np.arange(start, stop) * self.world_size + self.rank

    def _indices(self, order: Order, start: int, stop: int) -> NDArray[np.int64]:
        return order(self._places(start, stop) % self.n_patches)

    def _runs(self, epoch: int, order: Order, starts: range) -> Iterator[PatchKeys]:
        for first in starts:
            indices = self._indices(order, first, min(first + starts.step, starts.stop))
            self._count(epoch, len(indices))
            yield PatchKeys(epoch, indices)

    def _count(self, epoch: int, n_keys: int) -> None:
        if epoch == self.epoch:  # an earlier iteration may still run
            self._given += n_keys


def check_state(state: object, fields: Sequence[str], origin: str) -> None:
    """Refuse an object that is not a state.

    Raises
    ------
    GeometryError
        If it is not a dictionary, or lacks a field.
    """
    if not isinstance(state, Mapping):
        raise GeometryError(f"the state lacks {', '.join(fields)}: it is {shown(state)}; give what {origin} returned")
    missing = [name for name in fields if name not in state]
    if missing:
        raise GeometryError(f"the state lacks {', '.join(missing)}: give what {origin} returned")


def _count(patches: Any) -> int:
    if isinstance(patches, Sized) and not isinstance(patches, (str, bytes, Mapping, type)):
        return len(patches)
    return whole_number("patches", patches, least=0, most=MAX_SIZE)


def _in_order(places: NDArray[np.int64]) -> NDArray[np.int64]:
    return places


def _checked_rank(rank: int | None, world_size: int | None) -> tuple[int, int]:
    in_use = torch.distributed.is_available() and torch.distributed.is_initialized()
    if world_size is None:
        world_size = torch.distributed.get_world_size() if in_use else 1
    if rank is None:
        rank = torch.distributed.get_rank() if in_use else 0
    number, count = whole_number("rank", rank), whole_number("world_size", world_size, least=0, most=2**31)
    if not 0 <= number < count:
        raise GeometryError(
            f"rank is {number}, but world_size is {count}: it must be at least 0 and less than world_size"
        )
    return number, count
