"""An iterator that runs in a background thread, a few items ahead of its consumer."""

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
    """Runs an iterator in a background thread and yields its items.

    The thread ends when the items are used up, when this object is closed or deleted, or at the end of the process. Any thread may
    request items and close: a thread that waits for an item gets it, or `StopIteration`. In a forked process, where the background
    thread does not exist, requests raise `ForkedProcessError`.

    Parameters
    ----------
    items : iterator
        The iterator to run; only the background thread uses it from now on. Its exceptions are raised where the next item is
        requested.
    ahead : int
        Maximum number of items that are ready or in preparation.

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
            # The interpreter joins non-daemon threads before it runs finalizers. The finalizer stops and joins this thread, also
            # at the end of the process.
            daemon=True,
        )
        self._process = os.getpid()
        self._end = weakref.finalize(self, _end, self._process, thread, self._room, self._stop)
        thread.start()

    def __next__(self) -> T:
        if os.getpid() != self._process:
            raise ForkedProcessError(
                "this iteration was started before the process was forked, and its thread stayed in the parent: start another "
                "iteration in this process"
            )
        if not self._end.alive:
            raise StopIteration
        item, error = self._ready.get()
        if error is None:
            self._room.release()
            return item  # type: ignore[no-any-return]  # the queue is untyped
        self._ready.put((None, StopIteration()))  # for other threads that are waiting
        self.close()
        raise error

    def close(self) -> None:
        """Stop after the item in preparation, and wait for the thread. In a forked process, do nothing."""
        self._end()


_Item = tuple[Any, BaseException | None]


def _prepare(items: Iterator[Any], ready: SimpleQueue[_Item], room: threading.Semaphore, stop: threading.Event) -> None:
    try:
        while room.acquire() and not stop.is_set():
            ready.put((next(items), None))
    except BaseException as error:  # noqa: BLE001  # raised where the item is requested
        ready.put((None, error))
    finally:
        ready.put((None, StopIteration()))


def _end(process: int, thread: threading.Thread, room: threading.Semaphore, stop: threading.Event) -> None:
    if os.getpid() != process:
        return  # the thread, and the holders of locks, stayed in the parent
    stop.set()
    room.release()
    if thread is not threading.current_thread() and thread.ident is not None:
        thread.join()
