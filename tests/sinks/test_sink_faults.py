"""What is left after a full disk, a killed process, an interrupt: never half an image."""

import os
import shutil
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr

from patchloom.axes import AxesMap
from patchloom.errors import SinkError
from patchloom.sinks import OmeZarrSink, open_sink
from patchloom.sinks.ome_zarr.zarr_array import in_flight

SINK = """
    import itertools, sys
    import numpy as np
    from patchloom.axes import AxesMap
    from patchloom.errors import SinkError
    from patchloom.sinks import open_sink

    def make_sink(shape, chunk, shard, **options):
        return open_sink(sys.argv[1], axes_map=AxesMap("ZYX"[-len(shape):], shape), dtype="uint16",
                           chunk_shape=(1, 1, *chunk), shard_shape=(1, 1, *shard), **options)
"""


def start(code, *arguments):
    """Run code in another process, with `make_sink` at hand."""
    script = textwrap.dedent(SINK) + textwrap.dedent(code)
    command = [sys.executable, "-W", "error", "-c", script, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def run(code, *arguments):
    process = start(code, *arguments)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    return output


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 1 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = shutil.which("mount")
    command = [mount, "-t", "tmpfs", "-o", "size=1m", "tmpfs", place]
    if mount is None or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting a disk takes root")
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)  # a test that failed may hold a file open


def random_sink(folder, shape):
    axes_map = AxesMap("YX", shape)
    image = np.random.default_rng(0).integers(0, 65536, axes_map.data_shape, dtype="uint16")
    sink = OmeZarrSink(
        folder / "a.zarr", axes_map=axes_map, dtype="uint16", chunk_shape=(1, 1, 128, 128), shard_shape=(1, 1, 256, 256)
    )
    return sink, image


def test_full_disk(small_disk):
    """The message names the full disk, and the block can be written again."""
    (small_disk / "ballast").write_bytes(bytes(700_000))
    sink, image = random_sink(small_disk, (400, 512))
    with pytest.raises(SinkError, match="No space left on device"):
        sink.write(sink.grid.whole, image)
    assert not (small_disk / "a.zarr").exists()
    (small_disk / "ballast").unlink()
    sink.write(sink.grid.whole, image)
    np.testing.assert_array_equal(zarr.open_group(sink.finalize(), mode="r")["0"][...], image[0, 0])


def test_full_disk_at_the_end(small_disk):
    """If the disk is full in `finalize`, no file is left."""
    sink, image = random_sink(small_disk, (512, 900))
    sink.write(sink.grid.whole, image)
    with pytest.raises(SinkError, match="No space left on device"):
        sink.finalize()
    sink.abort()
    assert list(small_disk.iterdir()) == []


def test_full_disk_at_the_start(small_disk):
    """If the disk is full at the start, no file is left."""
    with pytest.raises(OSError, match="No space"):
        (small_disk / "ballast").write_bytes(bytes(2_000_000))
    with pytest.raises(SinkError, match="No space left on device"):
        random_sink(small_disk, (512, 512))
    assert [entry.name for entry in small_disk.iterdir()] == ["ballast"]


def random_file_sink(path, shape):
    axes_map = AxesMap("YX", shape)
    image = np.random.default_rng(0).integers(0, 65536, axes_map.data_shape, dtype="uint16")
    return open_sink(path, axes_map=axes_map, dtype="uint16", chunk_shape=image.shape, shard_shape=image.shape), image


@pytest.mark.parametrize("name", ["a.ome.tif", "a.npy"])
def test_too_large_file(small_disk, name):
    """A file that is too large for the disk is refused at the start."""
    with pytest.raises(SinkError, match=r"takes \d+ bytes, but the disk has \d+ left: make room for it"):
        random_file_sink(small_disk / name, (1000, 1000))
    assert list(small_disk.iterdir()) == []


@pytest.mark.parametrize("name", ["a.ome.tif", "a.npy"])
def test_disk_filled_by_another_process(small_disk, name):
    """If another process fills the disk, the block can be written again."""
    sink, image = random_file_sink(small_disk / name, (512, 512))
    (small_disk / "ballast").write_bytes(bytes(700_000))
    whole = tuple(slice(0, size) for size in image.shape)
    with pytest.raises(SinkError, match="No space left on device"):
        sink.write(whole, image)
    (small_disk / "ballast").unlink()
    sink.write(whole, image)
    path = sink.finalize()
    np.testing.assert_array_equal(np.load(path) if name == "a.npy" else tifffile.imread(path), image[0, 0])


@pytest.mark.skipif(os.name == "nt", reason="files have no size limit there")
def test_file_size_limit(tmp_path):
    """A limit on the size of files is an error, and no file is left."""
    output = run(
        """
        import resource
        sink = make_sink((512, 512), (128, 128), (512, 512))
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        block = np.random.default_rng(0).integers(0, 65536, (1, 1, 512, 512), dtype="uint16")
        try:
            sink.write((slice(0, 1), slice(0, 1), slice(0, 512), slice(0, 512)), block)
        except SinkError as error:
            print(error)
            sink.abort()
        """,
        tmp_path / "a.zarr",
    )
    assert "File too large" in output
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="there is no such folder")
def test_unwritable_place():
    """A folder in which no file can be made is an error."""
    with pytest.raises(SinkError, match=r"/proc/a\.zarr: cannot make|cannot be written to"):
        random_sink(Path("/proc"), (64, 64))


WRITE_AND_TELL = """
    sink = make_sink((640, 640), (64, 64), (128, 128), overwrite=True)
    image = np.random.default_rng(int(sys.argv[2])).integers(1, 65536, (1, 1, 640, 640), dtype="uint16")
    for shard in sink.grid.shards(sink.grid.whole):
        sink.write(shard, image[shard])
        print("written", flush=True)
    sink.finalize()
    print("done", flush=True)
"""


@pytest.mark.parametrize("n_lines", [1, 25])
@pytest.mark.parametrize("replacing", [False, True])
def test_kill(tmp_path, n_lines, replacing):
    """A killed process does not change the destination."""
    path = tmp_path / "a.zarr"

    def stored():
        return np.asarray(zarr.open_group(path, mode="r")["0"][...])

    if replacing:
        run(WRITE_AND_TELL, path, 1)
        old = stored()
    process = start(WRITE_AND_TELL, path, 2)
    for _ in range(n_lines):
        assert process.stdout.readline() == "written\n"
    process.kill()
    process.communicate()
    if replacing:
        np.testing.assert_array_equal(stored(), old)
    else:
        assert not path.exists()
    assert (tmp_path / "a.zarr.partial").is_dir()
    with pytest.raises(SinkError, match=r"a run was interrupted here: resume it|exists already"):
        random_sink(tmp_path, (64, 64))


@pytest.mark.parametrize("delay", [0.0, 0.02, 0.05])
def test_kill_during_finalize(tmp_path, delay):
    """A process that is killed in `finalize` publishes the whole image or none."""
    path = tmp_path / "a.zarr"
    process = start(WRITE_AND_TELL, path, 3)
    for _ in range(25):
        process.stdout.readline()
    time.sleep(delay)
    process.kill()
    process.communicate()
    if path.exists():
        expected = np.random.default_rng(3).integers(1, 65536, (1, 1, 640, 640), dtype="uint16")
        group = zarr.open_group(path, mode="r")
        np.testing.assert_array_equal(group["0"][...], expected[0, 0])
        assert sorted(group.array_keys()) == ["0", "1", "2"]
        assert not (tmp_path / "a.zarr.partial").exists()
    else:
        assert (tmp_path / "a.zarr.partial").is_dir()


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak from /proc")
@pytest.mark.parametrize(("name", "limit"), [("a.zarr", 150), ("a.ome.tif", 60), ("a.npy", 60)])
def test_memory(tmp_path, name, limit):
    """An image of 256 MiB, in blocks of 8 MiB, through a sink that may also make a pyramid."""
    peak = int(
        run(
            """
            def peak():
                with open("/proc/self/status") as status:
                    return next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))

            sink = make_sink((128, 1024, 1024), (32, 128, 128), (64, 256, 256))
            block = np.tile(np.random.default_rng(0).integers(0, 4, (1, 1, 64, 256, 16), dtype="uint16"), 16)
            before = peak()
            for z, y, x in itertools.product((0, 64), range(0, 1024, 256), range(0, 1024, 256)):
                sink.write((slice(0, 1), slice(0, 1), slice(z, z + 64), slice(y, y + 256), slice(x, x + 256)), block)
            sink.finalize()
            print((peak() - before) // 1024)
            """,
            tmp_path / name,
        )
    )
    assert peak < limit, f"{peak} MiB more than at the start"


class FakeFuture:
    def __init__(self, number, log):
        self.number, self.log = number, log

    def result(self):
        if self.number == 3:
            raise ValueError("lost")
        self.log.append(self.number)
        return self.number

    def exception(self):
        self.log.append(self.number)


def test_in_flight():
    """A limited number of operations run at once, and none is running at the end."""
    log, started = [], []

    def begin(number):
        started.append(number)
        assert len(started) - len(log) <= 4
        return FakeFuture(number, log)

    with pytest.raises(ValueError, match="lost"):
        list(in_flight(begin, range(10), 4))
    assert sorted(log) == started == [0, 1, 2, 3, 4, 5, 6]
    log.clear(), started.clear()
    results = in_flight(begin, range(10), 4)
    assert next(results) == 0
    results.close()
    assert sorted(log) == started == [0, 1, 2, 3]
