import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from patchloom.sinks.files.file_sink import write_strided


class RecordingFile:
    """A file of bytes that takes at most so many at once, as a raw file may."""

    def __init__(self, size, most):
        self.bytes, self.most, self.position, self.n_writes = np.zeros(size, "u1"), most, 0, 0

    def seek(self, position):
        self.position = position

    def write(self, data):
        taken = min(len(data), self.most)
        self.bytes[self.position : self.position + taken] = np.frombuffer(data[:taken], "u1")
        self.position += taken
        self.n_writes += 1
        return taken


@given(st.data())
def test_write_strided(data):
    """An array is written where NumPy would write it in an array of the same strides."""
    shape = data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
    whole = np.zeros(shape, "uint16").transpose(order := data.draw(st.permutations(range(len(shape)))))
    region = []
    for size in whole.shape:
        start = data.draw(st.integers(0, size - 1))
        region.append(slice(start, data.draw(st.integers(start + 1, size))))
    values = np.random.default_rng(0).integers(1, 2**16, whole[tuple(region)].shape, dtype="uint16")
    whole[tuple(region)] = values
    file = RecordingFile(whole.nbytes, most=data.draw(st.integers(1, 20)))
    offset = sum(part.start * stride for part, stride in zip(region, whole.strides, strict=True))
    write_strided(file, values, offset, whole.strides)
    back = file.bytes.view("uint16").reshape(shape).transpose(order)
    np.testing.assert_array_equal(back, whole)


def test_contiguous_bytes():
    """Bytes that are contiguous in the file are written together."""
    file = RecordingFile(10_000, most=10_000)
    write_strided(file, np.ones((1, 5, 8, 3), "u1"), 0, (7, 24, 3, 1))
    assert file.n_writes == 1
    write_strided(file, np.ones((2, 5, 8, 3), "u1"), 0, (1000, 24, 3, 1))
    assert file.n_writes == 3
