"""Postprocessing do what NumPy does to the whole block, say beforehand what comes out, and survive their own text."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patchloom.errors import GeometryError, ModelOutputError, NotIntegerError
from patchloom.prediction import postprocessing
from patchloom.prediction.postprocessing import Argmax, AsDtype, PostprocessingChain, SelectChannels, Threshold
from patchloom.prediction.postprocessing_text import parse_postprocessing

NUMBERS = st.floats(-1e6, 1e6)
CHANNELS = st.integers(0, 3)
REAL = [dtype for dtype in postprocessing.DTYPES if dtype != "bool" and not dtype.startswith("complex")]
STEPS = st.one_of(
    st.just(Argmax()),
    st.builds(Threshold, NUMBERS, st.none() | CHANNELS),
    st.builds(SelectChannels, st.lists(CHANNELS, min_size=1, max_size=4).map(tuple)),
    st.builds(AsDtype, st.sampled_from(REAL), NUMBERS.filter(bool)),
)


def random_block(rng, dtype: str = "float32", shape=(4, 5, 6, 7)) -> np.ndarray:
    return (rng.random(shape) * 200 - 50).astype(dtype) if "float" in dtype else rng.integers(0, 200, shape, dtype)


def expected(step, block: np.ndarray) -> np.ndarray:
    """The same for the whole block at once."""
    if isinstance(step, Argmax):
        return np.argmax(block, axis=0)[None]
    if isinstance(step, Threshold):
        return (block if step.channel is None else block[[step.channel]]) > step.value
    if isinstance(step, SelectChannels):
        return block[list(step.channels)]
    scaled = block if step.scale == 1 else block.astype(np.float64) * step.scale
    if step.dtype.kind == "f":
        return scaled.astype(step.dtype)
    limits = np.iinfo(step.dtype)
    clipped = [int(min(max(value, limits.min), limits.max)) for value in np.rint(scaled).ravel().tolist()]
    return np.array(clipped, step.dtype).reshape(block.shape)


@pytest.mark.filterwarnings("ignore:overflow encountered in cast")  # in what is expected
@settings(deadline=None, max_examples=150)
@given(st.lists(STEPS, min_size=1, max_size=3), st.sampled_from(["float32", "float64", "uint8"]), st.integers(2, 3))
def test_numpy(steps, dtype, n_dims) -> None:
    """Results are those of NumPy, of the channels and dtype that were announced."""
    block = random_block(np.random.default_rng(len(steps)), dtype, (4, 5, 6, 7)[: n_dims + 1])
    before = block.copy()
    chain = steps[0] if len(steps) == 1 else PostprocessingChain(steps)
    try:
        said = chain.output(len(block), block.dtype)
    except ModelOutputError:
        with pytest.raises(ModelOutputError):
            chain(block)
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(postprocessing, "_SLAB_VOXELS", 80)
        reduced = chain(block)
    wanted = block
    for step in steps:
        wanted = expected(step, wanted)
    assert (len(reduced), reduced.dtype) == said
    np.testing.assert_array_equal(reduced, wanted)
    assert np.array_equal(block, before)


@given(st.lists(STEPS, min_size=1, max_size=3))
def test_text(steps) -> None:
    """A step is equal to the one parsed from its text."""
    chain = steps[0] if len(steps) == 1 else PostprocessingChain(steps)
    again = parse_postprocessing(chain.identity)
    assert again == chain
    assert hash(again) == hash(chain)
    assert pickle.loads(pickle.dumps(chain)) == chain


@pytest.mark.parametrize(
    ("text", "postprocessing"),
    [
        ("argmax", Argmax()),
        ("threshold:0.5", Threshold(0.5)),
        ("threshold:-1e3@2", Threshold(-1000.0, 2)),
        ("channels:1", SelectChannels((1,))),
        ("channels:2,0", SelectChannels((2, 0))),
        ("uint8*255", AsDtype("uint8", 255)),
        ("float16", AsDtype(np.float16)),
        (" channels:0,2 | argmax ", PostprocessingChain((SelectChannels((0, 2)), Argmax()))),
    ],
)
def test_short_texts(text, postprocessing):
    """Short texts are parsed."""
    assert parse_postprocessing(text) == postprocessing


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("softmax", "'softmax' is not a postprocessing step: write argmax, threshold:0.5"),
        ("", "'' is not a postprocessing step"),
        ("argmax|", "'' is not a postprocessing step"),
        ("argmax:1", "'argmax:1' is not a postprocessing step"),
        ("threshold", "'threshold' is not a postprocessing step"),
        ("threshold:half", "'threshold:half' is not a postprocessing step"),
        ("threshold:0.5@", "'threshold:0.5@' is not a postprocessing step"),
        ("threshold:nan", "threshold is NaN"),
        ("threshold:0.5@-1", "channel is -1: channels are counted from 0"),
        ("channels:", "'channels:' is not a postprocessing step"),
        ("channels:0,-2", "channel is -2"),
        ("uint8*", "'uint8.*' is not a postprocessing step"),
        ("uint8*0", "scale is 0.0"),
        ("uint8*inf", "scale is inf"),
        ("complex64*2", "complex numbers are not scaled"),
    ],
)
def test_wrong_texts(text, message):
    """Texts with unknown steps are refused with the known ones."""
    with pytest.raises(GeometryError, match=message):
        parse_postprocessing(text)


@pytest.mark.parametrize(
    "make", [lambda: AsDtype("complex64", 2), lambda: AsDtype("no such"), lambda: SelectChannels(())]
)
def test_wrong_values(make):
    """Values that are not allowed are refused."""
    with pytest.raises(GeometryError):
        make()


def test_wrong_channel():
    """A channel is a whole number."""
    with pytest.raises(NotIntegerError):
        SelectChannels((0.5,))


@pytest.mark.parametrize(("n_classes", "dtype"), [(2, "uint8"), (256, "uint8"), (257, "uint16"), (65537, "uint32")])
def test_dtype_of_classes(n_classes, dtype):
    """Classes have the smallest dtype that holds them."""
    assert Argmax().output(n_classes, np.dtype("float32")) == (1, np.dtype(dtype))


@pytest.mark.parametrize(
    ("text", "n_channels", "dtype", "message"),
    [
        ("argmax", 1, "float32", "two channels or more"),
        ("channels:3", 3, "float32", "'channels:3' asks for channel 3, and the model gives 3, counted from 0"),
        ("threshold:1@3", 3, "float32", "asks for channel 3"),
        ("channels:0|argmax", 3, "float32", "two channels or more"),
        ("uint8", 1, "complex64", "'uint8' is for real numbers, and the model returns complex64"),
    ],
)
def test_refused_beforehand(text, n_channels, dtype, message):
    """Predictions that a step cannot process are refused beforehand."""
    with pytest.raises(ModelOutputError, match=message):
        parse_postprocessing(text).output(n_channels, np.dtype(dtype))


@pytest.mark.parametrize("text", ["argmax", "threshold:0.5", "uint8*255", "int64"])
def test_nan(text, rng):
    """NaN never becomes a number."""
    block = random_block(rng)
    block[2, 4, 5, 6] = np.nan
    with pytest.raises(ModelOutputError, match="NaN"):
        parse_postprocessing(text)(block)
    assert np.isnan(parse_postprocessing("float16*2")(block)).sum() == 1
    np.testing.assert_array_equal(parse_postprocessing("threshold:0.5@1")(block), block[1:2] > 0.5)  # the other channel


def test_ties():
    """Of equal channels the first one counts, and a value on the threshold is below it."""
    assert Argmax()(np.ones((3, 2, 2), np.float32)).max() == 0
    assert Threshold(1)(np.ones((1, 2, 2), np.float32)).max() == 0


def test_saturation():
    """Values beyond the range stop at its ends."""
    block = np.array([[[-np.inf, -1e30, 1e30, np.inf]]])
    assert AsDtype("int64")(block).ravel().tolist() == [-(2**63), -(2**63), 2**63 - 1, 2**63 - 1]
    assert AsDtype("float16")(block).ravel().tolist() == [-np.inf, -np.inf, np.inf, np.inf]
    assert Threshold(1e9)(np.full((1, 1, 2), 7, np.float16)).max() == 0
