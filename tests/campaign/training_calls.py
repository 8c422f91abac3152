"""Datasets, samplers, loaders and the writer of their predictions."""

from __future__ import annotations

import numpy as np
import torch

import patchloom as pl
import patchloom.torch as pt

from . import world
from .entry import entry
from .hostile import (
    ARRAY,
    CALLABLE,
    DTYPE,
    FLAG,
    OUTPUT_PATH,
    SEED,
    STRANGERS,
    TEXT,
    Kind,
    inside,
    instance,
    mapping,
    number,
    numbers_of_choice,
    optional,
    sequence_of,
    tuple_of_whole,
    whole,
    word,
)
from .patching_calls import PATCHING, STACKS
from .prediction_calls import MICROMETERS
from .reading_calls import SPEC_WORDS
from .writing_calls import TILE

CHANNELS = optional(numbers_of_choice(3))
NORM = optional(
    Kind(
        "normalization",
        {**STRANGERS, "two": lambda: [pl.measure_normalization(world.stacks()[0])] * 2, "None inside": lambda: [None]},
    )
)
CACHE = optional(instance("cache"))
AUGMENT = optional(instance("augmentation", letters=lambda: "YX"))
WORDS = {
    "inputs": ("input", "image", "stack", "series"),
    "targets": ("target", "image", "stack", "series"),
    "patching": ("plan", "patching", "patch"),
    "channels": ("channel",),
    "target_channels": ("channel",),
    "normalization": ("normali",),
    "target_normalization": ("normali",),
    "dtype": ("dtype",),
    "target_dtype": ("dtype",),
}
COMMON = {
    "padding": word("constant", "reflect", "edge", "wrap"),
    "cache": CACHE,
    "augmentation": AUGMENT,
    "transform": optional(CALLABLE),
    "seed": SEED.accepting("None", because="a seed is drawn"),
}
FLOATS = DTYPE.refusing(complex=lambda: "complex64")
entry(
    "PatchDataset",
    lambda: (
        pt.PatchDataset,
        {
            "inputs": world.stacks(),
            "patching": world.random_plan(),
            "targets": world.stacks(),
            "channels": [0],
            "target_channels": [1],
            "dtype": np.float32,
            "target_dtype": np.float32,
            "normalization": None,
            "target_normalization": None,
            "padding": "reflect",
            "cache": None,
            "nan": "raise",
            "augmentation": None,
            "transform": None,
            "seed": 0,
        },
    ),
    inputs=STACKS,
    patching=PATCHING,
    targets=optional(STACKS),
    channels=CHANNELS,
    target_channels=CHANNELS,
    dtype=DTYPE,
    target_dtype=DTYPE,
    normalization=NORM,
    target_normalization=NORM,
    nan=word("raise", "skip", "keep"),
    **COMMON,
    words=WORDS,
)
DATASET = lambda: pt.PatchDataset(world.stacks(), world.random_plan())  # noqa: E731
entry(
    "save_model",
    lambda: (
        pt.save_model,
        {
            "path": "net.pt",
            "network": torch.nn.Identity(),
            "dataset": pt.PatchDataset(world.stacks(), world.random_plan()),
            "normalize": None,
            "denormalize": False,
            "patch_size": None,
            "overlaps": None,
            "origin_multiple": None,
            "voxel_size": (1.0, 1.0),
            "out_channel_names": (),
            "factory": "torch.nn:Identity",
            "arguments": {"width": 8},
            "code_version": "",
        },
    ),
    path=OUTPUT_PATH,
    network=instance("network", function=lambda: np.negative),
    dataset=instance("dataset", stacks=world.stacks),
    normalize=optional(Kind("method", STRANGERS)),
    denormalize=FLAG,
    patch_size=optional(tuple_of_whole(2, 1, one=True)),
    overlaps=optional(tuple_of_whole(2, 0, one=True)),
    origin_multiple=optional(tuple_of_whole(2, 1, one=True)),
    voxel_size=optional(MICROMETERS),
    out_channel_names=sequence_of(TEXT, lambda: ["nuclei"]).accepting(
        "[]", "empty text inside", because="a channel needs no name"
    ),
    factory=TEXT.refusing_values(None),
    arguments=optional(mapping(lambda: {"width": 8})).accepting(
        "wrong values", "None as values", "{}", "wrong keys", "one too few", because="the factory checks its arguments"
    ),
    code_version=TEXT.accepting("empty text", because="no version is stored"),
    words={"path": ("path", "end in", "folder", "factory"), "normalize": ("normali", "percentile")},
)
KEY = whole(-8).refusing(
    below=lambda: -9,
    pair=lambda: (0, 0.5),
    epoch=lambda: (-1, 0),
    huge_epoch=lambda: (2**40, 0),
    triple=lambda: (1, 2, 3),
    texts=lambda: ("0", "0"),
    one=lambda: (0,),
)
entry(
    "PlannedDataset.__getitem__",
    lambda: ((lambda key: DATASET()[key]), {"key": 1}),
    key=KEY,
    words={"key": ("key", "index", "epoch")},
)
entry("PlannedDataset.at_epoch", lambda: (DATASET().at_epoch, {"epoch": 1}), epoch=whole(0))
entry(
    "PlannedDataset.read_batches",
    lambda: (
        (lambda keys, batch_size, allocate: list(DATASET().read_batches(keys, batch_size, allocate))),
        {
            "keys": pt.loading.patch_keys.PatchKeys(0, np.arange(4)),
            "batch_size": 2,
            "allocate": pt.tensor_memory.new_tensor,
        },
    ),
    keys=Kind("keys", dict(STRANGERS.items())),
    batch_size=whole(1, huge=False),
    allocate=CALLABLE,
    words={"keys": ("key", "index", "epoch")},
)


def _micro(**changed):
    return {
        "patching": world.random_plan(),
        "targets": world.stacks(),
        "inputs": None,
        "channels": None,
        "target_channels": [0, 1],
        "n_scales": 1,
        "downscale": "mean",
        "scale_z": True,
        "padding": "reflect",
        "alpha_ranges": [(0.2, 0.8), (0.3, 0.7)],
        "uncorrelated_channel_prob": 0.5,
        "normalization": None,
        "target_normalization": None,
        "cache": None,
        "nan": "raise",
        "augmentation": None,
        "transform": None,
        "seed": 0,
    } | changed


entry(
    "MicroSplitDataset",
    lambda: (pt.MicroSplitDataset, _micro()),
    patching=PATCHING.refusing(three=lambda: [world.random_plan()] * 3),
    targets=STACKS,
    target_channels=CHANNELS,
    n_scales=whole(1),
    downscale=word("mean", "resize"),
    scale_z=FLAG,
    alpha_ranges=optional(
        sequence_of(
            Kind(
                "pair",
                {
                    **{label: make for label, make in STRANGERS.items() if label != "array"},
                    "reversed": lambda: (0.8, 0.2),
                    "nan": lambda: (float("nan"), 1),
                    "texts": lambda: ("a", "b"),
                    "three": lambda: (1, 2, 3),
                },
            ),
            lambda: [(0.2, 0.8), (0.3, 0.7)],
            keep=99,
        )
    ),
    uncorrelated_channel_prob=optional(number(least=0, most=1)),
    normalization=NORM,
    target_normalization=NORM,
    nan=word("raise", "keep"),
    **COMMON,
    words={**WORDS, "alpha_ranges": ("alpha", "range"), "inputs": ("input", "image", "stack", "series", "target")},
)
entry(
    "MicroSplitDataset (inputs)",
    lambda: (
        pt.MicroSplitDataset,
        _micro(
            inputs=pl.open_stacks([world.pixels()], axes="SCYX"),
            channels=[0],
            alpha_ranges=None,
            uncorrelated_channel_prob=None,
        ),
    ),
    inputs=STACKS,
    channels=CHANNELS,
    words=WORDS,
)
entry(
    "MicroSplitDataset.alphas",
    lambda: (pt.MicroSplitDataset(**_micro()).alphas, {"keys": [0, 1]}),
    keys=Kind(
        "keys",
        {label: make for label, make in STRANGERS.items() if label not in {"[]", "{}", "array", "set", "empty text"}}
        | {"text inside": lambda: ["0"], "fraction": lambda: [0.5], "past": lambda: [99], "None": lambda: [None]},
    ),
    words={"keys": ("key", "index", "epoch")},
)

RANKS = {"seed": SEED, "rank": optional(whole(0)), "world_size": optional(whole(1)), "drop_last": FLAG}
entry(
    "EpochSampler",
    lambda: (
        pt.EpochSampler,
        {"patches": 8, "shuffle": True, "seed": 0, "rank": 0, "world_size": 1, "drop_last": False},
    ),
    patches=whole(1).accepting("set", "array", because="has a length"),
    shuffle=FLAG,
    **RANKS,
    words={"patches": ("patch",), "world_size": ("rank",)},
)
entry(
    "LocalitySampler",
    lambda: (
        pt.LocalitySampler,
        {
            "patching": world.random_plan(),
            "chunk_shapes": [(1, 1, 16, 16)],
            "window": 4,
            "block": 2,
            "seed": 0,
            "rank": 0,
            "world_size": 1,
            "drop_last": False,
        },
    ),
    patching=PATCHING,
    chunk_shapes=sequence_of(tuple_of_whole(4, 1), lambda: [(1, 1, 16, 16)], keep=99),
    window=whole(1, huge=False),
    block=whole(1),
    **RANKS,
    words={"chunk_shapes": ("chunk",), "patching": ("plan",), "world_size": ("rank",)},
)
SAMPLER = lambda: pt.EpochSampler(world.random_plan())  # noqa: E731
LOCAL = lambda: pt.LocalitySampler(world.random_plan(), [(1, 1, 16, 16)])  # noqa: E731
entry(
    "EpochSampler.key_runs",
    lambda: (
        (
            lambda batch_size, drop_last, max_keys: list(
                SAMPLER().key_runs(batch_size, drop_last=drop_last, max_keys=max_keys)
            )
        ),
        {"batch_size": 2, "drop_last": False, "max_keys": 4},
    ),
    batch_size=whole(1, huge=False),
    drop_last=FLAG,
    max_keys=whole(1, huge=False),
)
entry("EpochSampler.set_epoch", lambda: (SAMPLER().set_epoch, {"epoch": 1}), epoch=whole(0))
entry("EpochSampler.state_dict", lambda: (SAMPLER().state_dict, {"used": 1}), used=optional(whole(0)))
STATE = lambda: SAMPLER().state_dict()  # noqa: E731
entry(
    "EpochSampler.load_state_dict",
    lambda: (SAMPLER().load_state_dict, {"state": STATE()}),
    state=mapping(STATE).refusing(
        other=lambda: {**STATE(), "seed": 5},
        negative=lambda: {**STATE(), "position": -1},
        past=lambda: {**STATE(), "position": 10**30},
        fraction=lambda: {**STATE(), "epoch": 0.5},
    ),
    words={"state": ("state", "seed", "epoch", "position")},
)
entry("LocalitySampler.blocks", lambda: (LOCAL().blocks, {"epoch": 1}), epoch=whole(0))
entry(
    "PatchLoader",
    lambda: (
        (lambda **arguments: pt.PatchLoader(**arguments).close()),
        {
            "dataset": DATASET(),
            "batch_size": 2,
            "sampler": None,
            "shuffle": False,
            "drop_last": False,
            "prefetch": 2,
            "pin_memory": False,
        },
    ),
    dataset=instance("dataset"),
    batch_size=whole(1, huge=False).refusing(more=lambda: 0),
    sampler=optional(
        Kind(
            "sampler",
            {
                label: make
                for label, make in STRANGERS.items()
                if label not in {"[]", "{}", "set", "array", "empty text", "text", "'3'", "bytes"}
            },
        )
    ),
    shuffle=FLAG,
    drop_last=FLAG,
    prefetch=whole(1, huge=False),
    pin_memory=FLAG,
)
LOADER_STATE = lambda: pt.PatchLoader(DATASET()).state_dict()  # noqa: E731
entry(
    "PatchLoader.load_state_dict",
    lambda: (pt.PatchLoader(DATASET()).load_state_dict, {"state": LOADER_STATE()}),
    state=mapping(LOADER_STATE),
    words={"state": ("state", "sampler")},
)
entry(
    "FlipRot90",
    lambda: (pt.FlipRot90, {"axes": "YX", "turns": True}),
    axes=Kind(
        "axes",
        {label: make for label, make in STRANGERS.items() if label not in {"empty text"}}
        | {"repeated": lambda: "YY", "unknown": lambda: "CX", "list": lambda: ["Y", "X"], "lower": lambda: "yx"},
    ),
    turns=FLAG,
)
entry(
    "FlipRot90.draw",
    lambda: (pt.FlipRot90().draw, {}),
    free=dict.fromkeys(("random", "indices", "patch_size"), "called by the dataset"),
)
entry(
    "FlipRot90.put",
    lambda: (pt.FlipRot90().put, {}),
    free=dict.fromkeys(("batch", "positions"), "called by the dataset"),
)
PATCHES = lambda: [DATASET()[0], DATASET()[1]]  # noqa: E731
entry(
    "collate",
    lambda: (pt.collate, {"patches": PATCHES(), "allocate": pt.tensor_memory.new_tensor}),
    patches=Kind(
        "patches",
        {
            **STRANGERS,
            "None inside": lambda: [*PATCHES(), None],
            "tuple inside": lambda: [*PATCHES(), (1, 2)],
            "other kind": lambda: [*PATCHES(), pt.PatchPair(torch.zeros(1), torch.zeros(1), world.SPEC)],
            "other shape": lambda: [*PATCHES(), pt.Patch(torch.zeros(3, 4, 4), PATCHES()[0].specs)],
            "no specs": lambda: [pt.Patch(torch.zeros(3, 4, 4), None)],
            "text": lambda: [pt.Patch("text", world.SPEC)],
        },
    ),
    allocate=CALLABLE,
    words={"patches": ("patch", "specification", "batch")},
)
BATCH_SPECS = lambda: dict(pt.collate(PATCHES()).specs)  # noqa: E731
entry(
    "decollate",
    lambda: (pt.decollate, {"specs": BATCH_SPECS()}),
    specs=mapping(BATCH_SPECS).refusing(
        ragged=lambda: {**BATCH_SPECS(), "coords": [torch.zeros(2), torch.zeros(3)]},
        numbers=lambda: {**BATCH_SPECS(), "coords": 3},
        floats=lambda: {**BATCH_SPECS(), "coords": torch.full((2, 2), 0.5)},
        scalar=lambda: {**BATCH_SPECS(), "data_idx": torch.tensor(0)},
    ),
    words={"specs": (*SPEC_WORDS, "field", "column")},
)
TILING = instance("tiling", random=world.random_plan)
entry(
    "TileOrder",
    lambda: (
        (lambda **arguments: list(pl.TileOrder(**arguments))),
        {"tiling": world.tiling(), "block_voxels": 500},
    ),
    tiling=TILING,
    block_voxels=whole(1, huge=False),
)
entry(
    "TileWriter",
    lambda: (
        (lambda **arguments: pl.TileWriter(**arguments).abort()),
        {
            "image_stacks": world.stacks(),
            "tiling": world.tiling(),
            "output": None,
            "blend": "hann",
            "pyramid": "mean",
            "overwrite": False,
            "block_voxels": 500,
        },
    ),
    image_stacks=STACKS,
    tiling=TILING,
    blend=optional(word("hann", "gaussian", "linear", "mean")),
    block_voxels=whole(1, huge=False),
    output=optional(OUTPUT_PATH).accepting(
        "text",
        "unknown ending",
        "here",
        "the root",
        because="a folder, in which the ending of a name decides the format",
    ),
    pyramid=optional(word("mean", "nearest")),
    overwrite=FLAG,
    words={"image_stacks": ("image", "stack", "tiling"), "output": ("path", "name", "folder", "ending", ".")},
)
TILES = world.tiles
entry(
    "TileWriter.add",
    lambda: (pl.TileWriter(world.stacks(), world.tiling()).add, {"tiles": TILES(), "specs": list(world.tiling())}),
    tiles=ARRAY.refusing(
        fewer=lambda: TILES()[:-1], smaller=lambda: TILES()[:, :, :8], objects=lambda: TILES().astype(object)
    ),
    specs=Kind(
        "specs",
        {
            **STRANGERS,
            **inside(TILE.values, lambda: list(world.tiling())),
            "fewer": lambda: list(world.tiling())[:-1],
            "twice": lambda: [world.tiling()[0]] * len(world.tiling()),
        },
    ),
    words={"specs": (*SPEC_WORDS, "tile", "stitch_coords", "crop"), "tiles": ("tile", "prediction")},
)
entry(
    "PatchDataModule",
    lambda: (
        pt.PatchDataModule,
        {
            "training": DATASET(),
            "validation": None,
            "prediction": None,
            "batch_size": 2,
            "sampler": None,
            "seed": 0,
            "drop_last": False,
            "prefetch": 2,
            "pin_memory": True,
        },
    ),
    training=optional(instance("dataset")),
    validation=optional(instance("dataset")),
    prediction=optional(instance("dataset")),
    batch_size=whole(1, huge=False),
    sampler=optional(CALLABLE),
    seed=SEED,
    drop_last=FLAG,
    prefetch=whole(1, huge=False),
    pin_memory=FLAG,
)
entry(
    "SaveModel",
    lambda: (
        pt.SaveModel,
        {"path": "net.pt2", "network": "net", "dataset": None, "every_n_epochs": None, "options": {}},
    ),
    path=OUTPUT_PATH,
    network=TEXT.accepting("empty text", because="the attribute is looked up when a training begins"),
    every_n_epochs=optional(whole(1, huge=False)),
    free={"dataset": "checked when a training begins", "options": "checked when a training begins"},
    words={"path": ("path", "end in", "folder")},
)
entry(
    "StitchingWriter",
    lambda: (pt.StitchingWriter, {"output": None, "blend": "hann", "pyramid": "mean", "overwrite": False}),
    output=optional(OUTPUT_PATH).accepting(
        "text",
        "unknown ending",
        "here",
        "the root",
        "no folder",
        because="the folder is made and the name checked when tiles come",
    ),
    blend=optional(word("hann", "gaussian", "linear", "mean")),
    pyramid=optional(word("mean", "nearest")),
    overwrite=FLAG,
    words={"output": ("path", "name", "folder", "ending", ".")},
)
