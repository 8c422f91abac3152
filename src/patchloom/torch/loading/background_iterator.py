"""An iterator that runs in a thread, a few items ahead of whoever uses them."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Iterator
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

from patchloom.errors import ForkedProcessError

T = TypeVar("T")


class BackgroundIterator(Iterator[T], Generic[T]):
    """Gives the items of an iterator that runs in a thread of its own.

    The thread has ended when the items have, when `close` returns, when nobody holds this object any more, or at the end of
    the process, whichever comes first. Any thread may ask for items and close; whoever waits for an item then has it, or learns
    that there are no more. A forked child does not have the thread, and is refused.

    Parameters
    ----------
    items : iterator
        What to run; only the thread touches it from now on. An exception in it is raised where the next item is asked for.
    ahead : int
        How many items at most are ready or in preparation.

    Examples
    --------
    >>> list(BackgroundIterator(iter("abc"), ahead=2))
    ['a', 'b', 'c']
    """

    def __init__(self, items: Iterator[T], ahead: int) -> None:
        self._ready: SimpleQueue[_Item] = SimpleQueue()
        self._room = threading.Semaphore(ahead)
        self._stop = threading.Event()
        thread = threading.Thread(
            target=_prepare,
            args=(items, self._ready, self._room, self._stop),
            name="patchloom-loader",
            # The interpreter joins other threads before anybody could tell them to stop. This one is told, and joined, by
            # the finalizer, which runs at the end of the process as well.
            daemon=True,
        )
        self._process = os.getpid()
        self._end = weakref.finalize(self, _end, self._process, thread, self._room, self._stop)
        thread.start()

    def __next__(self) -> T:
        if os.getpid() != self._process:
            raise ForkedProcessError(
                "this iteration was begun in the process that this one was forked off, and its thread is there: begin another in "
                "this process"
            )
        if not self._end.alive:
            raise StopIteration
        item, error = self._ready.get()
        if error is None:
            self._room.release()
            return item  # type: ignore[no-any-return]  # the queue is untyped
        self._ready.put((None, StopIteration()))  # for other threads that wait
        self.close()
        raise error

    def close(self) -> None:
        """Stop, and wait until the thread has ended; what is being prepared is finished first. A forked child does nothing."""
        self._end()


_Item = tuple[Any, BaseException | None]


def _prepare(items: Iterator[Any], ready: SimpleQueue[_Item], room: threading.Semaphore, stop: threading.Event) -> None:
    try:
        while room.acquire() and not stop.is_set():
            ready.put((next(items), None))
    except BaseException as error:  # noqa: BLE001  # raised where the item is asked for
        ready.put((None, error))
    finally:
        ready.put((None, StopIteration()))


def _end(process: int, thread: threading.Thread, room: threading.Semaphore, stop: threading.Event) -> None:
    if os.getpid() != process:
        return  # the thread, and whoever held the locks, stayed in the parent
    stop.set()
    room.release()
    if thread is not threading.current_thread() and thread.ident is not None:
        thread.join()
