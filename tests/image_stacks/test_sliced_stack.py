import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from patchloom.axes import AxesMap
from patchloom.image_stacks.sliced_stack import as_data_box


@st.composite
def stored(draw):
    axes = "".join(draw(st.permutations(draw(st.sampled_from(["YX", "TYX", "CZYX", "SCYX", "STCZYX"])))))
    shape = tuple(draw(st.integers(1, 5)) for _ in axes)
    return AxesMap(axes, shape), tuple(draw(st.integers(1, 6)) for _ in axes)


@given(stored())
def test_box_of_chunk(pair):
    """The box of a chunk contains no more voxels than the chunk.

    The voxels of the first chunk are marked in the source and moved.
    """
    axes_map, chunk = pair
    marked = np.zeros(axes_map.shape, bool)
    marked[tuple(slice(side) for side in chunk)] = True
    box = as_data_box(axes_map, chunk)
    moved = axes_map.to_data(marked)
    assert moved[tuple(slice(side) for side in box)].all()
    if axes_map.size("S") == 1 or axes_map.size("T") == 1:
        assert np.prod(box) == moved.sum()


@pytest.mark.parametrize(("chunk", "samples"), [((1, 4), 4), ((1, 10), 10), ((3, 10), 30), ((3, 4), 4)])
def test_samples_and_times(chunk, samples):
    """Samples and times of a chunk become one axis if they form a box."""
    assert as_data_box(AxesMap("STYX", (5, 10, 64, 64)), (*chunk, 32, 32)) == (samples, 1, 32, 32)
