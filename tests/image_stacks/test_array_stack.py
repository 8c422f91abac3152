import pickle

import dask.array as da
import h5py
import numpy as np
import pytest
import xarray as xr
import zarr
from hypothesis import given
from hypothesis import strategies as st

from patchloom.axes import AxesMap
from patchloom.errors import AxesError, SourceError
from patchloom.image_stacks import ArrayStack
from patchloom.testing.stack_conformance import ImageStackConformance

AXES = "TYXC"


def movie(dtype="uint16"):
    return np.random.default_rng(1).integers(0, 250, (4, 33, 26, 3)).astype(dtype)


def as_data(array, axes=AXES):
    return AxesMap(axes, array.shape).to_data(array)


class TestNumpy(ImageStackConformance):
    def make_stack(self, folder):
        return ArrayStack(movie(), AXES), as_data(movie())


class TestAllAxesInOddOrder(ImageStackConformance):
    def make_stack(self, folder):
        array = np.random.default_rng(2).random((2, 9, 3, 11, 2, 13))
        return ArrayStack(array, "CYTXSZ"), as_data(array, "CYTXSZ")


class TestTruthValuesInFortranOrder(ImageStackConformance):
    def make_stack(self, folder):
        array = np.asfortranarray(movie() > 100)
        return ArrayStack(array, AXES), as_data(array)


class TestOtherByteOrder(ImageStackConformance):
    def make_stack(self, folder):
        return ArrayStack(movie(">u4"), AXES), as_data(movie("u4"))


class TestMemoryMap(ImageStackConformance):
    def make_stack(self, folder):
        array = np.memmap(folder / "movie.raw", "uint16", "w+", offset=64, shape=movie().shape, order="F")
        array[...] = movie()
        array.flush()
        return ArrayStack(array, AXES), as_data(movie())


class TestDask(ImageStackConformance):
    def make_stack(self, folder):
        return ArrayStack(da.from_array(movie(), chunks=(1, 10, 10, 2)), AXES), as_data(movie())


class TestXarray(ImageStackConformance):
    def make_stack(self, folder):
        return ArrayStack(xr.DataArray(movie(), dims=("time", "y", "x", "channel"))), as_data(movie())


class TestZarrPython(ImageStackConformance):
    def make_stack(self, folder):
        array = zarr.create_array(folder / "movie.zarr", data=movie(), chunks=(1, 10, 10, 2))
        return ArrayStack(array, AXES), as_data(movie())


class TestHdf5(ImageStackConformance):
    @pytest.fixture(autouse=True)
    def file(self, tmp_path):
        with h5py.File(tmp_path / "movie.h5", "w") as self.opened:
            self.opened.create_dataset("movie", data=movie(), chunks=(1, 10, 10, 2), compression="gzip")
            yield

    def make_stack(self, folder):
        return ArrayStack(self.opened["movie"], AXES), as_data(movie())

    def test_pickle(self, tmp_path):
        """An open HDF5 dataset cannot be pickled."""
        stack, _ = self.make_stack(tmp_path)
        with pytest.raises(TypeError, match="h5py objects cannot be pickled"):
            pickle.dumps(stack)

    def test_closed_file(self, tmp_path):
        """Reading from a closed file is an error that names the array."""
        stack, _ = self.make_stack(tmp_path)
        self.opened.close()
        with pytest.raises(SourceError, match=r"array cannot be read at T 0, Y 1:3, X 2:4, C 0:3: "):
            stack.extract_patch(0, None, (1, 2), (2, 2))


def test_pickled_map(tmp_path):
    """A memory map pickles as the name of its file."""
    array = np.memmap(tmp_path / "large.raw", "uint8", "w+", shape=(64, 512, 512))
    array[5, 6, 7] = 9
    array.flush()
    pickled = pickle.dumps(ArrayStack(array, "ZYX"))
    assert len(pickled) < 2000
    again = pickle.loads(pickled)
    assert again.extract_patch(0, None, (5, 6, 7), (1, 1, 1)).item() == 9
    assert again.array.mode == "r"


@pytest.mark.parametrize("mode", ["c", "r"])
def test_pickled_pixels(tmp_path, mode):
    """A map that differs from its file pickles with its pixels.

    These are a private copy that was changed, and a part of a memory map.
    """
    np.save(tmp_path / "image.npy", np.arange(100.0).reshape(10, 10))
    array = np.load(tmp_path / "image.npy", mmap_mode=mode)
    if mode == "c":
        array[0, 0] = 5
    else:
        array = array[5:, 5:]
    again = pickle.loads(pickle.dumps(ArrayStack(array, "YX")))
    np.testing.assert_array_equal(again.extract_patch(0, None, (0, 0), array.shape)[0], array)


def test_lazy():
    """Nothing is read before a patch is extracted."""

    class Counting:
        shape, dtype, voxels = (100, 100), np.dtype("uint8"), 0

        def __getitem__(self, index):
            box = np.zeros(self.shape, self.dtype)[index]
            self.voxels += box.size
            return box

    array = Counting()
    stack = ArrayStack(array, "YX")
    assert array.voxels == 0
    stack.extract_patch(0, None, (-10, 50), (20, 20))
    assert array.voxels == 200


@pytest.mark.parametrize(
    ("array", "axes", "message"),
    [
        (np.zeros((60, 25, 25)), None, r"array has shape \(60, 25, 25\), but its axes are not known: .* axes='ZYX'"),
        (np.zeros((60, 25, 3)), None, "such as axes='YXC'"),
        (np.zeros(5), None, r"has shape \(5,\): an image must have 2 to 6 axes"),
        (np.zeros((4, 4)), "ZYX", "name 3 axes, but the image has 2"),
        (np.zeros((4, 4)), "YY", "'Y' more than once"),
        (np.zeros((4, 4)), "AX", "unknown axis 'A'"),
        (np.zeros((4, 4)), "CX", "lack 'Y'"),
        (xr.DataArray(np.zeros((4, 4)), dims=("lat", "lon")), None, r"its dimensions are named \('lat', 'lon'\)"),
    ],
)
def test_bad_axes(array, axes, message):
    """Axes that are unknown or do not fit are refused."""
    with pytest.raises(AxesError, match=message):
        ArrayStack(array, axes)


@pytest.mark.parametrize("array", [np.array([["a", "b"]]), np.zeros((2, 2), "datetime64[s]"), np.zeros((2, 2), object)])
def test_bad_dtype(array):
    """Arrays of other elements than numbers are refused."""
    with pytest.raises(SourceError, match="the pixels of an image must be numbers"):
        ArrayStack(array, "YX")


@pytest.mark.parametrize("axes", ["STZYXC", "CYX", "XY", "TCSYX"])
def test_pixels(axes):
    """Pixels in memory are a view, or None if they cannot be one."""
    array = np.zeros([3, 2, 4, 5, 6, 7][: len(axes)])
    pixels = ArrayStack(array, axes).pixels
    if axes == "TCSYX":  # samples and times do not fold
        assert pixels is None
    else:
        assert np.shares_memory(pixels, array)


def test_no_pixels():
    """Pixels outside memory are None."""

    class Corrected(ArrayStack):
        def read(self, selection):
            return super().read(selection) + 1

    assert Corrected(np.zeros((4, 4)), "YX").pixels is None
    assert ArrayStack(da.zeros((4, 4)), "YX").pixels is None


class CountingStack(ArrayStack):
    """Counts the voxels that are read."""

    n_read = 0

    def read(self, selection):
        region = super().read(selection)
        self.n_read += region.size
        return region


@given(channels=st.lists(st.integers(0, 999), min_size=1, max_size=9))
def test_distant_channels(channels):
    """Channels that lie far apart are read without the channels between them."""
    image = np.arange(1000 * 4).reshape(1000, 2, 2)
    stack = CountingStack(image, "CYX")
    np.testing.assert_array_equal(stack.extract_patch(0, channels, (0, 0), (2, 2)), image[channels])
    assert stack.n_read <= 8 * 4 * len(channels)
