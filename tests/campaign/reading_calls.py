"""Images, patches of them, and scores of their cells."""

from __future__ import annotations

import numpy as np

import patchloom as pl

from . import world
from .entry import entry
from .hostile import (
    ARRAY,
    AXES,
    CALLABLE,
    DTYPE,
    FLAG,
    SOURCE_PATH,
    STRANGERS,
    TEXT,
    Kind,
    instance,
    number,
    numbers,
    numbers_of_choice,
    optional,
    sequence_of,
    tuple_of_whole,
    whole,
    word,
)
from .patching_calls import MANY_SPECS, SPEC, STACKS

SOURCES = Kind(
    "sources",
    {
        **SOURCE_PATH.values,
        "None inside": lambda: [world.image(), None],
        "number inside": lambda: [world.image(), 3],
        "folder without images": lambda: ".",
        "pattern without images": lambda: "*.tif",
        "unknown ending": lambda: "image.png",
        "missing zarr": lambda: "no.ome.zarr",
        "missing tif": lambda: "no.ome.tif",
        "missing npy": lambda: "no.npy",
        "missing czi": lambda: "no.czi",
        "NUL tif": lambda: "a\0b.tif",
        "NUL zarr": lambda: "a\0b.zarr",
        "NUL czi": lambda: "a\0b.czi",
        "long tif": lambda: "a" * 5000 + ".tif",
        "long zarr": lambda: "a" * 5000 + ".ome.zarr",
        "long czi": lambda: "a" * 5000 + ".czi",
        "scene of no czi": lambda: "no.czi@x",
        "url of nothing": lambda: "nothing://a/b.zarr",
        "table": lambda: world.files() / "specs.npz",
        "array of objects": lambda: np.full((8, 8), None),
        "array of texts": lambda: np.full((8, 8), "a"),
        "array of times": lambda: np.zeros((8, 8), "M8[s]"),
        "array of records": lambda: np.zeros((8, 8), [("a", "u1")]),
        "empty array": lambda: np.zeros((0, 8)),
        "flat array": lambda: np.zeros(8),
    },
)
SOURCE_WORDS = {
    "sources": ("source", "image", "file", "axes", "array", "there is no", "specs", "no."),
    "axes": ("axis",),
}
entry(
    "open_stacks",
    lambda: (pl.open_stacks, {"sources": world.image(), "axes": "YX", "level": None}),
    sources=SOURCES,
    axes=AXES.refusing_values(None).refusing(two=lambda: ["YX", "YX"]),
    level=optional(whole(0)),
    words=SOURCE_WORDS,
)
entry(
    "ArrayStack",
    lambda: (pl.ArrayStack, {"array": world.image(), "axes": "YX", "source": "array", "metadata": None}),
    array=ARRAY,
    axes=AXES.refusing_values(None),
    metadata=optional(instance("metadata")),
    free={"source": "what messages call it"},
    words={"array": ("axes", "image", "dtype"), **SOURCE_WORDS},
)
FILE_WORDS = {"path": ("file", "no.", "image", "axes"), "source": ("file", "no.", "image", "Zarr", "axes")}
SELECTION = {"selection": "made by the stack itself, in the image's own terms; indexes the image as it is"}
entry(
    "NpyStack",
    lambda: (pl.NpyStack, {"path": world.files() / "image.npy", "axes": "YX"}),
    path=SOURCE_PATH,
    axes=AXES.refusing_values(None),
    words={**FILE_WORDS, **SOURCE_WORDS},
)
entry(
    "NpyStack.read",
    lambda: (pl.NpyStack(world.files() / "image.npy", "YX").read, {"selection": (slice(0, 8), slice(0, 8))}),
    free=SELECTION,
)
entry(
    "TiffStack",
    lambda: (pl.TiffStack, {"path": world.files() / "image.tif", "axes": "YX", "series": 0, "level": 0}),
    path=SOURCE_PATH,
    axes=AXES,
    series=optional(whole(0)),
    level=whole(0),
    words={**FILE_WORDS, **SOURCE_WORDS, "series": ("image",)},
)
entry(
    "TiffStack.read",
    lambda: (pl.TiffStack(world.files() / "image.tif").read, {"selection": (slice(0, 8), slice(0, 8))}),
    free=SELECTION,
)
entry(
    "ZarrStack",
    lambda: (pl.ZarrStack, {"source": world.files() / "image.ome.zarr", "axes": "YX", "level": 0}),
    source=SOURCE_PATH,
    axes=AXES,
    level=optional(whole(0)),
    words={**FILE_WORDS, **SOURCE_WORDS},
)
entry(
    "ZarrStack.read",
    lambda: (pl.ZarrStack(world.files() / "image.ome.zarr").read, {"selection": (slice(0, 8), slice(0, 8))}),
    free=SELECTION,
)
entry(
    "ZarrStack.read_regions",
    lambda: (pl.ZarrStack(world.files() / "image.ome.zarr").read_regions, {"regions": [], "out": []}),
    free={"regions": "named tuples that the extractor makes", "out": "arrays that the extractor makes"},
)
entry(
    "CziStack",
    lambda: (pl.CziStack, {"path": world.czi(), "scene": None, "axes": "YX"}),
    path=SOURCE_PATH,
    scene=optional(whole(0)),
    axes=AXES,
    words={**FILE_WORDS, **SOURCE_WORDS},
)
entry(
    "CziStack.read",
    lambda: (pl.CziStack(world.czi()).read, {"selection": (slice(0, 8), slice(0, 8))}),
    free=SELECTION,
)
entry(
    "Storage",
    lambda: (pl.Storage, {"files": (), "part": "", "arrays": (), "unknown": ""}),
    free=dict.fromkeys(("files", "part", "arrays", "unknown"), "a record that a stack makes of itself"),
)
CHANNELS = numbers_of_choice(3)
entry(
    "SlicedStack.extract_patch",
    lambda: (
        world.stacks()[0].extract_patch,
        {"sample_idx": 1, "channels": [0], "coords": (1, 2), "patch_size": (8, 8)},
    ),
    sample_idx=whole(0),
    channels=optional(CHANNELS).accepting("[]", because="a patch of no channels"),
    coords=tuple_of_whole(2, -50, huge=False).accepting("too small", because="patches may lie outside the image"),
    patch_size=tuple_of_whole(2, 1),
    words={"channels": ("channel",)},
)
entry(
    "ArrayStack.read",
    lambda: (pl.ArrayStack(world.image(), "YX").read, {"selection": (slice(0, 8), slice(0, 8))}),
    free={"selection": "made by the stack itself, in the array's own terms; indexes the array as it is"},
)
entry(
    "SlicedStack.read_region",
    lambda: (world.stacks()[0].read_region, {"region": None}),
    free={"region": "a named tuple that the extractor makes"},
)
entry(
    "SlicedStack.read_regions",
    lambda: (world.stacks()[0].read_regions, {"regions": [], "out": []}),
    free={"regions": "named tuples that the extractor makes", "out": "arrays that the extractor makes"},
)
entry(
    "ImageMetadata",
    lambda: (
        pl.ImageMetadata,
        {
            "name": "a",
            "voxel_size": {"Y": 1.0},
            "units": {"Y": "micrometer"},
            "channel_names": ("a",),
            "channel_colors": ("FF0000",),
        },
    ),
    free=dict.fromkeys(
        ("name", "voxel_size", "units", "channel_names", "channel_colors", "is_rgb", "origin"),
        "a record of the content of a file, checked when it is written",
    ),
)

CACHE = optional(instance("cache"))
entry(
    "PatchExtractor",
    lambda: (pl.PatchExtractor, {"image_stacks": world.stacks(), "padding": "reflect", "cache": None}),
    image_stacks=STACKS,
    padding=word("constant", "reflect", "edge", "wrap"),
    cache=CACHE,
    words={"image_stacks": ("image stack", "series", "stack")},
)
EXTRACTOR = lambda: pl.PatchExtractor(world.stacks())  # noqa: E731
SPEC_WORDS = ("specification", "data_idx", "sample_idx", "coords", "patch_size", "patches", "batch")
entry(
    "PatchExtractor.extract", lambda: (EXTRACTOR().extract, {"spec": world.SPEC}), spec=SPEC, words={"spec": SPEC_WORDS}
)
entry(
    "PatchExtractor.extract_patch",
    lambda: (EXTRACTOR().extract_patch, {"data_idx": 0, "sample_idx": 1, "coords": (1, 2), "patch_size": (8, 8)}),
    data_idx=whole(0),
    sample_idx=whole(0),
    coords=tuple_of_whole(2, -50, huge=False).accepting("too small", because="patches may lie outside the image"),
    patch_size=tuple_of_whole(2, 1),
)
PER_CHANNEL = numbers(length=3)
entry(
    "PatchExtractor.extract_batch",
    lambda: (
        EXTRACTOR().extract_batch,
        {"specs": [world.SPEC], "out": None, "dtype": np.float32, "scale": [1.0, 2.0, 3.0], "offset": [0.0, 1.0, 2.0]},
    ),
    specs=MANY_SPECS,
    out=optional(ARRAY),
    dtype=optional(DTYPE),
    scale=optional(PER_CHANNEL).accepting("3", "-1", "1.5", "np.float64", because="one number stands for all channels"),
    offset=optional(PER_CHANNEL).accepting(
        "3", "-1", "1.5", "np.float64", because="one number stands for all channels"
    ),
    words={"specs": SPEC_WORDS},
)
entry(
    "PatchExtractor.locate",
    lambda: (EXTRACTOR().locate, {"specs": [world.SPEC]}),
    specs=MANY_SPECS,
    words={"specs": SPEC_WORDS},
)
entry(
    "PatchExtractor.extract_located",
    lambda: (
        (lambda out, rescaling: EXTRACTOR().extract_located(EXTRACTOR().locate([world.SPEC]), out, rescaling)),
        {"out": np.zeros((1, 3, 16, 16), np.float32), "rescaling": None},
    ),
    out=ARRAY,
    free={"located": "made by `locate`", "rescaling": "made by `Rescaling.of`"},
)
entry(
    "extract_lateral_context",
    lambda: (
        pl.extract_lateral_context,
        {
            "extractor": pl.PatchExtractor(pl.open_stacks([world.pixels()[:, :1]], axes="SCYX"), padding="reflect"),
            "specs": [world.SPEC],
            "n_scales": 2,
            "downscale": "mean",
            "scale_z": True,
            "out": None,
        },
    ),
    extractor=instance("extractor", stacks=world.stacks),
    specs=MANY_SPECS,
    n_scales=whole(1),
    downscale=word("mean", "resize"),
    scale_z=FLAG,
    out=optional(ARRAY),
    words={"specs": SPEC_WORDS},
)
entry("ChunkCache", lambda: (pl.ChunkCache, {"max_bytes": 10**6}), max_bytes=whole(1, huge=False))
entry("ChunkCache.reader", lambda: (pl.ChunkCache().reader, {"stack": world.stacks()[0]}), stack=instance("stack"))

FILTERS = sequence_of(CALLABLE, lambda: [pl.MaxFilter(), pl.MaxFilter()], keep=99).accepting(
    "[]", because="no scores of no filters"
)
entry(
    "score_cells",
    lambda: (
        pl.score_cells,
        {
            "image_stacks": world.stacks(),
            "cell_size": (16, 16),
            "filters": [pl.MaxFilter()],
            "channels": [0],
            "cache": False,
            "max_bytes": 10**6,
        },
    ),
    image_stacks=STACKS,
    cell_size=tuple_of_whole(2, 1, one=True),
    filters=FILTERS,
    channels=optional(CHANNELS),
    cache=Kind(
        "cache",
        {label: make for label, make in STRANGERS.items() if label not in {"True", "text", "'3'"}}
        | {"NUL": lambda: "a\0b", "long": lambda: "a" * 5000, "file": lambda: world.files() / "image.npy"},
    ),
    max_bytes=whole(1, huge=False),
    words={
        "image_stacks": ("image stack", "series", "stack", "mask"),
        "filters": ("filter",),
        "cell_size": ("cell", "patch size"),
    },
)
entry(
    "label_weights",
    lambda: (
        pl.label_weights,
        {
            "labels": pl.open_stacks([world.pixels()[:, :1] > 9], axes="SCYX"),
            "cell_size": (16, 16),
            "balance": "foreground",
            "share": 1.0,
            "max_bytes": 10**6,
        },
    ),
    labels=STACKS,
    cell_size=tuple_of_whole(2, 1, one=True),
    balance=word("foreground", "classes"),
    share=number(least=0, most=1),
    max_bytes=whole(1, huge=False),
    words={"labels": ("label", "image stack"), "cell_size": ("cell",)},
)
entry("EntropyFilter", lambda: (pl.EntropyFilter, {"bin_width": 1}), bin_width=number(least=0).refusing_values(0))
entry("PercentileFilter", lambda: (pl.PercentileFilter, {"percent": 50}), percent=number(least=0, most=100))
entry(
    "CustomFilter", lambda: (pl.CustomFilter, {"identity": "own", "function": np.max}), identity=TEXT, function=CALLABLE
)
CELL = ARRAY.accepting("flat", "seven axes", because="the pixels of a cell, in any number of axes").refusing(
    complex=lambda: np.zeros((1, 2, 2), complex)
)
entry(
    "_BuiltInFilter.__call__",
    lambda: ((pl.MaxFilter()), {"cell": np.zeros((1, 4, 4))}),
    cell=CELL.accepting("without axes", because="one pixel"),
)
entry(
    "_BuiltInFilter.score_many",
    lambda: (pl.MaxFilter().score_many, {"cells": np.zeros((2, 1, 4, 4))}),
    free={"cells": "called by `score_cells`"},
)
for name in ("MaxFilter", "MeanFilter", "StdFilter", "PercentileFilter", "EntropyFilter", "MaskFilter"):
    entry(
        f"{name}.score_rows",
        lambda: (pl.MaxFilter().score_rows, {"voxels": np.zeros((2, 4))}),
        free={"voxels": "called by `score_cells`"},
    )
entry(
    "CustomFilter.__call__",
    lambda: ((pl.CustomFilter("max", np.max)), {"cell": np.zeros((1, 4, 4))}),
    free={"cell": "handed on to the user's function"},
)
SCORES = (np.zeros((2, 4, 3)),)
entry(
    "ScoreMap",
    lambda: (pl.ScoreMap, {"scores": SCORES, "cell_size": (16, 16), "data_shapes": (world.SHAPE,), "name": "own"}),
    free=dict.fromkeys(("scores", "cell_size", "data_shapes", "name"), "a result, made by `score_cells`"),
)
entry("ScoreMap.quantile", lambda: (world.score_map().quantile, {"share": 0.5}), share=number(least=0, most=1))
entry("ScoreMap.below", lambda: (world.score_map().below, {"threshold": 5}), threshold=number(inf=True))
entry("ScoreMap.weights", lambda: (world.score_map().weights, {"above": 5}), above=number(inf=True))
MAP = instance("score map")
entry(
    "exclude_below",
    lambda: (pl.exclude_below, {"patching": world.strata(), "score_map": world.score_map(), "threshold": 5}),
    patching=instance("plan", random=world.random_plan),
    score_map=MAP,
    threshold=number(inf=True),
)
entry(
    "downweight_below",
    lambda: (
        pl.downweight_below,
        {"patching": world.strata(), "score_map": world.score_map(), "threshold": 5, "probability": 0.5},
    ),
    patching=instance("plan", random=world.random_plan),
    score_map=MAP,
    threshold=number(inf=True),
    probability=number(least=0, most=1),
)
entry(
    "PatchExtractor.check_apart",
    lambda: (EXTRACTOR().check_apart, {"out": np.zeros(3), "stacks": [0]}),
    free=dict.fromkeys(("out", "stacks"), "called by what fills `out`, which it has checked"),
)
