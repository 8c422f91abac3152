"""Copying boxes: the compiled loop, and the same loop uncompiled, give what NumPy's slices give, bit for bit."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patchloom.extraction import gather as gather_module
from patchloom.extraction.gather import Boxes, gather_by_numpy
from patchloom.extraction.rescaling import Rescaling


@pytest.fixture
def compiled() -> Iterator[None]:
    pytest.importorskip("numba")
    yield
    assert gather_module.compiled_loop(gather_module.gather_rows) is not None


def random_boxes(rng: np.random.Generator, source: np.ndarray, target: np.ndarray, n_boxes: int, n_axes: int) -> Boxes:
    """Boxes that lie inside both arrays, no two of them in one row of the target."""
    extents = np.ones((n_boxes, n_axes), np.int64)
    shortest = np.minimum(source.shape[-n_axes:], target.shape[-n_axes:])
    extents[:] = rng.integers(1, shortest + 1, extents.shape)

    def corners(array: np.ndarray) -> np.ndarray:
        room = np.tile(array.shape, (n_boxes, 1))
        room[:, -n_axes:] -= extents - 1
        room[:, :-n_axes] = array.shape[:-n_axes]
        return rng.integers(0, room)

    places = corners(target)
    places[:, 0] = rng.permutation(target.shape[0])[:n_boxes]
    return Boxes(corners(source), places, extents)


def same_as_numpy(
    rng: np.random.Generator, source: np.ndarray, target: np.ndarray, n_axes: int, *, rescaled: bool
) -> None:
    boxes = random_boxes(rng, source, target, len(target), n_axes)
    numbers = rng.normal(size=(2, len(target), target.shape[-n_axes])).astype(target.dtype)
    rescaling = Rescaling(*numbers) if rescaled else None
    expected = target.copy()
    gather_by_numpy(source, expected, boxes, rescaling)
    gather_module.gather_boxes(source, target, boxes, rescaling, min_boxes=0)
    assert target.dtype == expected.dtype
    assert target.tobytes() == expected.tobytes()


LAYOUTS = ["plain", "read-only", "transposed", "cropped", "upside down", "backwards"]


def laid_out(rng: np.random.Generator, dtype: str, shape: tuple[int, ...], layout: str) -> np.ndarray:
    bits = rng.integers(0, 200, shape)
    array = (bits > 99 if dtype == "?" else bits).astype(dtype)
    if layout == "transposed":
        return np.ascontiguousarray(array.swapaxes(0, 1)).swapaxes(0, 1)
    if layout == "cropped":
        return np.pad(array, 1)[(slice(1, -1),) * array.ndim]
    if layout in ("upside down", "backwards"):
        return np.flip(np.flip(array, -1 - (layout == "upside down")).copy(), -1 - (layout == "upside down"))
    array.flags.writeable = layout == "plain"
    return array


@settings(deadline=None, max_examples=60)
@given(
    n_dims=st.integers(2, 3),
    dtypes=st.sampled_from([("u2", "f4"), ("u2", "u2"), ("?", "f4"), (">u2", "f4"), ("f2", "f4"), ("i8", "f8")]),
    layout=st.sampled_from(LAYOUTS),
    rescaled=st.booleans(),
    chunked=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_loop(n_dims: int, dtypes: tuple[str, str], layout: str, rescaled: bool, chunked: bool, seed: int) -> None:
    """The uncompiled loop copies what slices copy."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 7, n_dims + 3)
    source = laid_out(rng, dtypes[0], tuple(sizes if chunked else sizes[1:]), layout)
    target = np.zeros((5, *rng.integers(1, 6, n_dims + 1)), dtypes[1])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gather_module, "compiled_loop", lambda kernel: kernel)
        same_as_numpy(rng, source, target, n_dims + 1, rescaled=rescaled and target.dtype.kind == "f")


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize(("dtype", "to"), [("u2", "f4"), ("u1", "f4"), ("u2", "u2"), ("f4", "f4")])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_compiled_loop(dtype: str, to: str, layout: str, rng: np.random.Generator) -> None:
    """The compiled loop copies what slices copy, bit for bit."""
    source = laid_out(rng, dtype, (2, 3, 9, 40, 80), layout)
    for n_axes, shape in ((3, (20, 3, 30, 70)), (4, (20, 2, 8, 30, 70))):
        pixels = source if n_axes == 4 else source[:, :, 4]
        for rescaled in (False, True)[: 1 + (to == "f4")]:
            same_as_numpy(rng, pixels, np.zeros(shape, to), n_axes, rescaled=rescaled)


@pytest.mark.parametrize(("source", "target"), [("f8", "u2"), ("c8", "c8"), ("u2", "f2"), (">f4", "f4")])
def test_other_dtypes(source: str, target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """NumPy copies boxes whose dtypes the compiled loop does not support."""
    monkeypatch.setattr(gather_module, "compiled_loop", lambda kernel: pytest.fail("the loop was used"))
    arrays = np.ones((1, 1, 2, 2), source), np.zeros((1, 1, 2, 2), target)
    gather_module.gather_boxes(*arrays, Boxes(*np.zeros((2, 1, 4), np.int64), np.array([[1, 2, 2]])), min_boxes=0)
    assert (arrays[1] == 1).all()


def test_without_numba(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without numba, NumPy copies all boxes."""
    monkeypatch.setitem(sys.modules, "numba", None)
    gather_module.compiled_loop.cache_clear()
    try:
        same_as_numpy(
            rng, laid_out(rng, "u2", (2, 3, 40, 80), "plain"), np.zeros((30, 3, 9, 9), "f4"), 3, rescaled=True
        )
        assert gather_module.compiled_loop(gather_module.gather_rows) is None
    finally:
        gather_module.compiled_loop.cache_clear()


def test_no_compile_cache(tmp_path: object) -> None:
    """The loop is compiled even if it cannot be cached on disk."""
    pytest.importorskip("numba")
    code = """
import numpy as np, numba, importlib
gather = importlib.import_module("patchloom.extraction.gather")
njit = numba.njit
def refuse(**options):
    if options.pop("cache", False):
        raise RuntimeError("cannot cache function: no locator available")
    return njit(**options)
numba.njit = refuse
assert gather.compiled_loop(gather.gather_rows) is not None
"""
    subprocess.run([sys.executable, "-c", code], check=True)
