"""Postprocessing steps equal NumPy on the whole block, and have the declared channels and dtype."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patchloom.errors import GeometryError, ModelOutputError, NotIntegerError
from patchloom.prediction.postprocessing.activations import Sigmoid, Softmax
from patchloom.prediction.postprocessing.chain import PostprocessingChain, parse_postprocessing
from patchloom.prediction.postprocessing.steps import DTYPES, Argmax, AsDtype, SelectChannels, Threshold

NUMBERS = st.floats(-1e6, 1e6)
CHANNELS = st.integers(0, 3)
REAL = [dtype for dtype in DTYPES if dtype != "bool" and not dtype.startswith("complex")]
STEPS = st.one_of(
    st.just(Argmax()),
    st.builds(Threshold, NUMBERS, st.none() | CHANNELS),
    st.builds(SelectChannels, st.lists(CHANNELS, min_size=1, max_size=4).map(tuple)),
    st.builds(AsDtype, st.sampled_from(REAL), NUMBERS.filter(bool)),
)


def random_block(rng, dtype: str = "float32", shape=(4, 5, 6, 7)) -> np.ndarray:
    return (rng.random(shape) * 200 - 50).astype(dtype) if "float" in dtype else rng.integers(0, 200, shape, dtype)


def expected(step, block: np.ndarray) -> np.ndarray:
    """Apply a step to the whole block by NumPy."""
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


@pytest.mark.filterwarnings("ignore:overflow encountered in cast")  # in the expected values
@settings(deadline=None, max_examples=150)
@given(st.lists(STEPS, min_size=1, max_size=3), st.sampled_from(["float32", "float64", "uint8"]), st.integers(2, 3))
def test_steps(steps, dtype, n_dims) -> None:
    """Any steps equal NumPy, and have the declared channels and dtype."""
    block = random_block(np.random.default_rng(len(steps)), dtype, (4, 5, 6, 7)[: n_dims + 1])
    before = block.copy()
    chain = steps[0] if len(steps) == 1 else PostprocessingChain(steps)
    try:
        declared = chain.output(len(block), block.dtype)
    except ModelOutputError:
        with pytest.raises(ModelOutputError):
            chain(block)
        return
    processed = chain(block)
    wanted = block
    for step in steps:
        wanted = expected(step, wanted)
    assert (len(processed), processed.dtype) == declared
    np.testing.assert_array_equal(processed, wanted)
    assert np.array_equal(block, before)


@pytest.mark.parametrize(
    "step", [Argmax(), Threshold(20), Threshold(20, 1), SelectChannels((2, 0)), AsDtype("int16", 3)]
)
@pytest.mark.parametrize("shape", [(4, 9, 300, 100), (4, 700, 300), (3, 2, 600, 500)])
def test_large_blocks(step, shape, rng):
    """A block of several slabs equals NumPy on the whole block."""
    block = random_block(rng, "float32", shape)
    np.testing.assert_array_equal(step(block), expected(step, block))


@given(st.lists(STEPS, min_size=1, max_size=3))
def test_identity(steps) -> None:
    """The identity of any steps is parsed into equal steps; they pickle."""
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
        ("sigmoid", Sigmoid()),
        ("softmax|argmax", PostprocessingChain((Softmax(), Argmax()))),
        (" channels:0,2 | argmax ", PostprocessingChain((SelectChannels((0, 2)), Argmax()))),
    ],
)
def test_parse(text, postprocessing):
    """Texts are parsed into steps."""
    assert parse_postprocessing(text) == postprocessing


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("relu", "'relu' is not a postprocessing step: choose one of argmax, threshold:0.5"),
        ("", "'' is not a postprocessing step"),
        ("argmax|", "'' is not a postprocessing step"),
        ("argmax:1", "'argmax:1' is not a postprocessing step"),
        ("threshold", "'threshold' is not a postprocessing step"),
        ("threshold:half", "'threshold:half' is not a postprocessing step"),
        ("threshold:0.5@", "'threshold:0.5@' is not a postprocessing step"),
        ("threshold:nan", "threshold is NaN"),
        ("threshold:0.5@-1", "channel is -1"),
        ("channels:", "'channels:' is not a postprocessing step"),
        ("channels:0,-2", "channel is -2"),
        ("uint8*", "'uint8.*' is not a postprocessing step"),
        ("uint8*0", "scale is 0.0"),
        ("uint8*inf", "scale is inf"),
        ("complex64*2", "complex numbers are not scaled"),
    ],
)
def test_parse_invalid(text, message):
    """The error for an invalid text lists the steps, or names the value."""
    with pytest.raises(GeometryError, match=message):
        parse_postprocessing(text)


@pytest.mark.parametrize(
    "make", [lambda: AsDtype("complex64", 2), lambda: AsDtype("no such"), lambda: SelectChannels(())]
)
def test_invalid_values(make):
    """Invalid values are refused when a step is made."""
    with pytest.raises(GeometryError):
        make()


def test_fractional_channel():
    """A channel that is not a whole number is refused."""
    with pytest.raises(NotIntegerError):
        SelectChannels((0.5,))


@pytest.mark.parametrize(("n_classes", "dtype"), [(2, "uint8"), (256, "uint8"), (257, "uint16"), (65537, "uint32")])
def test_class_dtype(n_classes, dtype):
    """Classes have the smallest unsigned dtype."""
    assert Argmax().output(n_classes, np.dtype("float32")) == (1, np.dtype(dtype))


@pytest.mark.parametrize(
    ("text", "n_channels", "dtype", "message"),
    [
        (
            "argmax",
            1,
            "float32",
            "postprocess is 'argmax', and the model returns one channel: return a channel for each class",
        ),
        (
            "channels:3",
            3,
            "float32",
            r"postprocess is 'channels:3', and channel 3 does not exist: the model returns 3 channel\(s\), counted from 0",
        ),
        ("threshold:1@3", 3, "float32", "channel 3 does not exist"),
        (
            "channels:0|argmax",
            3,
            "float32",
            "postprocess is 'argmax', and the model returns one channel: return a channel for each class",
        ),
        ("uint8", 1, "complex64", "postprocess is 'uint8', and the model returns complex64: return real numbers"),
    ],
)
def test_output_refused(text, n_channels, dtype, message):
    """Blocks that a step cannot process are refused by their channels and dtype."""
    with pytest.raises(ModelOutputError, match=message):
        parse_postprocessing(text).output(n_channels, np.dtype(dtype))


@pytest.mark.parametrize("text", ["argmax", "threshold:0.5", "uint8*255", "int64"])
def test_nan(text, rng):
    """NaN is refused if the result is integer; other channels do not matter."""
    block = random_block(rng)
    block[2, 4, 5, 6] = np.nan
    with pytest.raises(ModelOutputError, match="NaN"):
        parse_postprocessing(text)(block)
    assert np.isnan(parse_postprocessing("float16*2")(block)).sum() == 1
    np.testing.assert_array_equal(parse_postprocessing("threshold:0.5@1")(block), block[1:2] > 0.5)  # the other channel


def test_ties():
    """The first of equal channels wins; the threshold itself is below."""
    assert Argmax()(np.ones((3, 2, 2), np.float32)).max() == 0
    assert Threshold(1)(np.ones((1, 2, 2), np.float32)).max() == 0


def test_range():
    """Values beyond the range become its ends, or infinite."""
    block = np.array([[[-np.inf, -1e30, 1e30, np.inf]]])
    assert AsDtype("int64")(block).ravel().tolist() == [-(2**63), -(2**63), 2**63 - 1, 2**63 - 1]
    assert AsDtype("float16")(block).ravel().tolist() == [-np.inf, -np.inf, np.inf, np.inf]
    assert Threshold(1e9)(np.full((1, 1, 2), 7, np.float16)).max() == 0
