"""Batches → predictions: by one model in the main thread, or dealt out to replicas on several devices, each in its own thread."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from numpy.typing import NDArray

from patchloom.prediction.models.model import Model
from patchloom.prediction.planning.memory import read_ahead
from patchloom.prediction.planning.plan import Plan
from patchloom.prediction.running.batch_reads import BatchMemory, BatchRead
from patchloom.prediction.running.model_on_device import ModelOnDevice, PredictedBatch

_BATCHES_EACH = 2
"""Batches that a replica has at the same time, so that it is not idle while the result of one is stitched."""

Predicting = Callable[[], PredictedBatch]
"""Returns the predictions of a batch, or raises the error of its model."""


class ModelTeam:
    """The replicas of a model, to which batches are dealt out in turn; a model on one device is a team of one.

    Parameters
    ----------
    plan : Plan
        The plan.
    replicas : sequence of callable
        The model, once for each device.
    """

    def __init__(self, plan: Plan, replicas: Sequence[Model]) -> None:
        self._members = [ModelOnDevice(plan, replica) for replica in replicas]
        n_members, ahead = len(replicas), read_ahead(plan.survey)
        if n_members > 1:
            at_once = ahead + 1 + _BATCHES_EACH * n_members
            self.n_slots = -(-at_once // n_members) * n_members
        else:
            self.n_slots = max(ahead + 1, 2 if self._members[0].works_ahead else 1)
        """Number of batches in memory; a multiple of the replicas, so that the memory of a slot belongs to one device."""

    @property
    def memory(self) -> BatchMemory | None:
        """What returns the array into which the batch of a slot is read; None if any array will do."""
        return self._array if any(member.works_ahead for member in self._members) else None

    def _array(self, slot: int, shape: tuple[int, ...], dtype: Any) -> NDArray[Any] | None:
        return self._member(slot).array(slot, shape, dtype)

    @contextmanager
    def working(self) -> Iterator[Callable[[Iterable[BatchRead]], Iterator[tuple[BatchRead, Predicting]]]]:
        """Return a function that deals batches out; threads end with the context."""
        with ExitStack() as threads:
            if len(self._members) == 1:
                yield self._one_by_one
                return
            submit = [threads.enter_context(background("model", drop=True)) for _ in self._members]
            yield partial(self._dealt, submit)

    def release(self, read: BatchRead) -> None:
        """Note that all work on a batch has been given to its device."""
        self._member(read.slot).release(read)

    def _member(self, slot: int) -> ModelOnDevice:
        return self._members[slot % len(self._members)]

    def _one_by_one(self, reads: Iterable[BatchRead]) -> Iterator[tuple[BatchRead, Predicting]]:
        for read in reads:
            yield read, partial(self._members[0].predict, read)

    def _dealt(
        self, submit: Sequence[Callable[..., Future[Any]]], reads: Iterable[BatchRead]
    ) -> Iterator[tuple[BatchRead, Predicting]]:
        """Yield batches in their order, while the replicas work on those after them."""
        pending: deque[tuple[BatchRead, Future[PredictedBatch]]] = deque()
        for read in reads:
            pending.append(
                (read, submit[read.slot % len(submit)](self._member(read.slot).predict_for_another_thread, read))
            )
            if len(pending) == _BATCHES_EACH * len(submit):
                first, future = pending.popleft()
                yield first, partial(_result, future)
        for first, future in pending:
            yield first, partial(_result, future)


def _result(future: Future[PredictedBatch]) -> PredictedBatch:
    return future.result().wait()


@contextmanager
def background(name: str, *, drop: bool) -> Iterator[Callable[..., Future[Any]]]:
    """Run calls one after the other in a thread, which ends with the context; `drop` cancels calls that have not begun."""
    executor = ThreadPoolExecutor(1, thread_name_prefix=f"patchloom-{name}")
    try:
        yield executor.submit
    finally:
        executor.shutdown(wait=True, cancel_futures=drop)
