"""Reaches as values."""

import json
from fractions import Fraction

import pytest

from patchloom.prediction.probe.report import Reach, join_reaches


def _reach(before=4, after=3, stride=2, **fields) -> Reach:
    one, zero = (Fraction(1),) * 2, (Fraction(0),) * 2
    return Reach(
        (before,) * 2, (after,) * 2, (stride,) * 2, **{"scale": one, "margin": zero, "method": "NaN", **fields}
    )


def test_json():
    """A reach goes to JSON and back."""
    reach = _reach(
        scale=(Fraction(1, 2), Fraction(2)), margin=(Fraction(5, 2), Fraction(0)), global_operators=("Softmax",)
    )
    assert Reach.from_dict(json.loads(json.dumps(reach.to_dict()))) == reach


@pytest.mark.parametrize("change", [{"method": "guess"}, {"before": ["4", "4"]}, {"more": 1}])
def test_wrong_json(change):
    """Values that are not those of a reach are refused."""
    with pytest.raises((TypeError, ValueError)):
        Reach.from_dict(_reach().to_dict() | change)


def test_join():
    """The reach of several outputs is the largest one, and the stride a multiple of all."""
    joined = join_reaches([_reach(4, 3, 2), _reach(2, 5, 3, is_lower_bound=True, global_operators=("Softmax",))])
    assert (joined.context, joined.stride) == (((4, 5),) * 2, (6, 6))
    assert joined.is_lower_bound
    assert joined.is_global
    assert join_reaches([_reach()]) == _reach()
