"""Layouts move axes there and back, and are inferred from a shape only if one is plausible."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from patchloom.errors import ModelError
from patchloom.prediction.models.tensor_layout import TensorLayout, infer_layout

SPATIAL = ("HW", "DHW")
LAYOUTS = [
    "NDCHW",
    "CNWH",
    *(
        batch + order
        for batch in ("", "N")
        for space in SPATIAL
        for order in dict.fromkeys((space, f"C{space}", f"{space}C"))
    ),
]


@given(letters=st.sampled_from(LAYOUTS), data=st.data())
def test_round_trip(letters, data):
    """A batch that becomes a tensor and a batch again is unchanged."""
    layout = TensorLayout(letters)
    sizes = [data.draw(st.integers(1, 4)) for _ in range(2 + layout.n_dims)]
    sizes[0] = sizes[0] if "N" in letters else 1
    sizes[1] = sizes[1] if "C" in letters else 1
    batch = np.arange(np.prod(sizes)).reshape(sizes)

    tensor = layout.from_batch(batch)

    assert tensor.ndim == len(letters)
    assert layout.batch_shape(tensor.shape) == tuple(sizes)
    np.testing.assert_array_equal(layout.to_batch(tensor), batch)


def test_channels_last():
    """NDHWC moves the channels to the end."""
    batch = np.arange(2 * 3 * 4 * 5 * 6).reshape(2, 3, 4, 5, 6)

    np.testing.assert_array_equal(TensorLayout("ndhwc").from_batch(batch), np.moveaxis(batch, 1, -1))


@pytest.mark.parametrize("letters", ["", "NC", "CH", "NCHH", "NCHWC", "NCTHW", "NCHW ", "NCYX"])
def test_invalid_letters(letters):
    """Letters that are not a layout are refused."""
    with pytest.raises(ModelError, match=f"layout is {letters.upper()!r}: it must be NCHW"):
        TensorLayout(letters)


@pytest.mark.parametrize(
    ("shape", "letters"),
    [
        ((None, 1, None, None), "NCHW"),
        ((1, 3, 512, 512), "NCHW"),
        ((None, 64, None, None), "NCHW"),  # many channels, and nothing else is fixed
        ((None, None, None, 3), "NHWC"),
        ((None, 1024, 1024, 1), "NHWC"),
        ((None, 256, 256, None), "NHWC"),
        ((None, 1, 16, 16), "NCHW"),
        ((8, 16, 16, 2), "NHWC"),  # NCHW would be two voxels wide
        ((None, None, None, None), None),
        ((None, 64, 64, 64), None),
        ((None, 3, 3, 3), None),
        ((None, 1, None, None, None), "NCDHW"),
        ((None, 1, None, 64, 64), "NCDHW"),
        ((None, None, 64, 64, 1), "NDHWC"),
        ((1, 2, 64, 64, 64), "NCDHW"),
        ((1, 64, 64, 64, 2), "NDHWC"),
        ((1, 16, 64, 64, 1), "NDHWC"),
        ((None, 8, 64, 64, 2), "NDHWC"),
        ((1, 64, 64), "CHW"),
        ((64, 64, 3), "HWC"),
        ((64, 64, 64), None),
        ((None, 1, 64, None), "NCHW"),  # NHWC would have 64 rows of one and any number of channels
        ((None, 1, None, 64), "NCHW"),
        ((None, 4, 64, None), "NCHW"),
        ((None, 64, None, 4), "NHWC"),
        ((None, None, 64, 1), "NHWC"),
        ((None, None, 64, 3), "NHWC"),
        ((None, 1, 12, 16), "NCHW"),  # NHWC would be one voxel high
        ((None, 16, 12, 1), "NHWC"),
        ((None, 1, 8, 8), "NCHW"),
        ((None, 4, 4, 2), "NHWC"),
        ((None, None, None, 64), "NHWC"),
        ((None, None, 64, 64), "NCHW"),
        ((None, 4, None, 8), None),
        ((None, 1, 64, 3), None),  # three wide with one channel, or one high with three
        ((None, 1, None, 3), None),
        ((None, 1, None, 1), None),
        ((None, None, 64, None), None),
        ((None, 64, None, 64), None),
        ((None, 64, 128, None), None),  # 64 channels, or any number
        ((None, None, 64, 128), None),
        ((None, 1, 8, 64, None), "NCDHW"),
        ((None, 1, None, 64, None), "NCDHW"),
        ((None, 1, 64, None, None), "NCDHW"),
        ((None, 16, 64, None, 1), "NDHWC"),
        ((None, None, None, 64, 2), "NDHWC"),
        ((None, 1, 16, 16, 16), "NCDHW"),  # NDHWC would be one voxel deep
        ((None, 2, 16, 16, 16), None),
        ((None, None, None, None, None), None),
        ((None, None, None, 64, None), None),
        ((None, 1, None, None, 3), None),
        ((1, 64, None), "CHW"),
        ((None, 64, 3), "HWC"),
        ((64, 64), "HW"),
        ((None, None), "HW"),
    ],
)
def test_infer_layout(shape, letters):
    """A layout is inferred if only one is plausible."""
    if letters is not None:
        assert infer_layout(shape).letters == letters
    else:
        with pytest.raises(ModelError, match=r"may be .* or .*: give its layout, such as layout="):
            infer_layout(shape)


@pytest.mark.parametrize("shape", [(), (None,), (1, 1, 1, 1, 8, 8)])
def test_infer_impossible(shape):
    """Shapes of other numbers of axes need a layout."""
    with pytest.raises(
        ModelError, match="from which no layout can be inferred: give its layout, such as layout='NCHW'"
    ):
        infer_layout(shape)
