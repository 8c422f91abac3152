"""An iteration in the background ends cleanly, whoever closes it, from whichever thread or process."""

from __future__ import annotations

import gc
import itertools
import os
import select
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Iterator

import pytest

from patchloom.torch import EpochSampler, PatchLoader, decollate
from patchloom.torch.loading.background_iterator import BackgroundIterator

PATIENCE = 60
"""Seconds after which something counts as hanging; what works takes milliseconds."""

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")


def started(work: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def has_ended(thread: threading.Thread) -> bool:
    thread.join(PATIENCE)
    return not thread.is_alive()


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "patchloom-loader"]


def gated(gate: threading.Event, entered: threading.Event) -> Iterator[int]:
    yield 0
    entered.set()
    gate.wait(PATIENCE)
    yield from itertools.count(1)


def test_close_while_waiting():
    """A thread that waits for an item stops when another thread closes."""
    gate, entered = threading.Event(), threading.Event()
    items = BackgroundIterator(gated(gate, entered), ahead=2)
    given = []
    consumer = started(lambda: given.extend(items))
    assert entered.wait(PATIENCE)
    closer = started(items.close)
    gate.set()
    assert has_ended(closer)
    assert has_ended(consumer)
    assert given == list(range(len(given)))
    assert not threads()


def test_close_loader(dataset, monkeypatch):
    """A loader closed by another thread has the state of the batches that were used."""
    gate, entered, read = threading.Event(), threading.Event(), dataset._read
    calls = itertools.count()

    def slow(*arguments):
        if next(calls) == 2:
            entered.set()
            gate.wait(PATIENCE)
        return read(*arguments)

    monkeypatch.setattr(dataset, "_read", slow)
    loader = PatchLoader(dataset, 4, sampler=EpochSampler(dataset, seed=1))
    used = []
    consumer = started(lambda: used.extend(len(batch.input) for batch in loader))
    assert entered.wait(PATIENCE)
    closer = started(loader.close)
    gate.set()
    assert has_ended(closer)
    assert has_ended(consumer)
    assert loader.state_dict()["sampler"]["position"] == sum(used) < len(dataset)
    assert len(list(PatchLoader(dataset, 4))) == 6


@pytest.mark.parametrize("n_threads", [2, 5])
def test_shared_iteration(n_threads):
    """Threads that share an iteration get each item once, and all end."""
    items = BackgroundIterator(iter(range(500)), ahead=3)
    given: list[list[int]] = [[] for _ in range(n_threads)]
    assert all(map(has_ended, [started(lambda mine=mine: mine.extend(items)) for mine in given]))
    assert sorted(itertools.chain(*given)) == list(range(500))
    assert not threads()


def test_shared_error():
    """An error ends all threads that share an iteration."""

    def failing() -> Iterator[int]:
        yield 0
        raise ArithmeticError("boom")

    items = BackgroundIterator(failing(), ahead=1)
    errors: list[str] = []

    def consume() -> None:
        try:
            list(items)
        except ArithmeticError as error:
            errors.append(str(error))

    assert all(map(has_ended, [started(consume) for _ in range(3)]))
    assert errors == ["boom"]


def test_concurrent_close(dataset):
    """Several threads can close at once."""
    for _ in range(8):
        loader = PatchLoader(dataset, 1)
        consumers = [started(lambda loader=loader: list(loader)) for _ in range(2)]
        closers = [started(loader.close) for _ in range(3)]
        assert all(map(has_ended, [*consumers, *closers]))
        loader.close()
        gc.collect()
        assert not threads()


def test_references():
    """The iterator is released with its consumer."""

    class Item:
        pass

    held = weakref.WeakSet()

    def items() -> Iterator[Item]:
        for _ in range(3):
            item = Item()
            held.add(item)
            yield item

    preparation = BackgroundIterator(items(), ahead=2)
    next(preparation)
    preparation.close()
    del preparation
    gc.collect()
    assert not held


def in_child(work: Callable[[], object]) -> str:
    """Run a function in a forked child; what it returns, or its error, as text. A child that hangs is killed."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            said = str(work())
        except BaseException as error:
            said = f"{type(error).__name__}: {error}"
        os.write(writing, said.encode()[:4000])
        os._exit(0)
    os.close(writing)
    try:
        if not select.select([reading], [], [], PATIENCE)[0]:
            return "hangs"
        return os.read(reading, 4000).decode()
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(reading)


@needs_fork
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_fork(dataset):
    """A forked process cannot continue an iteration of its parent, but can start one."""
    undisturbed, loader = PatchLoader(dataset, 4), PatchLoader(dataset, 4)
    expected, following = ([decollate(batch.specs) for batch in undisturbed] for _ in range(2))
    epoch = iter(loader)
    first = next(epoch)

    assert in_child(lambda: next(epoch)).startswith(
        "ForkedProcessError: this iteration was started before the process was forked"
    )
    assert in_child(lambda: list(itertools.islice(epoch, 3))).startswith("ForkedProcessError")
    assert in_child(loader.close) == "None"
    assert in_child(epoch.close) == "None"
    assert in_child(lambda: (loader.close(), [decollate(batch.specs) for batch in loader] == following)[1]) == "True"

    rest = list(epoch)
    assert [decollate(batch.specs) for batch in (first, *rest)] == expected, "the parent goes on"


SCRIPT = """
import os, sys, threading, time
import numpy as np
import patchloom as pl
from patchloom.torch import PatchDataset, PatchLoader

stack = pl.ArrayStack(np.zeros((64, 64), "f4"), "YX")
dataset = PatchDataset([stack], pl.RandomPatching([(1, 1, 64, 64)], (8, 8), seed=1, n_patches=100_000))

def begin():
    epoch = iter(PatchLoader(dataset, 4))
    next(epoch)
    return epoch

def wait_for(child, how):
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code:
        sys.exit(f"{how} ended with {code}")

for how in ("at its end", "by an exception", "in a thread") if hasattr(os, "fork") else ():
    child = os.fork()
    if not child:
        epoch = begin()
        if how == "in a thread":
            threading.Thread(target=lambda: list(epoch), daemon=True).start()
            time.sleep(0.05)
        if how == "by an exception":
            raise SystemExit(0)
        break
    wait_for(child, how)
else:
    epoch = begin()
    child = os.fork() if hasattr(os, "fork") else 0
    if child:
        wait_for(child, "in a child that has the iteration of its parent")
"""


def test_exit_in_mid_epoch():
    """The interpreter can exit in mid-epoch."""
    done = subprocess.run([sys.executable, "-c", SCRIPT], check=False, capture_output=True, text=True, timeout=PATIENCE)
    assert (done.returncode, done.stderr) == (0, "")


def test_close_before_start(dataset):
    """An iteration that was not started can be closed."""
    epoch = iter(PatchLoader(dataset, 4))
    epoch.close()
    assert list(epoch) == []
    assert not threads()
