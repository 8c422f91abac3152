import pickle
import struct
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from patchloom.errors import AxesError, PatchloomError, SourceError, SourceNotFoundError
from patchloom.image_stacks import NpyStack, open_stacks
from patchloom.image_stacks.npy_stack import _LIVE_MAPS, _MAPS
from patchloom.testing.stack_conformance import ImageStackConformance


def random_image(shape, dtype="uint16"):
    return np.random.default_rng(6).integers(0, 250, shape).astype(dtype)


class TestNpy(ImageStackConformance):
    def make_stack(self, folder):
        image = random_image((2, 3, 20, 30))
        np.save(folder / "a.npy", image)
        return NpyStack(folder / "a.npy", "SCYX"), image


class TestFortranOrderAndOtherBytes(ImageStackConformance):
    def make_stack(self, folder):
        image = random_image((20, 30, 3), ">f4")
        np.save(folder / "a.npy", np.asfortranarray(image))
        return NpyStack(folder / "a.npy", "YXC"), image.transpose(2, 0, 1)[np.newaxis].astype("f4")


def test_descriptors(tmp_path):
    """More files than a process may open are read and predicted.

    The test runs in another process with a low limit, and compares every pixel.
    """
    script = """
        import resource, sys
        resource.setrlimit(resource.RLIMIT_NOFILE, (128, 128))
        import numpy as np, patchloom as pl
        folder = sys.argv[1]
        for number in range(300):
            np.save(f"{folder}/{number}.npy", np.full((8, 8), number, "uint16"))
        stacks = pl.open_stacks(folder, "YX")
        extractor = pl.PatchExtractor(stacks)
        patching = pl.TiledPatching([stack.data_shape for stack in stacks], patch_size=(8, 8), overlaps=(0, 0))
        batch = extractor.extract_batch(patching.specs(range(300)))
        assert (batch == np.arange(300)[:, None, None, None]).all()
        for data_idx in np.random.default_rng(0).permutation(300).tolist():
            assert (stacks[data_idx].extract_patch(0, None, (0, 0), (8, 8)) == data_idx).all()
        results = pl.predict(lambda batch: batch, stacks, patch_size=(8, 8), progress=False)
        assert [int(result.max()) for result in results] == list(range(300))
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(script), str(tmp_path)], check=True)


def test_open_while_used(tmp_path):
    """A file is open only while its stack is used."""
    np.save(tmp_path / "a.npy", random_image((8, 8)))
    maps, live = len(_MAPS), len(_LIVE_MAPS)
    stack = NpyStack(tmp_path / "a.npy", "YX")
    assert len(_MAPS) == maps
    assert stack.pixels is not None
    assert (len(_MAPS), len(_LIVE_MAPS)) == (maps + 1, live + 1)
    del stack
    assert (len(_MAPS), len(_LIVE_MAPS)) == (maps, live)


def test_small_pickle(tmp_path):
    """A pickle contains no pixels."""
    image = random_image((500, 500))
    np.save(tmp_path / "a.npy", image)
    stack = NpyStack(tmp_path / "a.npy", "YX")
    stack.extract_patch(0, None, (0, 0), (8, 8))
    content = pickle.dumps(stack)
    assert len(content) < 2000
    np.testing.assert_array_equal(pickle.loads(content).extract_patch(0, None, (9, 9), (8, 8))[0], image[9:17, 9:17])


@pytest.mark.parametrize("change", [lambda path: path.write_bytes(path.read_bytes()[:200]), lambda path: path.unlink()])
def test_changed_file(tmp_path, change):
    """A file that has changed since it was opened is refused."""
    np.save(tmp_path / "a.npy", random_image((80, 80)))
    stack = NpyStack(tmp_path / "a.npy", "YX")
    change(tmp_path / "a.npy")
    with pytest.raises(SourceError, match=r"a\.npy (has changed since it was opened|cannot be read)"):
        stack.extract_patch(0, None, (0, 0), (8, 8))


def test_axes_needed(tmp_path):
    """The axes must be given."""
    np.save(tmp_path / "a.npy", random_image((3, 8, 8)))
    with pytest.raises(AxesError, match=r"a\.npy has shape \(3, 8, 8\).*axes='ZYX'"):
        NpyStack(tmp_path / "a.npy")
    with pytest.raises(AxesError, match="'YX' name 2 axes, but the image has 3"):
        NpyStack(tmp_path / "a.npy", "YX")


def npy(header, *, pixels=bytes(200), version=1):
    size = struct.pack("<H" if version == 1 else "<I", len(header))
    return b"\x93NUMPY" + bytes([version, 0]) + size + header.encode() + pixels


def described(descr="'|u1'", order="False", shape="(5, 5)"):
    return f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}\n"


HEADERS = {
    "deep": "{'descr':" + "(" * 9000,
    "deeper": "-" * 9999 + "1",
    "long": described() + " " * 20000,
    "no dictionary": "[1, 2]",
    "empty": "",
    "a call": "{'descr': __import__('os').getcwd()}",
    "other keys": "{'descr': '|u1', 'shape': (5, 5)}",
    "keys that are unhashable": "{[]: 1}",
    "huge": described(shape="(99999999999999999999999, 5)"),
    "overflowing": described(shape="(4294967296, 4294967296)"),
    "overflowing to few": described(shape="(6148914691236517206, 3)"),
    "negative": described(shape="(-5, -5)"),
    "fractions": described(shape="(5.0, 5.0)"),
    "no tuple": described(shape="25"),
    "too many axes": described(shape="(" + "1, " * 80 + ")"),
    "no voxels": described(shape="(0, 5)"),
    "longer than the file": described(shape="(500, 500)"),
    "objects": described("'|O'"),
    "a structure": described("[('a', '<i4'), ('b', '<f4')]"),
    "text": described("'<U5'"),
    "bytes": described("'|S1'"),
    "times": described("'<M8[s]'"),
    "nothing": described("'|V0'"),
    "no type": described("'<q99'"),
    "a number as type": described("5"),
    "a class as type": described("{'names': ['a'], 'formats': ['|O']}"),
    "order unknown": described(order="'maybe'"),
}


@pytest.mark.parametrize("header", HEADERS.values(), ids=HEADERS)
@pytest.mark.parametrize("version", [1, 2, 3])
@pytest.mark.filterwarnings("error")
def test_bad_header(tmp_path, header, version):
    """A header that contradicts the file is refused."""
    (tmp_path / "a.npy").write_bytes(npy(header, version=version))
    with pytest.raises(PatchloomError, match=r"a\.npy|no voxels"):
        NpyStack(tmp_path / "a.npy", "YX")


def test_other_files(tmp_path):
    """Other files are refused."""
    np.savez(tmp_path / "b.npz", a=np.zeros((4, 4)))
    (tmp_path / "b.npz").rename(tmp_path / "archive.npy")
    (tmp_path / "empty.npy").touch()
    (tmp_path / "folder.npy").mkdir()
    np.save(tmp_path / "pickle.npy", np.array([{"a": 1}, None], object), allow_pickle=True)
    for name in ("archive.npy", "empty.npy", "folder.npy", "pickle.npy"):
        with pytest.raises(SourceError, match=rf"{name} cannot be read as a NumPy array: "):
            NpyStack(tmp_path / name, "YX")
    with pytest.raises(SourceNotFoundError, match=r"there is no file .*none\.npy"):
        NpyStack(tmp_path / "none.npy", "YX")


def test_link(tmp_path):
    """A link is followed."""
    image = random_image((8, 9))
    np.save(tmp_path / "a.npy", image)
    (tmp_path / "b.npy").symlink_to(tmp_path / "a.npy")
    np.testing.assert_array_equal(NpyStack(tmp_path / "b.npy", "YX").extract_patch(0, None, (0, 0), (8, 9))[0], image)


def test_series(tmp_path):
    """Many files are one series."""
    for number in range(20):
        np.save(tmp_path / f"{number}.npy", np.full((4, 4), number))
    stacks = open_stacks(tmp_path, "YX")
    assert [int(stack.extract_patch(0, None, (0, 0), (1, 1))[0, 0, 0]) for stack in stacks] == list(range(20))
