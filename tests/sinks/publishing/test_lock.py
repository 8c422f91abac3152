"""One writer for each output, across processes, threads and forks."""

import errno
import os
import subprocess
import sys
from contextlib import suppress
from threading import Thread

import numpy as np
import pytest

from patchloom.axes import AxesMap
from patchloom.errors import SinkError
from patchloom.sinks import NpySink, OutputLock

if os.name != "nt":
    import fcntl

# Newer Pythons warn when a process with threads forks.
pytestmark = pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="the system cannot fork")
needs_flock = pytest.mark.skipif(os.name == "nt", reason="the system has no flock")

HOLD = """
import sys, time
from patchloom.sinks import OutputLock
lock = OutputLock(sys.argv[1])
print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lock."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, tmp_path / "a.zarr"], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_killed_holder(tmp_path, holder):
    """A second process is refused, and admitted after the first is killed; the file that remains does not lock the output."""
    with pytest.raises(SinkError, match="another run is writing this output: wait for it"):
        OutputLock(tmp_path / "a.zarr")
    OutputLock(tmp_path / "b.zarr").release()
    holder.kill()
    holder.wait()
    assert (tmp_path / "a.zarr.lock").exists()
    with OutputLock(tmp_path / "a.zarr"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_one_process(tmp_path):
    """A process holds a lock once, by whichever path, and may release it twice."""
    lock = OutputLock(tmp_path / "a.zarr")
    with pytest.raises(SinkError, match="another run"):
        OutputLock(tmp_path / "x" / ".." / "a.zarr")
    lock.release()
    lock.release()
    OutputLock(tmp_path / "a.zarr").release()
    assert list(tmp_path.iterdir()) == []


def test_garbage_collection(tmp_path):
    """A lock without references is released."""
    lock = OutputLock(tmp_path / "a.zarr")
    del lock
    assert list(tmp_path.iterdir()) == []
    OutputLock(tmp_path / "a.zarr").release()


def test_end_of_process(tmp_path):
    """A process that ends without releasing its lock leaves no file behind."""
    script = "import sys; from patchloom.sinks import OutputLock; lock = OutputLock(sys.argv[1])"
    subprocess.run([sys.executable, "-c", script, tmp_path / "a.zarr"], check=True)
    assert list(tmp_path.iterdir()) == []


def test_release_by_another_thread(tmp_path):
    lock = OutputLock(tmp_path / "a.zarr")
    thread = Thread(target=lock.release)
    thread.start()
    thread.join()
    assert not lock.is_held
    OutputLock(tmp_path / "a.zarr").release()


@needs_flock
def test_removed_file(tmp_path, monkeypatch):
    """A lock on a file that its last holder removed in the meantime is not a lock on the output."""
    first, flock = OutputLock(tmp_path / "a.zarr"), fcntl.flock

    def release_then_lock(file, operation):
        monkeypatch.undo()
        first.release()
        flock(file, operation)

    monkeypatch.setattr(fcntl, "flock", release_then_lock)
    with pytest.raises(SinkError, match=r"cannot make .*a\.zarr\.lock: try again"):
        OutputLock(tmp_path / "a.zarr")
    with OutputLock(tmp_path / "a.zarr"), pytest.raises(SinkError, match="another run"):
        OutputLock(tmp_path / "a.zarr")
    assert list(tmp_path.iterdir()) == []


def test_missing_folder(tmp_path):
    with pytest.raises(SinkError, match="missing does not exist: make it first"):
        OutputLock(tmp_path / "missing" / "a.zarr")


@needs_flock
def test_file_that_cannot_be_locked(tmp_path, monkeypatch):
    """The message names the lock file and the reason, and no weaker kind of lock is used instead."""
    (tmp_path / "a.zarr.lock").mkdir()
    with pytest.raises(SinkError, match=r"cannot lock .*a\.zarr\.lock: Is a directory"):
        OutputLock(tmp_path / "a.zarr")
    for number in (errno.ENOTSUP, errno.ENOLCK, errno.ENOSYS):

        def no_locks(file, operation, number=number):
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(fcntl, "flock", no_locks)
        with pytest.raises(SinkError, match=rf"cannot lock .*: {os.strerror(number)}: write to another disk and copy"):
            OutputLock(tmp_path / "b.zarr")


@needs_fork
@pytest.mark.parametrize("how", ["released", "forgotten", "left by an exception", "aborted sink"])
def test_forked_child(tmp_path, how):
    """A forked child that drops its copy of a lock leaves the lock and its file to its parent."""
    sink = lock = None
    if how == "aborted sink":
        axes_map = AxesMap("YX", (8, 8))
        sink = NpySink(tmp_path / "a.npy", axes_map=axes_map, dtype="uint8")
    else:
        lock = OutputLock(tmp_path / "a.npy")
    child = os.fork()
    if child == 0:
        try:
            if how == "released":
                lock.release()
            elif how == "forgotten":
                del lock
            elif how == "aborted sink":
                sink.abort()
            else:
                with suppress(KeyError), lock:
                    raise KeyError
        finally:
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    with pytest.raises(SinkError, match="another run is writing"):
        OutputLock(tmp_path / "a.npy")
    if sink is not None:
        sink.write((slice(0, 1), slice(0, 1), slice(0, 8), slice(0, 8)), np.ones((1, 1, 8, 8), "uint8"))
        assert np.load(sink.finalize()).sum() == 64
    else:
        lock.release()
    assert [path.name for path in tmp_path.iterdir()] == ["a.npy"] * (sink is not None)


@needs_fork
def test_surviving_child(tmp_path):
    """A lock ends with its holder, also if a forked child lives on."""
    lock = OutputLock(tmp_path / "a.zarr")
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.read(reading, 1)  # until the parent writes
        os._exit(0)
    lock.release()
    OutputLock(tmp_path / "a.zarr").release()
    os.write(writing, b"x")
    os.waitpid(child, 0)


@needs_fork
def test_sink_in_a_forked_child(tmp_path):
    """A sink belongs to the process that opened it."""
    sink = NpySink(tmp_path / "a.npy", axes_map=AxesMap("YX", (8, 8)), dtype="uint8")
    child = os.fork()
    if child == 0:
        try:
            sink.finalize()
        except SinkError as error:
            os._exit(int("forked" in str(error)))
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1
    sink.abort()
