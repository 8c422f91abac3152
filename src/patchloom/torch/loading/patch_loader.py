"""The loader: it prepares batches in a background thread while the network computes."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Iterable, Iterator, Mapping
from types import TracebackType
from typing import Any, Self

import torch

from patchloom.argument_checks import flag, shown
from patchloom.errors import ArgumentTypeError, GeometryError
from patchloom.geometry.checks import whole_number
from patchloom.torch.datasets.planned_dataset import ReadsBatches
from patchloom.torch.loading.background_iterator import BackgroundIterator
from patchloom.torch.loading.epoch_sampler import EpochSampler, KeepsState, YieldsRuns, check_state
from patchloom.torch.loading.patch_keys import PatchKeys
from patchloom.torch.tensor_memory import RecycledMemory, pinned_tensor


class PatchLoader(Iterable[Any]):
    """Loads whole batches in one background thread; it is iterated like a `torch.utils.data.DataLoader`.

    Worker processes are not needed: a batch is read in one call, in which the storage reads and decodes in its own threads. The
    memory of a batch is reused once no object refers to it. Any thread may close the loader. A forked process cannot continue an
    iteration of its parent (`ForkedProcessError`), but can start one.

    Parameters
    ----------
    dataset : PatchDataset or other ReadsBatches
        The dataset. For other datasets, and for transforms that need several processors, use a `DataLoader`.
    batch_size : int, default 1
        Number of patches of a batch.
    sampler : iterable of PatchKey or int, optional
        An `EpochSampler`, a `LocalitySampler`, or any sampler for a `DataLoader`. Each iteration is one epoch. If None, an
        `EpochSampler`.
    shuffle : bool, default False
        Whether that `EpochSampler` shuffles.
    drop_last : bool, default False
        Whether a smaller last batch is dropped.
    prefetch : int, default 2
        Maximum number of batches that are ready or in preparation.
    pin_memory : bool, default False
        Whether batches are in page-locked memory, so that `tensor.to(device, non_blocking=True)` copies while the network
        computes. Ignored without an accelerator.

    Raises
    ------
    GeometryError
        If the dataset does not read batches, a number is less than 1, or an epoch would be empty.
    ArgumentTypeError
        If an argument has another type.

    Examples
    --------
    >>> import numpy as np
    >>> import patchloom as pl
    >>> from patchloom.torch import PatchDataset, PatchLoader, decollate
    >>> inputs = pl.open_stacks(np.random.default_rng(0).random((500, 700)), axes="YX")
    >>> dataset = PatchDataset(inputs, pl.RandomPatching([stack.data_shape for stack in inputs], (64, 64), seed=7))
    >>> with PatchLoader(dataset, batch_size=32, shuffle=True) as loader:
    ...     for epoch in range(2):
    ...         print([len(batch.input) for batch in loader], len(loader))
    [32, 32, 24] 3
    [32, 32, 24] 3
    >>> decollate(next(iter(loader)).specs)[0]["patch_size"]
    (64, 64)
    """

    batch_sampler = None
    """None, as in a `DataLoader` that forms batches of the sampler's keys."""

    def __init__(
        self,
        dataset: ReadsBatches,
        batch_size: int = 1,
        *,
        sampler: Iterable[Any] | None = None,
        shuffle: bool = False,
        drop_last: bool = False,
        prefetch: int = 2,
        pin_memory: bool = False,
    ) -> None:
        for name, value in (("shuffle", shuffle), ("drop_last", drop_last), ("pin_memory", pin_memory)):
            flag(name, value)
        if isinstance(dataset, type) or not isinstance(dataset, ReadsBatches):
            raise GeometryError(
                f"dataset is {shown(dataset)}: it must read whole batches, as a PatchDataset does; load others with a "
                "torch.utils.data.DataLoader"
            )
        if sampler is not None and not (hasattr(sampler, "__iter__") and hasattr(sampler, "__len__")):
            raise ArgumentTypeError(
                f"sampler is {shown(sampler)}: it must be an iterable with a length, as an EpochSampler"
            )
        if sampler is not None and shuffle:
            raise GeometryError(
                "shuffle is True, but a sampler is given, which determines the order: leave out one of them"
            )
        self.dataset = dataset
        self.batch_size, self._prefetch = (
            whole_number(name, value, least=1) for name, value in (("batch_size", batch_size), ("prefetch", prefetch))
        )
        self.sampler = EpochSampler(dataset, shuffle=shuffle) if sampler is None else sampler
        self.drop_last = drop_last
        self.pin_memory = pin_memory
        if not len(self):
            raise GeometryError(
                f"an epoch would be empty: the sampler has {len(self.sampler)} keys, "  # type: ignore[arg-type]
                f"batch_size is {self.batch_size} and drop_last is {drop_last}; use smaller batches, or a longer sampler"
            )
        self._memory = RecycledMemory(keep=self._prefetch + 2)
        self._running: weakref.WeakSet[_Epoch] = weakref.WeakSet()
        self._used = 0

    def __len__(self) -> int:
        n_patches = len(self.sampler)  # type: ignore[arg-type]  # as in a DataLoader, it fails if the sampler has no length
        return n_patches // self.batch_size if self.drop_last else -(-n_patches // self.batch_size)

    def __iter__(self) -> Iterator[Any]:
        epoch = _Epoch(self)
        self._running.add(epoch)
        return epoch

    def _begin(self) -> BackgroundIterator[Any]:
        """Start an epoch."""
        allocate = pinned_tensor if self.pin_memory and torch.cuda.is_available() else self._memory
        runs = self._key_runs()
        self._used = self.sampler.state_dict()["position"] if isinstance(self.sampler, KeepsState) else 0
        batches = itertools.chain.from_iterable(
            self.dataset.read_batches(keys, self.batch_size, allocate) for keys in runs
        )
        return BackgroundIterator(batches, self._prefetch)

    def close(self) -> None:
        """Stop loading, wait for the thread, and release the memory. The loader can be iterated again."""
        for epoch in list(self._running):
            epoch.close()
        self._memory.forget()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def state_dict(self) -> dict[str, Any]:
        """Return the position in the epoch: the patches of all batches that were iterated over.

        Returns
        -------
        dict
            Plain values, for a checkpoint and `load_state_dict`.

        Raises
        ------
        GeometryError
            If the sampler has no state.
        """
        return {"sampler": self._stateful_sampler().state_dict(self._used)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume the next iteration where a state was saved.

        Parameters
        ----------
        state : mapping
            From `state_dict`, of a loader with the same sampler.

        Raises
        ------
        GeometryError
            If the sampler has no state, or the state is of another sampler or not of a loader.
        """
        check_state(state, ["sampler"], "PatchLoader.state_dict")
        self._stateful_sampler().load_state_dict(state["sampler"])

    def _stateful_sampler(self) -> KeepsState:
        if not isinstance(self.sampler, KeepsState):
            raise GeometryError(
                f"sampler is a {type(self.sampler).__name__}, which has no state_dict: use an EpochSampler"
            )
        return self.sampler

    def _key_runs(self) -> Iterator[PatchKeys]:
        if isinstance(self.sampler, YieldsRuns):
            return self.sampler.key_runs(self.batch_size, drop_last=self.drop_last)
        return self._grouped(iter(self.sampler))

    def _grouped(self, keys: Iterator[Any]) -> Iterator[PatchKeys]:
        while batch := list(itertools.islice(keys, self.batch_size)):
            if len(batch) == self.batch_size or not self.drop_last:
                yield PatchKeys.of(batch)

    def _count_used(self, n_patches: int | None) -> None:
        """Count the patches of a batch, or all of the epoch if `n_patches` is None, dropped ones included."""
        self._used = len(self.sampler) if n_patches is None else self._used + n_patches  # type: ignore[arg-type]  # see __len__


class _Epoch(Iterator[Any]):
    """One iteration over a loader. It starts with the first batch, so that `set_epoch` may be called after `iter`."""

    def __init__(self, loader: PatchLoader) -> None:
        self._loader = loader
        self._batches: BackgroundIterator[Any] | None = None
        self._is_over = False

    def __next__(self) -> Any:
        if self._is_over:
            raise StopIteration
        if self._batches is None:
            self._batches = self._loader._begin()  # noqa: SLF001  # a part of the loader
            if self._is_over:  # closed by another thread, which may not have seen the new iterator
                self._batches.close()
        batch = next(self._batches, None)
        if batch is not None:
            self._loader._count_used(len(batch[0]))  # noqa: SLF001
            return batch
        if not self._is_over:  # if it was closed by another thread, the rest was not used
            self._is_over = True
            self._loader._count_used(None)  # noqa: SLF001
        raise StopIteration

    def close(self) -> None:
        self._is_over = True
        if self._batches is not None:
            self._batches.close()
