"""Batches that are ready when the network is."""

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
    """Prepares whole batches in one background thread; stands where a `torch.utils.data.DataLoader` is iterated.

    There are no worker processes: a batch is one call, in which the storage reads and decodes on threads of its own. The memory
    of a batch is used again once nothing refers to it. Any thread may close the loader; a forked child cannot go on with an
    iteration of its parent (`ForkedProcessError`), but may begin one.

    Parameters
    ----------
    dataset : PatchDataset or other ReadsBatches
        What to load. For any other dataset, and for transforms that need several processors, use a `DataLoader`.
    batch_size : int
        Patches of a batch.
    sampler : iterable of PatchKey or int, optional
        An `EpochSampler`, a `LocalitySampler`, or any that `DataLoader` takes. Each iteration is one epoch.
    shuffle : bool
        Which `EpochSampler` to make where no sampler is given.
    drop_last : bool
        Whether to leave out a last batch that is smaller.
    prefetch : int
        How many batches at most are ready or in preparation.
    pin_memory : bool
        Whether batches are page-locked, so that `tensor.to(device, non_blocking=True)` copies while the network computes.
        Without an accelerator this does nothing.

    Raises
    ------
    GeometryError
        If the dataset does not read batches, an argument is not at least 1, or an epoch would be empty.

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
    """Batches are made of the sampler's keys: what a `DataLoader` says by this too, to those who ask."""

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
                f"dataset is {shown(dataset)}: a {type(dataset).__name__} does not read whole batches, as PatchDataset does: use a "
                "torch.utils.data.DataLoader for it"
            )
        if sampler is not None and not (hasattr(sampler, "__iter__") and hasattr(sampler, "__len__")):
            raise ArgumentTypeError(
                f"sampler is {shown(sampler)}: it must be an iterable with a length, as an EpochSampler"
            )
        if sampler is not None and shuffle:
            raise GeometryError("shuffle is True and there is a sampler, which says the order: give one of them")
        self.dataset = dataset
        self.batch_size, self._prefetch = (
            whole_number(name, value, least=1) for name, value in (("batch_size", batch_size), ("prefetch", prefetch))
        )
        self.sampler = EpochSampler(dataset, shuffle=shuffle) if sampler is None else sampler
        self.drop_last = drop_last
        self.pin_memory = pin_memory
        if not len(self):
            raise GeometryError(
                f"an epoch has {len(self.sampler)} patches for batches of {self.batch_size}, and the last one is "  # type: ignore[arg-type]
                "dropped: it would be empty; take smaller batches"
            )
        self._memory = RecycledMemory(keep=self._prefetch + 2)
        self._running: weakref.WeakSet[_Epoch] = weakref.WeakSet()
        self._used = 0

    def __len__(self) -> int:
        n_patches = len(self.sampler)  # type: ignore[arg-type]  # as in a DataLoader: without a length of its own there is none
        return n_patches // self.batch_size if self.drop_last else -(-n_patches // self.batch_size)

    def __iter__(self) -> Iterator[Any]:
        epoch = _Epoch(self)
        self._running.add(epoch)
        return epoch

    def _begin(self) -> BackgroundIterator[Any]:
        """Begin an epoch."""
        allocate = pinned_tensor if self.pin_memory and torch.cuda.is_available() else self._memory
        runs = self._key_runs()
        self._used = self.sampler.state_dict()["position"] if isinstance(self.sampler, KeepsState) else 0
        batches = itertools.chain.from_iterable(
            self.dataset.read_batches(keys, self.batch_size, allocate) for keys in runs
        )
        return BackgroundIterator(batches, self._prefetch)

    def close(self) -> None:
        """Stop what is being prepared and wait for the thread, if there is one. The loader may be iterated again."""
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
        """Say which patches have been given out, whatever has been prepared beyond them.

        Raises
        ------
        GeometryError
            If the sampler keeps no state.
        """
        return {"sampler": self._stateful_sampler().state_dict(self._used)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Let the next iteration go on where a state was taken.

        Raises
        ------
        GeometryError
            If the sampler keeps no state, or it is that of another sampler, or of no loader.
        """
        check_state(state, ["sampler"], "PatchLoader.state_dict")
        self._stateful_sampler().load_state_dict(state["sampler"])

    def _stateful_sampler(self) -> KeepsState:
        if not isinstance(self.sampler, KeepsState):
            raise GeometryError(f"a {type(self.sampler).__name__} keeps no state: use an EpochSampler")
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
        """Count patches given out; all of them where there are no more, also if the last few were dropped."""
        self._used = len(self.sampler) if n_patches is None else self._used + n_patches  # type: ignore[arg-type]  # see __len__


class _Epoch(Iterator[Any]):
    """One iteration over a loader, which begins when the first batch is asked for: a sampler may be told the epoch before."""

    def __init__(self, loader: PatchLoader) -> None:
        self._loader = loader
        self._batches: BackgroundIterator[Any] | None = None
        self._is_over = False

    def __next__(self) -> Any:
        if self._is_over:
            raise StopIteration
        if self._batches is None:
            self._batches = self._loader._begin()  # noqa: SLF001  # a part of the loader
            if self._is_over:  # closed by another thread meanwhile, which may not have seen what was begun
                self._batches.close()
        batch = next(self._batches, None)
        if batch is not None:
            self._loader._count_used(len(batch[0]))  # noqa: SLF001
            return batch
        if not self._is_over:  # or it was closed by another thread, and the rest was not used
            self._is_over = True
            self._loader._count_used(None)  # noqa: SLF001
        raise StopIteration

    def close(self) -> None:
        self._is_over = True
        if self._batches is not None:
            self._batches.close()
