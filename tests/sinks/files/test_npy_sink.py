import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patchloom.axes import AxesMap
from patchloom.errors import OutputExistsError, SinkError
from patchloom.sinks import NpySink
from patchloom.testing.sink_conformance import ImageSinkConformance


class TestNpySink(ImageSinkConformance):
    dtypes = (*ImageSinkConformance.dtypes, ">u2", "float16", "complex64")

    def make_sink(self, folder, axes_map, dtype):
        return NpySink(folder / "image.npy", axes_map=axes_map, dtype=dtype)

    def read_back(self, result, axes_map):
        image = np.load(result, mmap_mode="r")
        assert image.shape == axes_map.shape
        return axes_map.to_data(np.asarray(image))


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_order_of_axes(tmp_path_factory, data):
    """Blocks are stored at their positions, for any order of axes."""
    axes = data.draw(st.permutations(["Y", "X", *data.draw(st.sets(st.sampled_from("STCZ")))]))
    axes_map = AxesMap("".join(axes), data.draw(st.lists(st.integers(1, 5), min_size=len(axes), max_size=len(axes))))
    image = np.random.default_rng(0).integers(0, 2**16, axes_map.data_shape, dtype="uint16")
    sink = NpySink(tmp_path_factory.mktemp("npy") / "a.npy", axes_map=axes_map, dtype="uint16")
    axis = data.draw(st.integers(0, image.ndim - 1))
    cut = data.draw(st.integers(0, image.shape[axis]))
    for part in (slice(cut, image.shape[axis]), slice(0, cut)):
        region = tuple(part if n == axis else slice(0, size) for n, size in enumerate(image.shape))
        if part.start < part.stop:
            sink.write(region, image[region])
    np.testing.assert_array_equal(np.load(sink.finalize()), axes_map.from_data(image))


def test_overwrite(tmp_path):
    """A file that is not a NumPy file is not replaced."""
    (tmp_path / "a.npy").write_bytes(b"a text")
    with pytest.raises(OutputExistsError, match="is not a NumPy file"):
        NpySink(tmp_path / "a.npy", axes_map=AxesMap("YX", (2, 2)), dtype="u1", overwrite=True)
    np.save(tmp_path / "b.npy", np.ones(3))
    sink = NpySink(tmp_path / "b.npy", axes_map=AxesMap("YX", (2, 2)), dtype="u1", overwrite=True)
    sink.write((slice(0, 1), slice(0, 1), slice(0, 2), slice(0, 2)), np.full((1, 1, 2, 2), 7, "u1"))
    assert np.load(sink.finalize()).tolist() == [[7, 7], [7, 7]]
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a.npy", "b.npy"]


@pytest.mark.parametrize("dtype", ["O", "S3", "datetime64[s]", "i4,f4"])
def test_dtype(tmp_path, dtype):
    """A dtype that is not numeric is refused."""
    with pytest.raises(SinkError, match="use a numeric one"):
        NpySink(tmp_path / "a.npy", axes_map=AxesMap("YX", (2, 2)), dtype=dtype)
    assert list(tmp_path.iterdir()) == []
