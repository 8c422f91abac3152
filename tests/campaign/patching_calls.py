"""Patchings, tables of specifications, and their checks."""

from __future__ import annotations

import numpy as np

import patchloom as pl

from . import world
from .entry import entry
from .hostile import (
    ARRAY,
    AXES,
    OF_OTHER_DTYPES,
    OUTPUT_PATH,
    SEED,
    SOURCE_PATH,
    STRANGERS,
    Kind,
    inside,
    instance,
    mapping,
    number,
    numbers_of_choice,
    optional,
    sequence_of,
    slices,
    tuple_of_whole,
    whole,
    word,
)

SHAPES = sequence_of(tuple_of_whole(4, 1), lambda: [(1, 1, 99, 99), (1, 1, 99, 99)], keep=99)
SIZE = tuple_of_whole(2, 1, one=True)
PATCHING = instance("plan", table=world.table, shapes=lambda: world.SHAPES, stacks=world.stacks)
SPEC_VALUES = {
    "missing field": lambda: {"data_idx": 0},
    "past the series": lambda: {**world.SPEC, "data_idx": 1},
    "negative stack": lambda: {**world.SPEC, "data_idx": -1},
    "past the samples": lambda: {**world.SPEC, "sample_idx": 2},
    "huge": lambda: {**world.SPEC, "data_idx": 10**30},
    "text": lambda: {**world.SPEC, "data_idx": "0"},
    "text coords": lambda: {**world.SPEC, "coords": "46"},
    "no coords": lambda: {**world.SPEC, "coords": None},
    "3D": lambda: {**world.SPEC, "coords": (0, 0, 0)},
    "3D size": lambda: {**world.SPEC, "patch_size": (4, 4, 4)},
    "size of zero": lambda: {**world.SPEC, "patch_size": (0, 16)},
    "negative size": lambda: {**world.SPEC, "patch_size": (-4, 16)},
    "fractions": lambda: {**world.SPEC, "coords": (0.5, 6)},
    "nan": lambda: {**world.SPEC, "coords": (float("nan"), 6)},
    "nested": lambda: {**world.SPEC, "coords": ((4, 6), (4, 6))},
    "flag": lambda: {**world.SPEC, "data_idx": True},
    "numbers as keys": lambda: dict(enumerate(world.SPEC.values())),
}
SPEC = Kind("specification", {**STRANGERS, **SPEC_VALUES})
MANY_SPECS = Kind(
    "specifications",
    {
        **STRANGERS,
        **inside(SPEC_VALUES, lambda: [world.SPEC] * 2),
        "None inside": lambda: [world.SPEC, None],
        "number inside": lambda: [world.SPEC, 3],
        "text inside": lambda: [world.SPEC, "spec"],
        "mixed kinds": lambda: [world.SPEC, world.tiling()[0]],
    },
)
NOT_IN_A_TABLE = (
    "past the series inside",
    "negative stack inside",
    "past the samples inside",
    "size of zero inside",
    "negative size inside",
)
INDICES = (
    numbers_of_choice(12)
    .accepting("[]", because="no indices are indices")
    .refusing(
        flags=lambda: np.array([True, False]),
        text_array=lambda: np.array(["0"]),
        ragged=lambda: [[0], [0, 1]],
        unsigned=lambda: np.array([2**64 - 1], np.uint64),
    )
)


def _plan(kind, **arguments):
    return lambda: (kind, {"data_shapes": world.SHAPES, "patch_size": (16, 16), **arguments})


RANDOM = {"data_shapes": SHAPES, "patch_size": SIZE, "seed": optional(SEED), "n_patches": optional(whole(1))}
WORDS = {
    "data_shapes": ("shape", "image stack", "patch_size", "patches"),
    "patch_size": ("patch size", "patch", "data_shapes", "dimension"),
    "overlaps": ("overlap",),
    "origin_multiple": ("origin",),
}

entry(
    "TiledPatching",
    _plan(pl.TiledPatching, overlaps=(4, 4), seams="centered", origin_multiple=1, halo=2, seam_multiple=1),
    data_shapes=SHAPES,
    patch_size=SIZE,
    overlaps=tuple_of_whole(2, 0, one=True),
    seams=word("centered", "grid"),
    origin_multiple=tuple_of_whole(2, 1, one=True),
    halo=tuple_of_whole(2, 0, one=True),
    seam_multiple=tuple_of_whole(2, 1, one=True),
    words=WORDS,
)
entry(
    "SequentialPatching",
    _plan(pl.SequentialPatching, overlaps=None),
    data_shapes=SHAPES,
    patch_size=SIZE,
    overlaps=optional(tuple_of_whole(2, 0, one=True)),
    words=WORDS,
)
entry(
    "RandomPatching",
    _plan(pl.RandomPatching, seed=1, n_patches=8, coverage="inside"),
    **RANDOM,
    coverage=word("inside", "even"),
    words=WORDS,
)
entry(
    "FixedRandomPatching",
    _plan(pl.FixedRandomPatching, seed=1, n_patches=8, coverage="inside"),
    **RANDOM,
    coverage=word("inside", "even"),
    words=WORDS,
)
entry("StratifiedPatching", _plan(pl.StratifiedPatching, seed=1, n_patches=8), **RANDOM, words=WORDS)
entry(
    "WholeSamplePatching",
    lambda: (pl.WholeSamplePatching, {"data_shapes": world.SHAPES}),
    data_shapes=SHAPES,
    words=WORDS,
)
WEIGHTS = sequence_of(ARRAY, lambda: [np.ones((2, 4, 3))], keep=99).refusing(
    negative=lambda: [-np.ones((2, 4, 3))],
    nan=lambda: [np.full((2, 4, 3), np.nan)],
    inf=lambda: [np.full((2, 4, 3), np.inf)],
    zeros=lambda: [np.zeros((2, 4, 3))],
    shape=lambda: [np.ones((2, 4, 4))],
    complex=lambda: [np.ones((2, 4, 3), complex)],
    too_many=lambda: [np.ones((2, 4, 3))] * 2,
    dtype_object=lambda: [np.full((2, 4, 3), None)],
    text=lambda: [np.full((2, 4, 3), "a")],
)
entry(
    "WeightedPatching",
    _plan(pl.WeightedPatching, weights=[np.ones((2, 4, 3))], cell_size=(16, 16), seed=1, n_patches=8),
    **RANDOM,
    weights=WEIGHTS,
    cell_size=SIZE,
    words={
        **WORDS,
        "weights": ("weight",),
        "data_shapes": (*WORDS["data_shapes"], "weights"),
        "cell_size": ("cell", "weights"),
    },
)
STACKS = sequence_of(instance("stack"), world.stacks, keep=99).refusing(
    arrays=lambda: [world.pixels()],
    one_stack=lambda: world.stacks()[0],
    mixed=lambda: [*world.stacks(), *pl.open_stacks([np.zeros((4, 64, 48))], axes="ZYX")],
)
entry(
    "FixedPatching",
    lambda: (pl.FixedPatching, {"fixed_patch_specs": [world.SPEC]}),
    fixed_patch_specs=MANY_SPECS.accepting(
        "[]", *NOT_IN_A_TABLE[:1], NOT_IN_A_TABLE[2], because="an empty plan; the plan does not know the series"
    ),
    words={"fixed_patch_specs": ("specification", "data_idx", "coords", "patch_size")},
)
entry(
    "UncorrelatedPatching",
    lambda: (
        pl.UncorrelatedPatching,
        {"base": world.random_plan(), "n_channels": 2, "principal_channel": 0, "probability": 0.5, "seed": 1},
    ),
    base=PATCHING.refusing(none=lambda: [world.random_plan(), None], three=lambda: [world.random_plan()] * 3),
    n_channels=whole(1),
    principal_channel=whole(0),
    probability=number(least=0, most=1),
    seed=optional(SEED),
    words={"base": ("plan",), "n_channels": ("channel",)},
)

entry(
    "SpecSequence.__getitem__",
    lambda: ((lambda index: world.tiling()[index]), {"index": 1}),
    index=whole(-8).refusing(below=lambda: -13, many=lambda: [0, 1]),
)
entry("SpecSequence.get_patch_spec", lambda: (world.tiling().get_patch_spec, {"index": 1}), index=whole(0))
entry("SpecSequence.at_epoch", lambda: (world.tiling().at_epoch, {"epoch": 1}), epoch=whole(0))
entry("RandomizedPatching.at_epoch", lambda: (world.random_plan().at_epoch, {"epoch": 1}), epoch=whole(0))
entry("StratifiedPatching.at_epoch", lambda: (world.strata().at_epoch, {"epoch": 1}), epoch=whole(0))
entry(
    "FixedRandomPatching.at_epoch",
    lambda: (pl.FixedRandomPatching(world.SHAPES, (16, 16), 1).at_epoch, {"epoch": 1}),
    epoch=whole(0),
)
entry(
    "UncorrelatedPatching.at_epoch",
    lambda: (pl.UncorrelatedPatching(world.random_plan(), 2).at_epoch, {"epoch": 1}),
    epoch=whole(0),
)
GRID = tuple_of_whole(4, 1).accepting("array of two axes", because="one chunk shape for each image stack")
entry(
    "SpecSequence.storage_order",
    lambda: (world.tiling().storage_order, {"chunk_shape": (1, 1, 8, 8)}),
    chunk_shape=GRID,
    words={"chunk_shape": ("chunk",)},
)
entry(
    "IndexedPatching.specs",
    lambda: (world.tiling().specs, {"indices": [0, 1]}),
    indices=INDICES,
    words={"indices": ("index",)},
)
entry(
    "FixedPatching.specs",
    lambda: (pl.FixedPatching(world.table()).specs, {"indices": [0, 1]}),
    indices=INDICES,
    words={"indices": ("index",)},
)
entry(
    "UncorrelatedPatching.specs",
    lambda: (pl.UncorrelatedPatching(world.random_plan(), 2).specs, {"indices": [0, 1]}),
    indices=INDICES,
    words={"indices": ("index",)},
)
entry(
    "IndexedPatching.get_patch_indices", lambda: (world.tiling().get_patch_indices, {"data_idx": 0}), data_idx=whole(0)
)
entry(
    "FixedPatching.get_patch_indices",
    lambda: (pl.FixedPatching(world.table()).get_patch_indices, {"data_idx": 0}),
    data_idx=whole(0, huge=False),
)
entry(
    "UncorrelatedPatching.get_patch_indices",
    lambda: (pl.UncorrelatedPatching(world.random_plan(), 2).get_patch_indices, {"data_idx": 0}),
    data_idx=whole(0),
)
entry("GridPatching.grid_shape", lambda: (world.tiling().grid_shape, {"data_idx": 0}), data_idx=whole(0))
entry(
    "GridPatching.windows_along",
    lambda: (world.tiling().windows_along, {"data_idx": 0, "axis": 1}),
    data_idx=whole(0),
    axis=whole(0),
)
entry("StratifiedPatching.grid_shape", lambda: (world.strata().grid_shape, {"data_idx": 0}), data_idx=whole(0))
entry(
    "TiledPatching.tiles_touching",
    lambda: (world.tiling().tiles_touching, {"data_idx": 0, "sample_idx": 1, "window": (slice(0, 8), slice(0, 8))}),
    data_idx=whole(0),
    sample_idx=whole(0),
    window=slices(2),
)
CELLS = Kind(
    "cells",
    {
        **{label: make for label, make in STRANGERS.items() if label != "[]"},
        "past the end": lambda: [(9, 0)],
        "negative": lambda: [(-1, 0)],
        "3D": lambda: [(0, 0, 0)],
        "fractions": lambda: [(0.5, 0)],
        "nan": lambda: [(float("nan"), 0)],
        "texts": lambda: [("0", "0")],
        "None inside": lambda: [None],
        "huge": lambda: [(10**30, 0)],
        "flags": lambda: [(True, False)],
        "ragged": lambda: [(0, 0), (0,)],
    },
)
entry(
    "StratifiedPatching.exclude_patches",
    lambda: (world.strata().exclude_patches, {"data_idx": 0, "sample_idx": 1, "grid_coords": [(0, 0)]}),
    data_idx=whole(0),
    sample_idx=whole(0),
    grid_coords=CELLS,
    words={"grid_coords": ("cell",)},
)
entry(
    "StratifiedPatching.set_region_probs",
    lambda: (world.strata().set_region_probs, {"data_idx": 0, "sample_idx": 1, "probs": {(0, 0): 0.5}}),
    data_idx=whole(0),
    sample_idx=whole(0),
    probs=Kind(
        "probabilities",
        {
            **{label: make for label, make in STRANGERS.items() if label != "{}"},
            "negative": lambda: {(0, 0): -0.5},
            "above one": lambda: {(0, 0): 1.5},
            "nan inside": lambda: {(0, 0): float("nan")},
            "text inside": lambda: {(0, 0): "a"},
            "None inside": lambda: {(0, 0): None},
            "list inside": lambda: {(0, 0): [1, 2]},
            "complex inside": lambda: {(0, 0): 1j},
            "past the end": lambda: {(9, 0): 1},
            "text keys": lambda: {"a": 1},
            "number keys": lambda: {3: 1},
            "3D": lambda: {(0, 0, 0): 1},
            "array of texts": lambda: np.full((4, 3), "a"),
            "array of None": lambda: np.full((4, 3), None),
            "complex array": lambda: np.ones((4, 3), complex),
            "huge": lambda: {(0, 0): 10**30},
            "other shape": lambda: np.ones((3, 4)),
        },
    ),
    words={"probs": ("probabilit", "cell")},
)
entry(
    "split_training_validation",
    lambda: (pl.split_training_validation, {"patching": world.strata(), "validation": 0.3, "seed": 1, "margin": 0}),
    patching=instance("plan", random=world.random_plan, tiles=world.tiling),
    validation=number(least=0).refusing_values(0, 1.5, 10**9),
    seed=SEED.accepting("None", because="a seed is drawn"),
    margin=tuple_of_whole(2, 0, one=True),
    words={"patching": ("plan",)},
)

COLUMNS = lambda: dict(world.table().columns)  # noqa: E731
entry(
    "SpecTable",
    lambda: (pl.SpecTable, {"columns": COLUMNS()}),
    columns=mapping(COLUMNS).refusing(
        fractions=lambda: {**COLUMNS(), "coords": COLUMNS()["coords"] + 0.5},
        nan=lambda: {**COLUMNS(), "coords": COLUMNS()["coords"] * np.nan},
        huge=lambda: {**COLUMNS(), "data_idx": [10**30] * 8},
        text=lambda: {**COLUMNS(), "data_idx": ["0"] * 8},
        single=lambda: {**COLUMNS(), "data_idx": 0},
        flat=lambda: {**COLUMNS(), "coords": np.zeros(8, int)},
        deep=lambda: {**COLUMNS(), "data_idx": np.zeros((8, 2), int)},
        dims=lambda: {**COLUMNS(), "crop_size": np.ones((8, 3), int)},
        flags=lambda: {**COLUMNS(), "data_idx": np.zeros(8, bool)},
        times=lambda: {**COLUMNS(), "data_idx": np.zeros(8, "M8[s]")},
        lengths=lambda: {**COLUMNS(), "data_idx": np.zeros(7, int)},
        objects=lambda: {**COLUMNS(), "data_idx": np.full(8, None)},
        complex_=lambda: {**COLUMNS(), "data_idx": np.zeros(8, complex)},
    ),
    words={"columns": ("column", "field", "data_idx", "coords", "crop_size")},
)
entry(
    "SpecTable.from_specs",
    lambda: (pl.SpecTable.from_specs, {"specs": [world.SPEC]}),
    specs=MANY_SPECS.accepting(*NOT_IN_A_TABLE, because="a table does not know the series"),
    words={"specs": ("specification", "data_idx", "coords", "patch_size")},
)
entry(
    "SpecTable.__getitem__",
    lambda: ((lambda index: world.table()[index]), {"index": 1}),
    index=whole(-8)
    .accepting("[]", "array", because="rows by their numbers")
    .refusing(
        below=lambda: -13,
        flags=lambda: [True] * 3,
        fractions=lambda: [0.5],
        texts=lambda: ["0"],
        past=lambda: [12],
        nested=lambda: [[0, 1], [1, 0]],
    ),
)
entry("SpecTable.save", lambda: (world.table().save, {"path": "specs.npz"}), path=OUTPUT_PATH)
entry(
    "SpecTable.load",
    lambda: (pl.SpecTable.load, {"path": world.files() / "specs.npz"}),
    words={"path": ("format", "table")},
    path=SOURCE_PATH.refusing(
        npy=lambda: world.files() / "image.npy",
        no_npz=lambda: "no.npz",
        nul_npz=lambda: "a\0.npz",
        long_npz=lambda: "a" * 5000 + ".npz",
        nul=lambda: "a\0.jsonl",
        folder=world.files,
    ),
)
entry(
    "validate_specs",
    lambda: (pl.validate_specs, {"specs": [world.SPEC], "data_shapes": world.SHAPES}),
    specs=MANY_SPECS.accepting("[]", "mixed kinds", because="each is checked by itself"),
    data_shapes=SHAPES,
    words={
        "specs": ("specification", "data_idx", "sample_idx", "coords", "patch_size"),
        "data_shapes": ("image stack", "shape", "series", "data_idx"),
    },
)
entry(
    "is_tile_specs",
    lambda: (pl.is_tile_specs, {"specs": world.SPEC}),
    free={"specs": "answers False for what is not a specification"},
)
entry(
    "is_uncorrelated_specs",
    lambda: (pl.is_uncorrelated_specs, {"specs": world.SPEC}),
    free={"specs": "answers False for what is not a specification"},
)

entry(
    "AxesMap",
    lambda: (pl.AxesMap, {"axes": "CYX", "shape": (3, 64, 48)}),
    axes=AXES.refusing_values(None),
    shape=tuple_of_whole(3, 1, huge=False),
)
AXES_MAP = lambda: pl.AxesMap("SCYX", world.SHAPE)  # noqa: E731
REGION = ARRAY.accepting(
    "of nothing",
    "of objects",
    "of texts",
    "of times",
    "of records",
    because="an order of axes does not depend on what the array holds",
)
entry(
    "AxesMap.to_canonical",
    lambda: (AXES_MAP().to_canonical, {"region": np.zeros((3, 8, 8))}),
    region=ARRAY.accepting(*OF_OTHER_DTYPES, because="axes move whatever the array holds").refusing(
        four=lambda: np.zeros((1, 3, 8, 8))
    ),
)
entry(
    "AxesMap.from_canonical",
    lambda: (AXES_MAP().from_canonical, {"patch": np.zeros((3, 8, 8))}),
    patch=ARRAY.accepting(*OF_OTHER_DTYPES, because="axes move whatever the array holds").refusing(
        four=lambda: np.zeros((1, 3, 8, 8))
    ),
)
entry(
    "AxesMap.to_data",
    lambda: (AXES_MAP().to_data, {"array": world.pixels()}),
    array=ARRAY.accepting(
        "of objects", "of texts", "of times", "of records", because="axes move whatever the array holds"
    ).refusing(size=lambda: world.pixels()[:, :2]),
)
entry(
    "AxesMap.from_data",
    lambda: (AXES_MAP().from_data, {"data": world.pixels()}),
    data=ARRAY.accepting(
        "of objects", "of texts", "of times", "of records", because="axes move whatever the array holds"
    ).refusing(size=lambda: world.pixels()[:, :2], turned=lambda: world.pixels().T),
)
entry(
    "AxesMap.size",
    lambda: (AXES_MAP().size, {"axis": "Y"}),
    axis=Kind("axis", {**STRANGERS, "two": lambda: "YX", "lower case": lambda: "q"}),
)
entry(
    "AxesMap.with_samples",
    lambda: (AXES_MAP().with_samples, {"n_samples": 2, "n_times": 1}),
    n_samples=whole(1, huge=False),
    n_times=whole(1, huge=False),
)
entry("AxesMap.with_channels", lambda: (AXES_MAP().with_channels, {"n_channels": 2}), n_channels=whole(1, huge=False))
entry(
    "AxesMap.with_spatial",
    lambda: (AXES_MAP().with_spatial, {"spatial_shape": (9, 9)}),
    spatial_shape=tuple_of_whole(2, 1, huge=False),
)
entry(
    "AxesMap.selection",
    lambda: (AXES_MAP().selection, {"sample_idx": 1, "channels": slice(0, 2), "window": (slice(0, 8), slice(0, 8))}),
    sample_idx=whole(0),
    channels=whole(0, huge=False),
    window=slices(2).accepting(
        *(
            "open",
            "texts in slice",
            "fractions",
            "nan",
            "empty",
            "backwards",
            "stride",
            "negative",
            "past the end",
            "flags",
        ),
        because="slices are passed through as they are; the reader checks them",
    ),
)
