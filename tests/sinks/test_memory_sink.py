import tracemalloc

import numpy as np
import pytest

from patchloom.axes import AxesMap
from patchloom.errors import PatchloomError, SinkError
from patchloom.sinks import HasBuffer, MemorySink
from patchloom.testing.sink_conformance import ImageSinkConformance


class TestMemorySink(ImageSinkConformance):
    dtypes = (*ImageSinkConformance.dtypes, ">u2", "float16", "complex64")

    def make_sink(self, folder, axes_map, dtype):
        return MemorySink(axes_map, dtype)

    def read_back(self, result, axes_map):
        assert result.shape == axes_map.shape
        assert result.flags.c_contiguous
        return axes_map.to_data(result)


def test_overlap():
    """The message names both regions that overlap."""
    sink = MemorySink(AxesMap("YX", (8, 8)), "uint8")
    one = slice(0, 1)
    sink.write((one, one, slice(0, 4), slice(0, 8)), np.zeros((1, 1, 4, 8), "uint8"))
    with pytest.raises(
        SinkError, match="Y 3:8, X 0:8 overlaps one that was written already, S 0:1, C 0:1, Y 0:4, X 0:8"
    ):
        sink.write((one, one, slice(3, 8), slice(0, 8)), np.zeros((1, 1, 5, 8), "uint8"))


def test_partition(rng):
    """More blocks than fit the first table, in random order; one missing voxel is noticed."""
    sink = MemorySink(AxesMap("YX", (40, 40)), "uint8")
    regions = [
        (slice(0, 1), slice(0, 1), slice(y, y + 2), slice(x, x + 4)) for y in range(0, 40, 2) for x in range(0, 40, 4)
    ]
    order = rng.permutation(len(regions))
    for index in order[1:]:
        sink.write(regions[index], np.full((1, 1, 2, 4), index, "uint8"))
    with pytest.raises(SinkError, match="8 of 1600 voxels were never written"):
        sink.finalize()
    sink.write(regions[order[0]], np.full((1, 1, 2, 4), order[0], "uint8"))
    assert sink.finalize()[::2, ::4].ravel().tolist() == list(range(200))


@pytest.mark.parametrize("axes", ["YX", "YXC", "ZCYX", "STYX"])
def test_buffers_are_not_copied(axes):
    """The image is the memory of the buffers."""
    axes_map = AxesMap(axes, range(3, 3 + len(axes)))
    sink = MemorySink(axes_map, "float32")
    assert isinstance(sink, HasBuffer)
    whole = tuple(slice(0, size) for size in sink.data_shape)
    buffer = sink.buffer(whole)
    sink.write(whole, buffer)
    assert np.shares_memory(sink.finalize(), buffer)


def test_times_outside_of_samples(rng):
    """Times outside of samples are stored in the order of the axes."""
    axes_map = AxesMap("TSYX", (2, 3, 4, 5))
    image = rng.normal(size=axes_map.shape)
    sink = MemorySink(axes_map, image.dtype)
    for sample in range(6):
        region = (slice(sample, sample + 1), slice(0, 1), slice(0, 4), slice(0, 5))
        buffer = sink.buffer(region)
        buffer[...] = axes_map.to_data(image)[region]
        sink.write(region, buffer)
    np.testing.assert_array_equal(sink.finalize(), image)


def test_other_buffer():
    """A block that is the buffer of another region is copied."""
    sink = MemorySink(AxesMap("YX", (4, 4)), "uint8")
    one = slice(0, 1)
    upper, lower = ((one, one, slice(y, y + 2), slice(0, 4)) for y in (0, 2))
    buffer = sink.buffer(upper)
    buffer[...] = 7
    sink.write(lower, buffer)
    sink.write(upper, buffer)
    assert (sink.finalize() == 7).all()


def test_new_axis(rng):
    """A buffer with a new axis is not copied onto itself."""
    sink = MemorySink(AxesMap("YX", (40, 30)), "float32")
    region = (slice(0, 1), slice(0, 1), slice(0, 40), slice(5, 20))
    buffer = sink.buffer(region)[0]
    buffer[...] = expected = rng.random((1, 40, 15), np.float32)
    tracemalloc.start()
    sink.write(region, buffer[np.newaxis])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < buffer.nbytes, "NumPy copies what overlaps with itself"
    for start, stop in ((0, 5), (20, 30)):
        sink.write(
            (slice(0, 1), slice(0, 1), slice(0, 40), slice(start, stop)), np.zeros((1, 1, 40, stop - start), "f4")
        )
    assert np.array_equal(sink.finalize()[:, 5:20], expected[0])


@pytest.mark.parametrize("dtype", [object, "U5", "M8[s]", [("a", "f4")], "no such dtype"])
def test_dtype(dtype):
    """A dtype that is not numeric is refused."""
    with pytest.raises(PatchloomError, match="dtype"):
        MemorySink(AxesMap("YX", (8, 8)), dtype)


@pytest.mark.parametrize("block", [[[[[1]]]], "block", None])
def test_wrong_block(block):
    """A block has to be a NumPy array."""
    sink = MemorySink(AxesMap("YX", (1, 1)), "uint8")
    with pytest.raises(SinkError, match="block"):
        sink.write((slice(0, 1),) * 4, block)
    sink.write((slice(0, 1),) * 4, np.full((1, 1, 1, 1), 7, np.uint8))
    assert sink.finalize().tolist() == [[7]]
