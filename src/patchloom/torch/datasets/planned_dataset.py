"""The base of all datasets: from keys to specifications to patches, in whole batches."""

from __future__ import annotations

import copy
import warnings
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol, Self, SupportsIndex, runtime_checkable

import numpy as np
import torch.utils.data
from numpy.typing import NDArray

from patchloom.argument_checks import function, instance, shown, whole_number
from patchloom.errors import ArgumentError, PatchIndexError, TransformError
from patchloom.patching import Patching
from patchloom.patching.counter_random import CounterRandom, Stream, checked_epoch, checked_seed
from patchloom.patching.flat_index import check_index
from patchloom.specs.patch_specs import PatchSpecs
from patchloom.specs.spec_table import SpecTable
from patchloom.torch.augmentation import FlipRot90
from patchloom.torch.collation import collate
from patchloom.torch.loading.patch_keys import PatchKey, PatchKeys
from patchloom.torch.patches import PatchBatch
from patchloom.torch.tensor_memory import Allocate, new_tensor

Transform = Callable[[Any, np.random.Generator], Any]
"""Is called with a `Patch` or `PatchPair` of tensors `C(Z)YX`, which it may change in place, and returns a `Patch` or `PatchPair`.
The generator is the same for the same (seed, epoch, index); other random numbers make patches differ between runs."""


_MAX_REMEMBERED = 4096
"""Number of patches by which a second epoch is recognized."""


@runtime_checkable
class ReadsBatches(Protocol):
    """A dataset that reads a whole batch in one call."""

    def __len__(self) -> int:
        """Return the number of patches of an epoch."""

    def read_batches(self, keys: PatchKeys, batch_size: int, allocate: Allocate) -> Iterator[Any]:
        """Read batches one after the other, each when it is requested.

        Parameters
        ----------
        keys : PatchKeys
            The patches, all of one epoch. Thousands are located together in a fraction of the time.
        batch_size : int
            Number of patches of a batch; the last batch may be smaller.
        allocate : callable
            Makes a tensor for a batch, given its shape and dtype.

        Yields
        ------
        Patch or PatchPair
            Batches, as `collate` returns them.
        """


class PlannedRun(NamedTuple):
    """Patches of one epoch, for one batch or many."""

    epoch: int
    indices: NDArray[np.int64]
    table: SpecTable
    located: Any
    """What `PlannedDataset._locate` returned for all of them."""


class RepeatWatch:
    """Recognizes the second epoch of keys that contain no epoch, by patches that are requested again.

    Examples
    --------
    >>> import numpy as np
    >>> watch = RepeatWatch()
    >>> watch.is_repeated(np.array([3, 1])), watch.is_repeated(np.array([2])), watch.is_repeated(np.array([0, 1]))
    (False, False, True)
    """

    def __init__(self) -> None:
        self._remembered: set[int] = set()

    def is_repeated(self, indices: NDArray[Any], n_before: int = 1) -> bool:
        """Return whether one of these patches was requested before, and remember them.

        Parameters
        ----------
        indices : array of int64
            Indices of the patches.
        n_before : int
            Number of other patches that must have been requested before.
        """
        numbers = indices.tolist()
        again = len(self._remembered) >= min(n_before, _MAX_REMEMBERED) and not self._remembered.isdisjoint(numbers)
        self._remembered.update(numbers[: _MAX_REMEMBERED - len(self._remembered)])
        return again


class PlannedDataset(torch.utils.data.Dataset[Any]):
    """A map-style dataset whose items are the patches of a plan.

    A subclass implements `_read`, which turns specifications into pixels.

    Keys without an epoch, as the samplers of PyTorch yield them, are of the epoch of the dataset. If such keys request a patch
    again that is different in other epochs, one warning is given. Warnings of a worker process are not shown, so there such keys
    are refused (`ArgumentError`). `at_epoch` chooses an epoch, for which all keys are accepted.

    Parameters
    ----------
    patching : Patching
        The places of the patches.
    augmentation : FlipRot90, optional
        Random flips and turns of each patch.
    transform : callable, optional
        Changes each patch after the augmentation; see `Transform`.
    seed : int, default 0
        Seed of augmentation and transform: both are a pure function of (seed, epoch, index).
    """

    def __init__(
        self,
        patching: Patching[PatchSpecs],
        *,
        augmentation: FlipRot90 | None = None,
        transform: Transform | None = None,
        seed: int = 0,
    ) -> None:
        self.patching = instance("patching", patching, Patching, "such as a RandomPatching")
        if augmentation is not None:
            instance("augmentation", augmentation, FlipRot90)
        if transform is not None:
            function("transform", transform)
        self.augmentation = augmentation
        self.transform = transform
        self.seed = checked_seed(seed)
        self.epoch = int(getattr(patching, "epoch", 0))
        self._latest: tuple[int, Patching[PatchSpecs]] = (self.epoch, patching)
        self._repeats_of_batches: RepeatWatch | None = RepeatWatch()
        self._repeats_of_single: RepeatWatch | None = RepeatWatch()

    @abstractmethod
    def _read(self, run: PlannedRun, rows: slice, allocate: Allocate) -> PatchBatch:
        """Read some patches as a batch. Its specifications are those of the run, unless patches were replaced."""

    def _locate(self, table: SpecTable) -> Any:  # noqa: ARG002  # subclasses need it
        """Compute for all patches at once what `_read` needs of them."""
        return None

    def __len__(self) -> int:
        return len(self.patching)

    def __getitem__(self, key: PatchKey | SupportsIndex) -> Any:
        """Read one patch, by its index in the dataset's own epoch or by a `PatchKey`."""
        if isinstance(key, tuple):
            if len(key) != len(PatchKey._fields):
                raise PatchIndexError(f"key is {shown(key)}: it must be an index, or an epoch and an index")
            return self.__getitems__([PatchKey(checked_epoch(key[0]), check_index(key[1], len(self)))])[0]
        keys = PatchKeys.of([check_index(key, len(self), from_end=True)])
        # Single patches may be inspected repeatedly; a second pass through all of them is an epoch.
        self._warn_of_repeats(self._repeats_of_single, keys, n_before=len(self))
        return self._patches(self._run(keys), slice(0, 1), new_tensor)[0]

    def __getitems__(self, keys: PatchKeys | Iterable[PatchKey | SupportsIndex]) -> Sequence[Any]:
        """Read many patches in one call, as `torch.utils.data.DataLoader` requests a batch."""
        chosen = PatchKeys.of(keys)
        if not len(chosen.indices):
            return []
        patches = self._patches(self._run(chosen), slice(0, len(chosen.indices)), new_tensor)
        self._warn_of_repeats(self._repeats_of_batches, chosen)
        return patches

    def read_batches(self, keys: PatchKeys, batch_size: int, allocate: Allocate = new_tensor) -> Iterator[Any]:
        """Read batches; see `ReadsBatches.read_batches`."""
        instance("keys", keys, PatchKeys)
        whole_number("batch_size", batch_size, least=1)
        function("allocate", allocate)
        run = self._run(keys)
        self._warn_of_repeats(self._repeats_of_batches, keys)
        for start in range(0, len(keys.indices), batch_size):
            # A batch bound to a name here would keep its memory while the next one is read.
            rows = slice(start, min(start + batch_size, len(keys.indices)))
            yield collate(self._patches(run, rows, allocate), allocate)

    def at_epoch(self, epoch: int) -> Self:
        """Return a copy of the dataset at an epoch, for samplers whose keys contain no epoch.

        Parameters
        ----------
        epoch : int
            From 0 to 2³² - 1.

        Raises
        ------
        GeometryError
            If it is out of this range.
        """
        dataset = copy.copy(self)
        dataset.epoch = checked_epoch(epoch)
        dataset._forget_repeats()  # noqa: SLF001  # of the same class
        return dataset

    def _epochs_differ(self, indices: NDArray[np.int64]) -> bool:
        """Return whether some patches have another place or position in another epoch."""
        if self.augmentation is not None:
            return True
        other = self.epoch + 1 if self.epoch == 0 else self.epoch - 1
        return bool(self._plan(self.epoch).specs(indices) != self.patching.at_epoch(other).specs(indices))

    def _forget_repeats(self) -> None:
        self._repeats_of_batches = self._repeats_of_single = None

    def _warn_of_repeats(self, watch: RepeatWatch | None, keys: PatchKeys, n_before: int = 1) -> None:
        if keys.epoch is not None or watch is None:
            return
        is_worker = torch.utils.data.get_worker_info() is not None
        if not is_worker and not watch.is_repeated(keys.indices, n_before):
            return
        self._forget_repeats()
        if self._epochs_differ(keys.indices):
            message = (
                f"every epoch has the same patches, those of epoch {self.epoch} of the plan, as the sampler's keys contain no "
                "epoch: use sampler=EpochSampler(dataset), which handles epochs and ranks, or dataset.at_epoch(epoch) if one "
                "epoch is intended"
            )
            if is_worker:
                raise ArgumentError(message)
            warnings.warn(message, UserWarning, stacklevel=3)

    def _plan(self, epoch: int) -> Patching[PatchSpecs]:
        of_epoch, plan = self._latest
        if of_epoch != epoch:
            plan = self.patching.at_epoch(epoch)
            self._latest = (epoch, plan)
        return plan

    def _random(self, stream: Stream, epoch: int) -> CounterRandom:
        return CounterRandom(self.seed, epoch, stream)

    def _run(self, keys: PatchKeys) -> PlannedRun:
        epoch = self.epoch if keys.epoch is None else checked_epoch(keys.epoch)
        table = self._plan(epoch).specs(keys.indices)
        return PlannedRun(epoch, keys.indices, table, self._locate(table))

    def _patches(self, run: PlannedRun, rows: slice, allocate: Allocate) -> Sequence[Any]:
        batch = self._read(run, rows, allocate)
        epoch, indices = run.epoch, run.indices[rows]
        if self.augmentation is not None:
            size = batch.table.columns["patch_size"][0].tolist()
            positions = self.augmentation.draw(self._random(Stream.POSITION, epoch), indices, size)
            for tensor in batch.pixels:
                self.augmentation.put(tensor.numpy(), positions)
        if self.transform is None:
            return batch
        generators = (self._generator(epoch, index) for index in indices.tolist())
        return [_transformed(self.transform, patch, random) for patch, random in zip(batch, generators, strict=True)]

    def _generator(self, epoch: int, index: int) -> np.random.Generator:
        return np.random.Generator(
            np.random.Philox(key=[self.seed, epoch | int(Stream.TRANSFORM) << 32], counter=[0, index, 0, 0])
        )


def _transformed(transform: Transform, patch: Any, random: np.random.Generator) -> Any:
    try:
        changed = transform(patch, random)
    except Exception as error:
        raise TransformError(f"the transform failed for {patch.specs}: {type(error).__name__}: {error}") from error
    if "specs" not in getattr(changed, "_fields", ()):
        raise TransformError(
            f"the transform returned a {type(changed).__name__} for {patch.specs}: it must return a Patch or PatchPair, such "
            "as patch._replace(input=...)"
        )
    return changed
