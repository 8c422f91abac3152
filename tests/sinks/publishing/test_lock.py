import os
import subprocess
import sys
from contextlib import suppress

import numpy as np
import pytest

from patchloom.axes import AxesMap
from patchloom.errors import SinkError
from patchloom.sinks import NpySink, OutputLock
from patchloom.sinks.publishing import lock as output_lock

# Newer Pythons warn when a process with threads forks.
pytestmark = pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")

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


def test_a_second_process_is_refused_at_once_and_let_in_when_the_first_is_killed(tmp_path, holder):
    with pytest.raises(SinkError, match="another run is writing this output: wait for it"):
        OutputLock(tmp_path / "a.zarr")
    OutputLock(tmp_path / "b.zarr").release()
    holder.kill()
    holder.wait()
    assert (tmp_path / "a.zarr.lock").exists()  # the file stays and locks nobody out
    with OutputLock(tmp_path / "a.zarr"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_one_process_holds_a_lock_once(tmp_path):
    lock = OutputLock(tmp_path / "a.zarr")
    with pytest.raises(SinkError, match="another run"):
        OutputLock(tmp_path / "x" / ".." / "a.zarr")
    lock.release()
    lock.release()
    OutputLock(tmp_path / "a.zarr").release()


def test_a_lock_that_is_forgotten_is_let_go_of(tmp_path):
    lock = OutputLock(tmp_path / "a.zarr")
    del lock
    OutputLock(tmp_path / "a.zarr").release()


@pytest.mark.skipif(os.name == "nt", reason="an open file cannot be removed there")
def test_a_lock_file_that_was_removed_by_its_last_holder_locks_nothing(tmp_path, monkeypatch):
    """As when the holder lets go between another's opening of the file and locking it."""
    first, lock = OutputLock(tmp_path / "a.zarr"), output_lock._lock
    attempts = []

    def release_then_lock(file):
        attempts.append(file)
        first.release()
        lock(file)

    monkeypatch.setattr(output_lock, "_lock", release_then_lock)
    second = OutputLock(tmp_path / "a.zarr")
    monkeypatch.undo()
    assert len(attempts) == 2
    with pytest.raises(SinkError, match="another run"):
        OutputLock(tmp_path / "a.zarr")
    second.release()


def test_a_place_that_cannot_be_locked_is_named(tmp_path, monkeypatch):
    with pytest.raises(SinkError, match="missing does not exist: make it first"):
        OutputLock(tmp_path / "missing" / "a.zarr")
    (tmp_path / "a.zarr.lock").mkdir()
    with pytest.raises(SinkError, match=r"cannot make .*a\.zarr\.lock"):
        OutputLock(tmp_path / "a.zarr")

    def no_locks(file):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(output_lock, "_lock", no_locks)
    with pytest.raises(SinkError, match=r"cannot lock .*: Operation not supported: write to another disk"):
        OutputLock(tmp_path / "b.zarr")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing forks there")
@pytest.mark.parametrize("how", ["released", "forgotten", "left by an exception", "aborted sink"])
def test_a_forked_child_does_not_take_the_lock_away_from_its_parent(tmp_path, how):
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


@pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing forks there")
def test_a_lock_ends_with_its_holder_though_a_forked_child_lives_on(tmp_path):
    lock = OutputLock(tmp_path / "a.zarr")
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.read(reading, 1)  # until the parent says so
        os._exit(0)
    lock.release()
    OutputLock(tmp_path / "a.zarr").release()
    os.write(writing, b"x")
    os.waitpid(child, 0)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing forks there")
def test_a_sink_is_not_written_to_by_a_forked_child(tmp_path):
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
