"""Checks that inputs, targets and plan of a dataset belong together.

Inputs and targets are paired by their order, so their names should be in one order too. What all names of a series have in
common is ignored: folders, `_mask`, endings. Names are cut into words, numbers and signs, the common ones at both ends are left
out, and the rest identifies an image. If all file names of a series are alike, as `raw.tif` in one folder for each image, whole
paths are compared.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from itertools import takewhile

from patchloom.errors import GeometryError
from patchloom.image_stacks import ImageStack
from patchloom.patching import Patching
from patchloom.specs.patch_specs import PatchSpecs

_TOKENS = re.compile(r"\d+|[^\W\d_]+|[\W_]")

Name = tuple[str, ...]


def check_pairs(inputs: Sequence[ImageStack], targets: Sequence[ImageStack]) -> None:
    """Refuse targets that do not fit the inputs, and warn if their names are in another order.

    Raises
    ------
    GeometryError
        If the numbers of inputs and targets differ, or a pair differs in samples or size.
    """
    if len(inputs) != len(targets):
        raise GeometryError(f"there are {len(targets)} targets for {len(inputs)} inputs: give one for each")
    for data_idx, (one, other) in enumerate(zip(inputs, targets, strict=True)):
        shape, target_shape = tuple(one.data_shape), tuple(other.data_shape)
        if (shape[0], *shape[2:]) != (target_shape[0], *target_shape[2:]):
            raise GeometryError(
                f"input {data_idx}, {one.source}, has shape SC(Z)YX {shape} and its target, {other.source}, has "
                f"{target_shape}: they must have the same samples and size, and may differ in channels"
            )
    _warn_of_order([str(stack.source) for stack in inputs], [str(stack.source) for stack in targets])


def _warn_of_order(inputs: Sequence[str], targets: Sequence[str]) -> None:
    pair = misplaced_pair(inputs, targets)
    if pair is not None:
        warnings.warn(
            f"inputs and targets are paired by their order, and the names of pair {pair} differ: the input is {inputs[pair]}, the "
            f"target {targets[pair]}; sort both in the same way",
            UserWarning,
            stacklevel=4,
        )


def check_plan(patching: Patching[PatchSpecs], inputs: Sequence[ImageStack]) -> None:
    """Refuse a plan that was made for other images.

    Raises
    ------
    GeometryError
        If the images of the plan have other shapes, apart from channels.
    """
    planned = getattr(patching, "data_shapes", None)
    if planned is None:
        return
    shapes = [tuple(stack.data_shape) for stack in inputs]
    if [(shape[0], *shape[2:]) for shape in planned] != [(shape[0], *shape[2:]) for shape in shapes]:
        raise GeometryError(f"the patching is for images of shapes {list(planned)}, but the inputs have {shapes}")


def misplaced_pair(inputs: Sequence[str], targets: Sequence[str]) -> int | None:
    """Return the first pair whose names do not belong together, or None.

    A name is misplaced if it is equal to the name of another pair's partner, or if it differs from its partner's while most pairs
    agree. Series whose names have nothing in common are not compared.

    Parameters
    ----------
    inputs, targets : sequence of str
        Paths or other names; the lists have one length.

    Examples
    --------
    >>> misplaced_pair(["raw/a.tif", "raw/b.tif"], ["masks/a_mask.tif", "masks/b_mask.tif"])
    >>> misplaced_pair(["img1.tif", "img2.tif", "img10.tif"], ["mask1.tif", "mask10.tif", "mask2.tif"])
    1
    """
    one, other = _distinct_parts(inputs), _distinct_parts(targets)
    differ = [number for number, pair in enumerate(zip(one, other, strict=True)) if pair[0] != pair[1]]
    most_agree = 2 * len(differ) < len(one)
    return next(
        (number for number in differ if most_agree or one[number] in other or other[number] in one),
        None,
    )


def _distinct_parts(names: Sequence[str]) -> list[Name]:
    """Return each name without the parts that all names have in common."""
    paths = [name.replace("\\", "/").rstrip("/") for name in names]
    last = [path.rpartition("/")[2] for path in paths]
    tokens = [_tokens(name) for name in (last if len(set(last)) == len(last) else paths)]
    tokens = _without_common_start(tokens)
    return [name[::-1] for name in _without_common_start([name[::-1] for name in tokens])]


def _tokens(name: str) -> Name:
    return tuple(token.lstrip("0") or "0" if token.isdecimal() else token for token in _TOKENS.findall(name.casefold()))


def _without_common_start(names: list[Name]) -> list[Name]:
    alike = (len(set(tokens)) == 1 for tokens in zip(*names, strict=False))
    n_common = sum(1 for _ in takewhile(bool, alike))
    return [name[n_common:] for name in names]
