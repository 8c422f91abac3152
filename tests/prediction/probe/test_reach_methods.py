"""The reach of a model is found by the best method, and checked by a second one."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from onnx import parser

import patchloom as pl
from patchloom.prediction.probe.reach_methods import Asked, measure_reach
from patchloom.prediction.probe.report import Reach, Undecided
from patchloom.prediction.probe.watched_model import WatchedModel

ASKED = Asked(WatchedModel(np.negative, 5), 1, np.dtype("float32"), ())
ONES, ZEROS = (Fraction(1),) * 2, (Fraction(0),) * 2
GRAPH = Reach((20, 20), (17, 17), (8, 8), ONES, ZEROS, "onnx graph")
NOISE = Reach((21, 3), (5, 5), (4, 4), ONES, ZEROS, "noise", is_lower_bound=True)


def test_one() -> None:
    """Of several methods, the first that finds something counts; the reasons of the others are remarks."""
    methods = [lambda asked: None, lambda asked: Undecided("NonZero is not known"), lambda asked: (GRAPH,)]
    reach, checked_by, remarks = measure_reach(ASKED, methods)
    assert (reach, checked_by) == (GRAPH, None)
    assert remarks == ("the reach was not found: NonZero is not known",)
    assert measure_reach(ASKED, [])[0] is None


def test_two() -> None:
    """Where two methods disagree, the larger numbers are used, and a remark contains both."""
    reach, checked_by, (remark,) = measure_reach(ASKED, [lambda asked: (GRAPH,), lambda asked: (NOISE,)])
    assert reach is not None
    assert (reach.before, reach.after, reach.stride, reach.is_lower_bound) == ((21, 20), (17, 17), (8, 8), False)
    assert checked_by == NOISE
    assert "onnx graph" in remark
    assert "noise" in remark
    smaller = Reach((3, 3), (3, 3), (8, 8), ONES, ZEROS, "noise", is_lower_bound=True)
    assert measure_reach(ASKED, [lambda asked: (GRAPH,), lambda asked: (smaller,)]) == (GRAPH, smaller, ())


NETWORK = """
<ir_version: 8, opset_import: ["": 17]>
blur (float[N, 1, H, W] x) => (float[N, 1, H, W] y) {{
    blurred = AveragePool<kernel_shape = [5, 5], pads = [2, 2, 2, 2]>(x)
    scale = Constant<value = float[1] {{1}}>()
    bias = Constant<value = float[1] {{0}}>()
    normed = {norm}
    half = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(normed)
    scales = Constant<value = float[4] {{1, 1, 2, 2}}>()
    y = Resize<mode = "nearest", coordinate_transformation_mode = "asymmetric", nearest_mode = "floor">(half, , scales)
}}
"""


@pytest.mark.parametrize(
    ("norm", "is_global"),
    [("Identity(blurred)", False), ("InstanceNormalization(blurred, scale, bias)", True)],
    ids=["local", "instance norm"],
)
def test_onnx(norm: str, *, is_global: bool) -> None:
    """The graph of an ONNX file shows the reach, the stride and operators on the whole tile, which the table contains."""
    found = pl.probe(pl.OnnxModel(parser.parse_model(NETWORK.format(norm=norm)).SerializeToString(), layout="NCHW"))
    assert found.reach is not None
    assert (found.reach.context, found.stride) == (((3, 3),) * 2, (2, 2))
    assert (found.is_global, found.is_certain) == (is_global, True)
    assert found.halo == (3, 3)
    rows = dict(found.rows())
    assert rows["overlap"].endswith("6 × 6, halo 3 × 3")
    assert ("no overlap makes" in rows["whole tile"]) == is_global
