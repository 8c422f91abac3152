"""The order of storage: chunks that are still needed are still held."""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from math import prod
from typing import Any

import numpy as np
import pytest

from patchloom.errors import GeometryError
from patchloom.patching import Patching, RandomPatching, TiledPatching


def decodes(patching: Patching[Any], order: Iterable[int], chunk: Sequence[int], room: int) -> int:
    """How many chunks are decoded in a pass with a cache of some chunks that drops what was used longest ago."""
    cache: OrderedDict[tuple[int, ...], None] = OrderedDict()
    count = 0
    for index in order:
        spec = patching[int(index)]
        shape = patching.data_shapes[spec["data_idx"]][2:]  # type: ignore[attr-defined]
        ranges = [
            range(max(0, start) // side, (min(start + size, end) - 1) // side + 1)
            for start, size, end, side in zip(spec["coords"], spec["patch_size"], shape, chunk[2:], strict=True)
        ]
        for touched in itertools.product([spec["data_idx"]], [spec["sample_idx"] // chunk[0]], *ranges):
            count += touched not in cache
            cache[touched] = None
            cache.move_to_end(touched)
            if len(cache) > room:
                cache.popitem(last=False)
    return count


@pytest.mark.parametrize("shape", [(32, 48, 160), (160, 48, 32), (48, 160, 32)])
def test_decodes_once(shape: tuple[int, ...]) -> None:
    """A tiled pass decodes each chunk once with an LRU cache of two cross-sections."""
    tiling = TiledPatching([(1, 1, *shape)], (12, 12, 12), (4, 4, 4))
    chunk = (1, 1, 8, 8, 8)
    n_chunks = [size // 8 for size in shape]
    plane = prod(n_chunks) // max(n_chunks)
    order = tiling.storage_order(chunk)
    assert sorted(order.tolist()) == list(range(len(tiling)))
    assert decodes(tiling, order, chunk, room=2 * plane + 2) == prod(n_chunks)
    if shape[0] != max(shape):
        assert decodes(tiling, range(len(tiling)), chunk, room=2 * plane + 2) > 1.5 * prod(n_chunks)


def test_chunk_by_chunk() -> None:
    """Small tiles finish a chunk before the next one."""
    tiling = TiledPatching([(2, 1, 128, 256), (1, 1, 300, 64)], (16, 16), (0, 0))
    chunk = (1, 1, 64, 64)
    total = 2 * 2 * 4 + 5 * 1
    assert decodes(tiling, tiling.storage_order(chunk), chunk, room=1) == total
    assert decodes(tiling, range(len(tiling)), chunk, room=1) > 3 * total


def test_samples_of_a_chunk() -> None:
    """Samples of one chunk are visited together."""
    tiling = TiledPatching([(8, 1, 64, 64)], (32, 32), (0, 0))
    chunk = (4, 1, 32, 32)
    assert decodes(tiling, tiling.storage_order(chunk), chunk, room=1) == 2 * 4
    assert decodes(tiling, range(len(tiling)), chunk, room=1) == 8 * 4


def test_random_patches() -> None:
    """Random patches are visited chunk by chunk too."""
    patching = RandomPatching([(1, 1, 512, 512)], (16, 16), 1, n_patches=2000)
    chunk = (1, 1, 64, 64)
    assert decodes(patching, patching.storage_order(chunk), chunk, room=20) == 64
    assert decodes(patching, range(2000), chunk, room=20) > 1000


def test_chunk_shape_per_stack() -> None:
    """Each stack may have its own chunk shape."""
    tiling = TiledPatching([(1, 1, 32, 32), (1, 1, 32, 32)], (8, 8), (0, 0))
    order = tiling.storage_order([(1, 1, 8, 32), (1, 1, 32, 8)])
    assert [tiling[int(index)]["coords"] for index in order[:5]] == [(0, 0), (0, 8), (0, 16), (0, 24), (8, 0)]
    assert [tiling[int(index)]["coords"] for index in order[16:21]] == [(0, 0), (8, 0), (16, 0), (24, 0), (0, 8)]
    assert order.dtype == np.int64


@pytest.mark.parametrize(
    ("chunk_shape", "message"),
    [
        ((8, 8), r"chunk shape of image stack 0 is \(8, 8\): it must be 4 sizes of at least 1, one for each of SCYX"),
        ((1, 1, 8, 0), r"chunk shape of image stack 0 is \(1, 1, 8, 0\)"),
        ((1, 1, 8, 8.0), r"chunk_shape is 8\.0: it must be a whole number"),
        ([(1, 1, 8, 8)], "chunk_shape has 1 chunk shapes, but the patches lie in 2 image stacks"),
    ],
)
def test_bad_chunk_shape(chunk_shape: Any, message: str) -> None:
    """Chunk shapes that are not valid are refused."""
    with pytest.raises(GeometryError, match=message):
        TiledPatching([(1, 1, 32, 32), (1, 1, 32, 32)], (8, 8), (0, 0)).storage_order(chunk_shape)
