"""The rule for the sizes of tiles is found by trying sizes."""

from __future__ import annotations

import pytest

from patchloom.prediction.probe.size_search import SizeRule, find_size_rules, first_size

RULES = [(1, 1), (9, 1), (4, 4), (32, 16), (28, 16), (12, 12), (50, 10), (21, 7), (64, 64), (15, 3)]


@pytest.mark.parametrize("n_dims", [2, 3])
@pytest.mark.parametrize(("least", "step"), RULES)
def test_rules(least: int, step: int, n_dims: int) -> None:
    """Least size, step and residue are those of the model, whatever size is accepted first."""

    def accepts(size: tuple[int, ...]) -> bool:
        return all(side >= least and (side - least) % step == 0 for side in size)

    start = (least + -(-100 // step) * step,) * n_dims
    found = find_size_rules(accepts, start)
    assert [(rule.least, rule.modulus, rule.residue) for rule in found] == [(least, step, least % step)] * n_dims


def test_axes_differ() -> None:
    """Each axis has its own rule."""
    rules = (SizeRule(4, 4), SizeRule(20, 8))
    found = find_size_rules(
        lambda size: all(rule.at_least(side) == side for rule, side in zip(rules, size, strict=True)), (128, 132)
    )
    assert found == rules


def test_fixed() -> None:
    """A model that takes one size has a fixed rule."""
    assert find_size_rules(lambda size: size == (64, 96), (64, 96)) == (
        SizeRule(64, is_fixed=True),
        SizeRule(96, is_fixed=True),
    )


def test_squares_only() -> None:
    """Of a model that takes squares, the rule holds for both sides together."""
    found = find_size_rules(lambda size: size[0] == size[1] and size[0] % 8 == 0, (128, 128))
    assert [rule.modulus for rule in found] == [8, 8]


@pytest.mark.parametrize("residue", [0, 5, 12, 31])
def test_first_size(residue: int) -> None:
    """A size is found whatever a network of stride 32 leaves."""
    size = first_size(lambda size: all(side > 40 and side % 32 == residue for side in size), 2)
    assert size is not None
    assert size[0] % 32 == residue
    assert first_size(lambda _: False, 3) is None
