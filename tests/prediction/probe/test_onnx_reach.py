"""The reach of networks in ONNX files, by their graphs."""

import os
from fractions import Fraction

import pytest
from onnx import parser
from tests.prediction.probe.random_networks import Answer, answer, draw, export, make_module

from patchloom.prediction.models.onnx.graph import read_graph
from patchloom.prediction.probe.onnx_reach import onnx_reach
from patchloom.prediction.probe.report import Undecided

N_NETWORKS = int(os.environ.get("PATCHLOOM_NETWORKS", "20"))


def _reach(content, n_dims=2, channels=1, **options):
    graph = read_graph(content, "the network")
    return onnx_reach(graph, {"x": (1, channels, *[1] * n_dims)}, "x", range(2, 2 + n_dims), ["y"], **options)


@pytest.mark.parametrize("seed", range(N_NETWORKS))
def test_random_networks(seed):
    """The reach, the stride, the scale and the margin of a random network are those of the analytic answer."""
    spec = draw(seed)
    (reach,) = _reach(export(make_module(spec), spec), spec.n_dims)
    found = map(Answer, reach.before, reach.after, reach.stride, reach.scale, reach.margin)
    assert list(found) == [answer(spec, axis) for axis in range(spec.n_dims)], str(spec)
    assert not reach.is_global


def _parse(body, channels=1, more=""):
    return parser.parse_model(
        f'<ir_version: 8, opset_import: ["": 17]> net (float[1, {channels}, H, W] x) => (float[N, C, P, Q] y) {more} {{ {body} }}'
    ).SerializeToString()


@pytest.mark.parametrize(
    ("body", "channels", "context", "operators"),
    [
        ("y = InstanceNormalization(x, s, s)", 1, (0, 0), ("InstanceNormalization",)),
        ("m = GlobalAveragePool(x) y = Mul(x, m)", 1, (0, 0), ("GlobalAveragePool",)),
        ("m = ReduceMean<axes = [2, 3]>(x) y = Sub(x, m)", 1, (0, 0), ("ReduceMean",)),
        ("m = ReduceMean<axes = [1]>(x) p = MaxPool<kernel_shape = [3, 3]>(x) c = Softmax<axis = 1>(p) y = Relu(c)", 2, (1, 1), ()),
        ("p = DepthToSpace<blocksize = 2>(x) y = SpaceToDepth<blocksize = 2>(p)", 4, (0, 0), ()),
        ('p = AveragePool<kernel_shape = [4, 4], auto_pad = "SAME_UPPER">(x) y = Add(p, x)', 1, (1, 2), ()),
        ('p = LpPool<kernel_shape = [2, 2], strides = [2, 2]>(x) y = Upsample<mode = "nearest">(p, f)', 1, (1, 1), ()),
    ],
)  # fmt: skip
def test_operators(body, channels, context, operators):
    """Operators that look at the whole tile are named, and the rest of the network keeps its reach."""
    found = _reach(_parse(body, channels, "<float[1] s = {1}, float[4] f = {1, 1, 2, 2}>"), channels=channels)
    (reach,) = found
    assert (reach.context, reach.global_operators) == ((context,) * 2, operators)


def test_attention():
    """Attention over all voxels looks at the whole tile; over windows, at the window."""
    whole = """
        t = Reshape(x, flat) k = Transpose<perm = [0, 2, 1]>(t) w = MatMul(k, t) a = Softmax<axis = 2>(w)
        m = MatMul(t, a) s = Shape(x) r = Reshape(m, s) y = Add(x, r)
    """
    (reach,) = _reach(_parse(whole, 2, "<int64[3] flat = {0, 2, -1}>"), channels=2)
    assert reach.is_global
    windows = """
        h = Shape<start = 2, end = 3>(x) w = Shape<start = 3, end = 4>(x) hs = Div(h, four) ws = Div(w, four)
        apart = Concat<axis = 0>(one, one, hs, four, ws, four) t = Reshape(x, apart) m = ReduceMax<axes = [3, 5]>(t)
        d = Sub(t, m) back = Concat<axis = 0>(one, one, h, w) y = Reshape(d, back)
    """
    (reach,) = _reach(_parse(windows, 1, "<int64[1] one = {1}, int64[1] four = {4}>"))
    assert (reach.context, reach.stride, reach.is_global) == (((3, 3),) * 2, (4, 4), False)


def test_position():
    """A network that adds the position in the tile is not the same at another place."""
    body = """
        w = Shape<start = 3, end = 4>(x) n = Squeeze(w) p = Range(zero, n, one) f = Cast<to = 1>(p) y = Add(x, f)
    """
    (reach,) = _reach(_parse(body, 1, "<int64 zero = {0}, int64 one = {1}>"))
    assert reach.global_operators == ("Add of a position",)


def test_half_a_voxel():
    """A margin of an odd number of voxels is not whole."""
    (reach,) = _reach(_parse("y = MaxPool<kernel_shape = [2, 1]>(x)"))
    assert (reach.margin, reach.overlaps) == ((Fraction(1, 2), Fraction(0)), (0, 0))


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("y = NonZero(x)", "the operator NonZero is not known"),
        ("y = GlobalMaxPool(x)", "its output is not an image"),
        ("f = Flatten(x) t = Transpose(f) y = MatMul(f, t)", "its output is not an image"),
    ],
)
def test_undecided(body, reason):
    """If an operator is not known, or there is no image, the reason is returned."""
    assert _reach(_parse(body)) == Undecided(reason)


def test_far():
    """A network that looks far is traced on larger images."""
    layers = ["c0 = Identity(x)"]
    layers += [
        f"c{i + 1} = MaxPool<kernel_shape = [3, 3], dilations = [250, 1], pads = [250, 1, 250, 1]>(c{i})"
        for i in range(3)
    ]
    (reach,) = _reach(_parse(" ".join([*layers, "y = Identity(c3)"])))
    assert reach.before == (750, 3)


def test_size_rule():
    """If a network accepts some sizes only, its rule may be given."""
    (reach,) = _reach(
        _parse("p = Reshape(x, s) y = Reshape(p, b)", 1, "<int64[4] s = {0, 0, 0, 0}, int64[4] b = {0, 0, 0, 0}>"),
        size_rule=[(7, 5), (8, 1)],
    )
    assert (reach.context, reach.stride) == (((0, 0),) * 2, (1, 1))
