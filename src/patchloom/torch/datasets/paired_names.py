"""Whether inputs and targets that are paired by order have names in the same order.

What the names of a series have in common says nothing: folders, `_mask`, endings. Names are cut into words, numbers and signs,
the common ones at both ends are left out, and what remains identifies an image. Where all file names of a series are alike, as
`raw.tif` in a folder for each image, whole paths are compared.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import takewhile

_TOKENS = re.compile(r"\d+|[^\W\d_]+|[\W_]")

Name = tuple[str, ...]


def misplaced_pair(inputs: Sequence[str], targets: Sequence[str]) -> int | None:
    """Return the first pair whose names do not belong together; None if there is no sign of such a pair.

    A name is misplaced if it is that of another pair's partner, or if it differs from its partner's where most pairs agree.
    Series whose names have nothing to do with each other are not compared.

    Parameters
    ----------
    inputs, targets : sequence of str
        Paths or other names, as many of each.

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
    """Return what is left of each name without what all have in common."""
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
