"""Archives of arrays: sound ones are read, and archives that are damaged or would fill the memory are refused."""

import io
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest

from patchloom.array_archive import read_arrays


def written(path, *members, method=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return path


def npy(shape, dtype="<f8", pixels=b"", order=False):
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": dtype, "fortran_order": order, "shape": shape})
    return file.getvalue() + pixels


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_round_trip(tmp_path, rng, save):
    """Arrays that NumPy saved are read with the same values and dtypes, read-only."""
    arrays = {
        "a": rng.random((3, 4)),
        "b": np.asfortranarray(rng.integers(0, 9, (4, 5))),
        "c": np.array("text"),
        "d": np.zeros((0, 2)),
        "e": np.array(5, ">i2"),
    }
    save(tmp_path / "a.npz", **arrays)
    found = read_arrays(tmp_path / "a.npz")
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == array.dtype
        assert not found[name].flags.writeable


MEMBERS = {
    "huge": npy((10**15,)),
    "overflowing": npy((2**32, 2**32)),
    "negative": npy((-1, -8), pixels=bytes(64)),
    "cut off": npy((10,), pixels=bytes(79)),
    "too long": npy((10,), pixels=bytes(81)),
    "objects": npy((1,), "|O", bytes(8)),
    "no array": b"x",
    "nothing": b"",
    "deep": b"\x93NUMPY\x01\0" + struct.pack("<H", 9000) + b"(" * 9000,
    "version 9": b"\x93NUMPY\x09\0" + bytes(100),
}


@pytest.mark.parametrize("member", MEMBERS.values(), ids=MEMBERS)
def test_damaged_members(tmp_path, member):
    """A member that is not an array is refused."""
    with pytest.raises(ValueError, match="it is not an archive of arrays, or is damaged"):
        read_arrays(written(tmp_path / "a.npz", ("a.npy", member)))


@pytest.mark.parametrize("method", [zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
def test_compression(tmp_path, method):
    """Compression methods that NumPy does not use are refused."""
    with pytest.raises(ValueError, match="a method that NumPy does not use"):
        read_arrays(written(tmp_path / "a.npz", ("a.npy", npy((1,), pixels=bytes(8))), method=method))


def test_impossible_size(tmp_path):
    """A declared size that the file cannot have is refused before memory is allocated."""
    path = written(tmp_path / "a.npz", ("a.npy", npy((1,), pixels=bytes(8))))
    content = path.read_bytes()
    path.write_bytes(content.replace(struct.pack("<I", 136), struct.pack("<I", 2**32 - 2)))
    tracemalloc.start()
    with pytest.raises(ValueError, match="damaged"):
        read_arrays(path)
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


def test_shared_bytes(tmp_path):
    """Members that share their bytes are refused: their memory would grow with their number."""
    path = written(tmp_path / "a.npz", ("a.npy", npy((2**20,), "|u1", bytes(2**20))))
    content = path.read_bytes()
    start = content.index(b"PK\x01\x02")
    end = content.index(b"PK\x05\x06")
    entry = content[start:end]
    count = 200
    tail = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, count, count, count * len(entry), start, 0)
    path.write_bytes(content[:start] + entry * count + tail)
    with pytest.raises(ValueError, match="more bytes than a file of its size can contain"):
        read_arrays(path)
