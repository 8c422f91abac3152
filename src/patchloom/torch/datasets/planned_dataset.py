"""What all datasets of Patchloom share: from keys to specifications to patches, whole batches at a time."""

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
"""Gets a patch, a `Patch` or `PatchPair` of tensors `C(Z)YX` that it may change in place, and returns one or the other. Random
numbers are to be taken from the generator, which is the same for the same (seed, epoch, index)."""


_MAX_REMEMBERED = 4096
"""Number of patches by which a second epoch is recognized."""


@runtime_checkable
class ReadsBatches(Protocol):
    """A dataset that reads a whole batch in one call."""

    def __len__(self) -> int:
        """Count the patches of an epoch."""

    def read_batches(self, keys: PatchKeys, batch_size: int, allocate: Allocate) -> Iterator[Any]:
        """Read batches one after the other, each when it is asked for, and as `collate` would make it.

        Parameters
        ----------
        keys : PatchKeys
            Which patches, of one epoch. Where they lie is worked out for all of them at once, which takes a fraction of the
            time; so there may be thousands.
        batch_size : int
            Patches of a batch; the last one has what is left.
        allocate : callable
            Makes the tensors that the batches are written to.
        """


class PlannedRun(NamedTuple):
    """Patches of one epoch, of one batch or of many."""

    epoch: int
    indices: NDArray[np.int64]
    table: SpecTable
    located: Any
    """What the dataset worked out for all of them together; see `PlannedDataset._locate`."""


class RepeatWatch:
    """Remembers which patches were asked for.

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
        """Return whether one of some patches was asked for before, and remember them.

        Parameters
        ----------
        indices : array of int64
            The patches.
        n_before : int
            Least number of patches that must have been asked for before.
        """
        numbers = indices.tolist()
        again = len(self._remembered) >= min(n_before, _MAX_REMEMBERED) and not self._remembered.isdisjoint(numbers)
        self._remembered.update(numbers[: _MAX_REMEMBERED - len(self._remembered)])
        return again


class PlannedDataset(torch.utils.data.Dataset[Any]):
    """A map-style dataset whose items are the patches of a plan.

    A dataset says how a batch of specifications becomes pixels (`_read`). Keys without an epoch, as the samplers of PyTorch give
    them, mean the epoch of the dataset. If they ask for a patch again that other epochs have elsewhere, or in another position, a
    warning says so, once. In a worker process, whose warnings nobody sees, such keys are refused (`ArgumentError`). `at_epoch`
    chooses the epoch, and then any keys will do.

    Parameters
    ----------
    patching : Patching
        The plan.
    augmentation : FlipRot90, optional
        Which positions patches are put into.
    transform : callable, optional
        What becomes of each patch after that; see `Transform`.
    seed : int
        Of augmentation and transform. With it, they are a pure function of (seed, epoch, index).
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
        """Read some patches as a batch; its specifications are those given unless patches had to be replaced."""

    def _locate(self, table: SpecTable) -> Any:  # noqa: ARG002  # for those that override it
        """Work out for all patches together what `_read` would else have to for each batch."""
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
        # One may look at a patch as often as one likes, but not go through all of them twice.
        self._warn_of_repeats(self._repeats_of_single, keys, n_before=len(self))
        return self._patches(self._run(keys), slice(0, 1), new_tensor)[0]

    def __getitems__(self, keys: PatchKeys | Iterable[PatchKey | SupportsIndex]) -> Sequence[Any]:
        """Read many patches in one call, as `torch.utils.data.DataLoader` does for a batch."""
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
            # No name is given to a batch here: it would hold its memory while the next one is read.
            rows = slice(start, min(start + batch_size, len(keys.indices)))
            yield collate(self._patches(run, rows, allocate), allocate)

    def at_epoch(self, epoch: int) -> Self:
        """Give the same dataset at another epoch, for loaders that do not say the epoch in their keys."""
        dataset = copy.copy(self)
        dataset.epoch = checked_epoch(epoch)
        dataset._forget_repeats()  # noqa: SLF001  # of the same class; the epoch was chosen
        return dataset

    def _epochs_differ(self, indices: NDArray[np.int64]) -> bool:
        """Whether some patches lie elsewhere, or in another position, in another epoch."""
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
                f"every epoch has the same patches, those of epoch {self.epoch} of the plan: the sampler's keys have no epoch; "
                "use sampler=EpochSampler(dataset), which knows the epoch and the rank, or dataset.at_epoch(epoch) if one epoch "
                "is meant"
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
