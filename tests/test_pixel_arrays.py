"""Arrays that callers provide as output, and dtypes of pixels: what cannot be filled is refused beforehand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from patchloom.errors import GeometryError
from patchloom.pixel_arrays import check_fillable, pixel_dtype, share_memory


@given(data=st.data(), n_axes=st.integers(1, 4))
def test_fillable_strides(data: st.DataObject, n_axes: int) -> None:
    """Arrays whose voxels share memory are refused, and slices of arrays are accepted."""
    sizes = data.draw(st.tuples(*[st.integers(1, 4)] * n_axes))
    steps = data.draw(st.tuples(*[st.integers(-30, 30)] * n_axes))
    memory = np.zeros(1000, np.int16)
    array = np.lib.stride_tricks.as_strided(memory[500:], sizes, [2 * step for step in steps])
    places = {sum(i * step for i, step in zip(index, steps, strict=True)) for index in np.ndindex(sizes)}
    is_shared = len(places) < array.size
    try:
        check_fillable("out", array, sizes)
    except GeometryError:
        # Interleaved axes are refused as well: no slice of an array has them.
        ordered = sorted((abs(step), size) for step, size in zip(steps, sizes, strict=True) if size > 1)
        spans = np.cumsum([0, *(step * (size - 1) for step, size in ordered)])
        assert is_shared or any(step <= span for (step, _), span in zip(ordered, spans, strict=False))
    else:
        assert not is_shared


@given(data=st.data(), n_axes=st.integers(1, 4))
def test_fillable_views(data: st.DataObject, n_axes: int) -> None:
    """All views that slicing and transposing make are accepted."""
    array = np.zeros(data.draw(st.tuples(*[st.integers(1, 6)] * n_axes)), np.float32)
    array = array.transpose(data.draw(st.permutations(range(n_axes))))
    array = array[tuple(data.draw(st.slices(size).filter(lambda cut: cut.step != 0)) for size in array.shape)]
    check_fillable("out", array, array.shape)


READ_ONLY = np.zeros((2, 3))
READ_ONLY.flags.writeable = False


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (READ_ONLY, "read-only"),
        (np.broadcast_to(np.zeros(3), (2, 3)), "read-only"),
        (np.lib.stride_tricks.as_strided(np.zeros(4), (2, 3), (8, 8)), "share memory"),
        (np.zeros((3, 2)), r"has shape \(3, 2\)"),
        ([[0, 0, 0]] * 2, "is a list"),
        ("text", "is a str"),
        (None, "is a NoneType"),
        (np.empty((2, 3), object), "array of object"),
        (np.empty((2, 3), "U5"), "array of <U5"),
        (np.empty((2, 3), "M8[s]"), "array of datetime64"),
        (np.empty((2, 3), [("a", "f4")]), "out is an array of"),
        (np.empty((2, 3), "V3"), "out is an array of"),
    ],
)
def test_not_fillable(array: Any, message: str) -> None:
    """Arrays that cannot be filled are refused, and the message contains the reason."""
    with pytest.raises(GeometryError, match=message):
        check_fillable("out", array, (2, 3))


@pytest.mark.parametrize(
    ("view", "shared"),
    [
        (lambda whole: whole[0], True),
        (lambda whole: whole[:, ::2], False),
        (lambda whole: whole[:, 1::2, :3], True),
        (lambda whole: whole.copy(), False),
    ],
)
def test_share_memory(view: Callable[[np.ndarray], np.ndarray], shared: bool) -> None:
    """Shared memory is distinguished from interleaved memory."""
    whole = np.zeros((4, 6, 8))
    assert share_memory(view(whole), whole[:, 1::2]) is shared


@pytest.mark.parametrize(
    "dtype",
    [
        *(
            None,
            3,
            [],
            {},
            np,
            object,
            "no such",
            "f4,i2",
            "",
            "U5",
            "S3",
            "V4",
            "M8[s]",
            "m8[s]",
            [("a", "u1")],
            "u1,u1",
            "3f4",
            "u1]",
        ),
        *(np.uint8(3), np.zeros(2), slice),
    ],
    ids=repr,
)
def test_pixel_dtype_refused(dtype: Any) -> None:
    """Values that are not a dtype of numbers are refused."""
    with pytest.raises(GeometryError, match=r"dtype is .*: it must be a dtype of numbers"):
        pixel_dtype("dtype", dtype)


@pytest.mark.parametrize(
    "dtype", ["uint8", "<u2", ">f4", "bool", "complex64", np.float16, float, np.dtype("i8")], ids=str
)
def test_pixel_dtype(dtype: Any) -> None:
    """Dtypes of numbers are returned as NumPy's."""
    assert pixel_dtype("dtype", dtype) == np.dtype(dtype)
