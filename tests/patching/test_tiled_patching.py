"""Tiled plans: what is kept partitions every image, and plans of any size cost nothing."""

from __future__ import annotations

import pickle
import tracemalloc
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patchloom.errors import GeometryError, NotIntegerError, PatchIndexError
from patchloom.patching import TiledPatching, WholeSamplePatching
from patchloom.specs.patch_specs import is_tile_specs
from patchloom.specs.spec_validation import validate_specs


@st.composite
def tilings(draw: st.DrawFn) -> TiledPatching:
    """Small series of 2D or 3D stacks under any tiling that leaves a step."""
    n_dims = draw(st.integers(2, 3))
    sizes = st.tuples(st.integers(1, 3), st.integers(1, 2), *[st.integers(1, 23)] * n_dims)
    patch_size = draw(st.tuples(*[st.integers(1, 11)] * n_dims))
    overlaps = tuple(draw(st.integers(0, patch - 1)) for patch in patch_size)
    seams = draw(st.sampled_from(["centered", "grid"]))
    return TiledPatching(draw(st.lists(sizes, min_size=1, max_size=3)), patch_size, overlaps, seams=seams)


@settings(deadline=None, max_examples=60)
@given(tilings())
def test_partition(tiling: TiledPatching) -> None:
    """Kept windows cover every voxel of every sample exactly once."""
    coverage = [np.zeros((shape[0], *shape[2:]), dtype=int) for shape in tiling.data_shapes]
    for spec in tiling:
        kept = tuple(
            slice(start, start + size) for start, size in zip(spec["stitch_coords"], spec["crop_size"], strict=True)
        )
        coverage[spec["data_idx"]][spec["sample_idx"]][kept] += 1
    assert all((counts == 1).all() for counts in coverage)


@settings(deadline=None, max_examples=60)
@given(tilings())
def test_valid_and_consistent(tiling: TiledPatching) -> None:
    """Specifications are valid, and every way to ask for them returns the same."""
    singly = [tiling.get_patch_spec(index) for index in range(len(tiling))]
    validate_specs(singly, tiling.data_shapes)
    assert all(is_tile_specs(spec) for spec in singly)
    assert tiling.specs(range(len(tiling))).to_specs() == singly == list(tiling) == list(tiling.tile_specs)
    assert tiling.specs(np.arange(len(tiling))[::-2]).to_specs() == singly[::-2]
    assert tiling.indices_of(tiling).tolist() == list(range(len(tiling)))
    assert tiling.index_of(tiling[-1]) == len(tiling) - 1
    assert [tiling[index - len(tiling)] for index in range(len(tiling))] == singly
    assert pickle.loads(pickle.dumps(tiling))[-1] == singly[-1]


@settings(deadline=None, max_examples=40)
@given(tilings())
def test_indices_of_stacks(tiling: TiledPatching) -> None:
    """The indices of a stack are a range whose length is `total_tiles`."""
    specs = list(tiling)
    for data_idx in range(len(tiling.data_shapes)):
        indices = tiling.get_patch_indices(data_idx)
        assert isinstance(indices, range)
        assert [i for i, spec in enumerate(specs) if spec["data_idx"] == data_idx] == list(indices)
        assert {specs[i]["total_tiles"] for i in indices} == {len(indices)}


def test_tiles_touching() -> None:
    """The tiles that touch a window are found in its sample only."""
    tiling = TiledPatching([(1, 1, 20, 20), (3, 1, 30, 17)], (8, 6), (3, 2))
    for window in [(slice(0, 30), slice(0, 17)), (slice(6, 7), slice(3, 9)), (slice(29, 30), slice(16, 17))]:
        for sample_idx in range(3):
            expected = [
                index
                for index, spec in enumerate(tiling)
                if (spec["data_idx"], spec["sample_idx"]) == (1, sample_idx)
                and all(
                    start < part.stop and start + size > part.start
                    for start, size, part in zip(spec["stitch_coords"], spec["crop_size"], window, strict=True)
                )
            ]
            assert tiling.tiles_touching(1, sample_idx, window).tolist() == expected
    with pytest.raises(GeometryError, match="window is 0:31 along Y"):
        tiling.tiles_touching(1, 0, (slice(0, 31), slice(0, 17)))


def test_trillion_tiles() -> None:
    """A tiling of a trillion tiles takes no memory, and any tile can be asked for."""
    tracemalloc.start()
    tiling = TiledPatching([(1, 1, 10**6, 10**6, 10**6)], (128,) * 3, (32,) * 3)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**20
    assert len(tiling) == 10417**3
    assert tiling[len(tiling) - 1] == tiling[-1] == tiling.specs([len(tiling) - 1])[0]
    assert tiling[-1]["coords"] == (10**6 - 128,) * 3
    assert tiling[10**11]["stitch_coords"][2] == (10**11 % 10417) * 96 + 16


def test_ten_thousand_stacks() -> None:
    """A tiling of ten thousand stacks of different sizes works."""
    shapes = [(1, 1, 10 + i % 97, 10 + i % 89) for i in range(10_000)]
    tiling = TiledPatching(shapes, (16, 16), (4, 4))
    indices = np.linspace(0, len(tiling) - 1, 300).astype(int)
    assert tiling.specs(indices).to_specs() == [tiling[int(index)] for index in indices]


@pytest.mark.parametrize(
    ("index", "error", "message"),
    [
        (4, PatchIndexError, "index is 4, but the patching has 4 patches"),
        (-1, PatchIndexError, "index is -1"),
        (1.0, NotIntegerError, "index is 1.0: it must be a whole number"),
        (True, NotIntegerError, "index is True"),
        ("1", NotIntegerError, "index is '1'"),
    ],
)
def test_bad_index(index: object, error: type[Exception], message: str) -> None:
    """Indices outside the tiling are refused."""
    tiling = TiledPatching([(1, 1, 20, 20)], (12, 12), (2, 2))
    with pytest.raises(error, match=message):
        tiling.get_patch_spec(index)  # type: ignore[arg-type]
    with pytest.raises(error):
        tiling.specs([index])  # type: ignore[list-item]


def test_numpy_integers() -> None:
    """NumPy integers are accepted, and specifications contain plain `int` only."""
    tiling = TiledPatching(np.array([[1, 1, 20, 20]]), np.array([12, 12]), np.array([2, 2]))
    spec = tiling[np.int64(3)]
    assert all(
        type(number) is int for value in spec.values() for number in (value if isinstance(value, tuple) else [value])
    )
    assert [type(size) for shape in tiling.data_shapes for size in shape] == [int] * 4


@pytest.mark.parametrize(
    ("shapes", "patch_size", "overlaps", "message"),
    [
        ([], (8, 8), (0, 0), "data_shapes is empty"),
        ([(1, 1, 9, 9, 9)], (8, 8), (0, 0), "image stack 0 is 3D .* patch size is 2D: .* Z, Y, X"),
        ([(1, 1, 9, 9), (1, 1, 9, 9, 9)], (8, 8), (0, 0), "image stack 1 is 3D"),
        ([(1, 1, 9, 9)], (8,), (0,), "patch_size is \\(8,\\): it has 1 numbers and must have 2 or 3"),
        ([(1, 1, 9, 9)], (8, 8), (0,), "overlaps is \\(0,\\): it has 1 numbers and must have 2 \\(Y, X\\)"),
        ([(1, 1, 9, 9)], (8, 8), (0, 8), "overlaps is 8 along X"),
        ([(1, 1, 9, 9)], (8, 0), (0, 0), "patch_size is 0 along X"),
        ([(1, 1, 9, 9)], (8, -8), (0, 0), "patch_size is -8 along X"),
        ([(1, 1, 9, 9)], (8, 8), (-1, 0), "overlaps is -1 along Y"),
        ([(1, 1, 9, 9)], (8, 8.0), (0, 0), "patch_size\\[1\\] is 8.0: it must be a whole number"),
        ([(1, 1, 9, 9)], "8", (0, 0), "patch_size is '8': it must be one whole number for each"),
        ([(1, 1, 0, 9)], (8, 8), (0, 0), "image stack 0 has shape \\(1, 1, 0, 9\\)"),
        ([(9, 9)], (8, 8), (0, 0), "image stack 0 has shape \\(9, 9\\): it must be SCYX or SCZYX"),
    ],
)
def test_bad_geometry(
    shapes: Sequence[Sequence[int]], patch_size: Sequence[int], overlaps: Sequence[int], message: str
) -> None:
    """Sizes that are not valid are refused, and the message names the argument."""
    with pytest.raises(GeometryError, match=message):
        TiledPatching(shapes, patch_size, overlaps)


def test_whole_samples() -> None:
    """Whole samples are one patch each."""
    shapes = [(2, 1, 5, 6), (1, 1, 7, 8)]
    patching = WholeSamplePatching(shapes)
    specs = list(patching.patch_specs)
    validate_specs(specs, shapes)
    assert [(spec["data_idx"], spec["sample_idx"], spec["patch_size"]) for spec in specs] == [
        (0, 0, (5, 6)),
        (0, 1, (5, 6)),
        (1, 0, (7, 8)),
    ]
    assert patching.specs([2, 0]).to_specs() == [specs[2], specs[0]]
    with pytest.raises(GeometryError, match="image stack 1 is 3D"):
        WholeSamplePatching([(1, 1, 5, 6), (1, 1, 5, 6, 7)])
