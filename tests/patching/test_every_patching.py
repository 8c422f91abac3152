"""What holds for every strategy: the same specifications by every way to ask, plain numbers, and clear refusals."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from patchloom.errors import GeometryError, NotIntegerError, PatchIndexError
from patchloom.patching import (
    FixedPatching,
    FixedRandomPatching,
    Patching,
    RandomPatching,
    SequentialPatching,
    StratifiedPatching,
    TiledPatching,
    UncorrelatedPatching,
    WeightedPatching,
    WholeSamplePatching,
    split_training_validation,
)
from patchloom.specs.patch_specs import is_tile_specs, is_uncorrelated_specs
from patchloom.specs.spec_validation import validate_specs

Shapes = list[tuple[int, ...]]

PLANE: Shapes = [(2, 1, 40, 33), (1, 2, 25, 64), (3, 1, 18, 19)]
VOLUME: Shapes = [(2, 1, 9, 40, 33), (1, 1, 12, 18, 50)]


def excluding(shapes: Shapes, patch: Sequence[int], **options: Any) -> StratifiedPatching:
    patching = StratifiedPatching(shapes, patch, 3, **options)
    patching.exclude_patches(0, 1, [(0,) * len(patch)])
    patching.set_region_probs(1, 0, dict.fromkeys(patching.get_all_grid_coords()[1, 0][::2], 0.3))
    return patching


def weighted(shapes: Shapes, patch: Sequence[int]) -> WeightedPatching:
    rng = np.random.default_rng(4)
    grids = [(shape[0], *(-(-size // 5) for size in shape[2:])) for shape in shapes]
    weights = [rng.random(grid) * (rng.random(grid) < 0.4) for grid in grids]
    return WeightedPatching(shapes, patch, weights, (5,) * (len(shapes[0]) - 2 if shapes else 2), 3, n_patches=61)


STRATEGIES: dict[str, Callable[[Shapes, Sequence[int]], Patching[Any]]] = {
    "fixed": lambda shapes, patch: FixedPatching(RandomPatching(shapes, patch, 3)),
    "fixed random": lambda shapes, patch: FixedRandomPatching(shapes, patch, 3),
    "held out": lambda shapes, patch: split_training_validation(StratifiedPatching(shapes, patch, 3), 5)[1],
    "random": lambda shapes, patch: RandomPatching(shapes, patch, 3),
    "random, hanging over": lambda shapes, patch: RandomPatching(shapes, patch, 3, coverage="uniform"),
    "random, some": lambda shapes, patch: RandomPatching(shapes, patch, 3, n_patches=77),
    "sequential": lambda shapes, patch: SequentialPatching(shapes, patch, [size // 3 for size in patch]),
    "stratified": lambda shapes, patch: StratifiedPatching(shapes, patch, 3),
    "stratified, excluding": excluding,
    "stratified, some": lambda shapes, patch: excluding(shapes, patch, n_patches=71),
    "tiled": lambda shapes, patch: TiledPatching(shapes, patch, [size // 3 for size in patch]),
    "uncorrelated": lambda shapes, patch: UncorrelatedPatching(
        RandomPatching(shapes, patch, 3), 3, principal_channel=1, probability=0.5
    ),
    "weighted": weighted,
    "whole sample": lambda shapes, _: WholeSamplePatching(shapes),
}


@pytest.fixture(params=["plane", "volume"])
def shapes(request: pytest.FixtureRequest) -> Shapes:
    return PLANE if request.param == "plane" else VOLUME


@pytest.fixture(params=STRATEGIES)
def patching(request: pytest.FixtureRequest, shapes: Shapes) -> Patching[Any]:
    return STRATEGIES[request.param](shapes, (7, 8, 6)[: len(shapes[0]) - 2])


def test_valid_and_consistent(patching: Patching[Any], shapes: Shapes) -> None:
    """Specifications are valid, and every way to ask for them returns the same."""
    singly = [patching.get_patch_spec(index) for index in range(len(patching))]
    assert len(singly) == patching.n_patches > 0
    validate_specs(singly, shapes)  # also refuses numbers of NumPy's
    assert patching.specs(range(len(patching))).to_specs() == singly == list(patching)
    backwards = np.arange(len(patching))[::-1]
    assert patching.specs(backwards).to_specs() == singly[::-1]
    assert patching.specs(backwards.astype(np.uint16)).to_specs() == singly[::-1]
    assert patching[-1] == singly[-1] == patching[np.int64(len(patching) - 1)]
    assert patching[2:5].to_specs() == singly[2:5]
    assert len(patching.specs([])) == 0


def test_pure(patching: Patching[Any]) -> None:
    """Specifications do not depend on earlier questions or on the order of indices."""
    at_once = patching.specs(range(len(patching)))
    for workers in (1, 2, 5):
        for worker in range(workers):
            copy = pickle.loads(pickle.dumps(patching))  # as a worker gets it
            own = np.arange(worker, len(patching), workers)
            copy.specs(own[len(own) // 2 :])  # and a restart in the middle
            assert copy.specs(own) == at_once[own]


def test_indices_of_stacks(patching: Patching[Any], shapes: Shapes) -> None:
    """The indices of the stacks are ranges that partition the patching."""
    stacks = patching.specs(range(len(patching))).columns["data_idx"]
    for data_idx in range(len(shapes)):
        indices = patching.get_patch_indices(data_idx)
        assert isinstance(indices, range)
        assert list(indices) == np.flatnonzero(stacks == data_idx).tolist()
    with pytest.raises(PatchIndexError, match="data_idx is -1"):
        patching.get_patch_indices(-1)
    with pytest.raises(NotIntegerError, match=r"data_idx is 0\.0"):
        patching.get_patch_indices(0.0)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("index", "error", "message"),
    [
        (-1, PatchIndexError, "index is -1, but the patching has"),
        (10**9, PatchIndexError, "index is 1000000000, but the patching has"),
        (2**70, PatchIndexError, "index is 1180591620717411303424, but the patching has"),
        (1.0, NotIntegerError, "index is 1.0: it must be a whole number"),
        (np.float32(1), NotIntegerError, "index is .*1.0.*: it must be a whole number"),
        (True, NotIntegerError, "index is True"),
        (np.True_, NotIntegerError, "index is .*True"),
        (None, NotIntegerError, "index is None"),
    ],
)
def test_bad_index(patching: Patching[Any], index: Any, error: type[Exception], message: str) -> None:
    """Indices outside the patching are refused."""
    with pytest.raises(error, match=message):
        patching.get_patch_spec(index)
    with pytest.raises(error):
        patching.specs([index])
    with pytest.raises(error):
        patching.specs(np.array([index]))
    if index != -1:
        with pytest.raises(error):
            patching[index]


def test_epochs_and_pickles(patching: Patching[Any]) -> None:
    """A patching at the same epoch, or after pickling, returns the same patches."""
    everything = range(len(patching))
    moved = pickle.loads(pickle.dumps(patching.at_epoch(5)))
    assert moved.specs(everything) == patching.at_epoch(5).specs(everything)
    assert moved.at_epoch(0).specs(everything) == patching.specs(everything)
    with pytest.raises(GeometryError, match="epoch is -1"):
        patching.at_epoch(-1)
    with pytest.raises(NotIntegerError, match=r"epoch is 1\.5"):
        patching.at_epoch(1.5)  # type: ignore[arg-type]


def test_storage_order(patching: Patching[Any], shapes: Shapes) -> None:
    """The storage order contains every patch once, stack by stack."""
    order = patching.storage_order((1, 1, *(8,) * (len(shapes[0]) - 2)))
    assert sorted(order.tolist()) == list(range(len(patching)))
    stacks = patching.specs(order).columns["data_idx"].tolist()
    assert all(before <= after for before, after in pairwise(stacks))


def test_kind(patching: Patching[Any]) -> None:
    """Specifications are of the kind that the strategy declares."""
    spec = patching[0]
    assert is_tile_specs(spec) == isinstance(patching, TiledPatching)
    assert is_uncorrelated_specs(spec) == isinstance(patching, UncorrelatedPatching)
    assert isinstance(patching, Patching)


@pytest.mark.parametrize("name", ["fixed random", "random", "sequential", "stratified", "tiled"])
def test_ten_thousand_stacks(name: str) -> None:
    """A patching of ten thousand stacks of different sizes works."""
    shapes = [(1 + i % 3, 1, 16 + i % 97, 16 + i % 89) for i in range(10_000)]
    patching = STRATEGIES[name](shapes, (16, 16))
    indices = np.linspace(0, len(patching) - 1, 300).astype(int)
    assert patching.specs(indices).to_specs() == [patching[int(index)] for index in indices]


@pytest.mark.parametrize("name", [name for name in STRATEGIES if name not in {"whole sample", "fixed", "held out"}])
@pytest.mark.parametrize(
    ("shapes", "patch_size", "message"),
    [
        ([], (8, 8), "data_shapes is empty"),
        ([(2, 1, 30, 30), (1, 1, 30, 30, 30)], (8, 8), "image stack 1 is 3D .* patch size is 2D"),
        ([(2, 1, 30, 30), (1, 1, 30, 0)], (8, 8), "image stack 1 has shape"),
        ([(2, 1, 30, 30), (1, 1, 30, 30)], (8, 0), "patch_size is 0 along X"),
        ([(2, 1, 30, 30), (1, 1, 30, 30)], (8, 8.0), "patch_size\\[1\\] is 8.0: it must be a whole number"),
        ([(2, 1, 30, 30), (1, 1, 30, 30)], (8,), "patch_size is \\(8,\\): it has 1 numbers"),
    ],
)
def test_bad_geometry(name: str, shapes: Shapes, patch_size: Sequence[int], message: str) -> None:
    """Sizes that are not valid are refused."""
    with pytest.raises(GeometryError, match=message):
        STRATEGIES[name](shapes, patch_size)


@pytest.mark.parametrize(
    "name", ["fixed random", "random", "random, some", "sequential", "stratified", "uncorrelated", "weighted"]
)
def test_patch_too_large(name: str) -> None:
    """A patch larger than an image is refused, and the message names the image."""
    message = "patch_size is 24 along Y, but image stack 1 has size 20 there \\(shape \\(3, 1, 20, 60\\)\\)"
    with pytest.raises(GeometryError, match=message):
        STRATEGIES[name]([(2, 1, 40, 40), (3, 1, 20, 60)], (24, 16))
    patching = STRATEGIES["random, hanging over"]([(2, 1, 40, 40), (3, 1, 20, 60)], (24, 16))
    validate_specs(list(patching), [(2, 1, 40, 40), (3, 1, 20, 60)])


@pytest.mark.parametrize("seed", [-1, 2**64, 1.5, "1", True])
def test_bad_seed(seed: Any) -> None:
    """Values that are not a seed are refused."""
    for strategy in (RandomPatching, StratifiedPatching):
        with pytest.raises(GeometryError, match="seed is"):
            strategy([(1, 1, 40, 40)], (8, 8), seed)


@pytest.mark.parametrize("n_patches", [0, -3, 1.5, True])
def test_bad_n_patches(n_patches: Any) -> None:
    """Values that are not a number of patches are refused."""
    for strategy in (RandomPatching, FixedRandomPatching, StratifiedPatching):
        with pytest.raises(GeometryError, match="n_patches is"):
            strategy([(1, 1, 40, 40)], (8, 8), 1, n_patches=n_patches)


def test_one_number_for_all_axes() -> None:
    """One number stands for all axes of a size, in 2D and in 3D."""
    for shape in ((2, 1, 50, 60), (1, 1, 20, 50, 60)):
        n_dims, shapes = len(shape) - 2, [shape]
        sizes = (16,) * n_dims
        assert list(TiledPatching(shapes, 16, 4)) == list(TiledPatching(shapes, sizes, (4,) * n_dims))
        assert list(RandomPatching(shapes, 16)) == list(RandomPatching(shapes, sizes))
        assert list(StratifiedPatching(shapes, 16)) == list(StratifiedPatching(shapes, sizes))
        assert list(SequentialPatching(shapes, 16, 4)) == list(SequentialPatching(shapes, sizes, (4,) * n_dims))
        weights = [np.ones((shape[0], *(-(-size // 10) for size in shape[2:])))]
        assert list(WeightedPatching(shapes, 16, weights, 10)) == list(
            WeightedPatching(shapes, sizes, weights, (10,) * n_dims)
        )
