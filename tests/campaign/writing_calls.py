"""Outputs, and the stitching of tiles."""

from __future__ import annotations

import numpy as np

import patchloom as pl

from . import world
from .entry import entry
from .hostile import (
    ARRAY,
    CALLABLE,
    DTYPE,
    FLAG,
    OUTPUT_PATH,
    STRANGERS,
    Kind,
    inside,
    instance,
    mapping,
    optional,
    slices,
    tuple_of_whole,
    whole,
    word,
)
from .reading_calls import SPEC_WORDS

MAP = lambda: pl.AxesMap("YX", (64, 48))  # noqa: E731
GRID = {"chunk_shape": (1, 1, 32, 32), "shard_shape": (1, 1, 64, 64)}
BLOCK = np.zeros((1, 1, 64, 48), np.uint8)
REGION = tuple(slice(0, size) for size in BLOCK.shape)
METADATA = optional(instance("metadata"))
LOCK = optional(instance("lock"))
SHAPE = tuple_of_whole(4, 1)
PYRAMID = optional(word("mean", "nearest"))
COMMON = {"axes_map": instance("axes map", text=lambda: "YX"), "dtype": DTYPE, "overwrite": FLAG, "lock": LOCK}
WORDS = {
    "path": ("name", "output", "place", "folder", "ending"),
    "output": ("name", "place", "folder", "ending"),
    "chunk_shape": ("chunk",),
    "shard_shape": ("shard", "chunk"),
    "lock": ("lock",),
}


def _closed(sink_of):
    """Make a sink, and abort it afterwards."""

    def make(**arguments):
        sink_of(**arguments).abort()

    return make


def _path(kind: Kind, *also: str) -> Kind:
    return kind.accepting(*also, because="the kind of sink is given by its class, not by the name") if also else kind


OTHER_ENDING = ("text", "unknown ending", "bytes path", "a list of letters")
entry(
    "open_sink",
    lambda: (
        _closed(pl.open_sink),
        {
            "output": "out.ome.zarr",
            "axes_map": MAP(),
            "dtype": "uint8",
            **GRID,
            "metadata": None,
            "overwrite": False,
            "resume": False,
            "lock": None,
        },
    ),
    output=optional(OUTPUT_PATH),
    **COMMON,
    chunk_shape=SHAPE,
    shard_shape=SHAPE,
    metadata=METADATA,
    resume=FLAG,
    words=WORDS,
)
entry(
    "OmeZarrSink",
    lambda: (
        _closed(pl.OmeZarrSink),
        {
            "path": "out.ome.zarr",
            "axes_map": MAP(),
            "dtype": "uint8",
            **GRID,
            "metadata": None,
            "pyramid": "mean",
            "levels": None,
            "version": "0.5",
            "overwrite": False,
            "resume": False,
            "lock": None,
        },
    ),
    path=OUTPUT_PATH.accepting("text", "unknown ending", because="the class decides the format"),
    **COMMON,
    chunk_shape=SHAPE,
    shard_shape=SHAPE,
    metadata=METADATA,
    pyramid=PYRAMID,
    levels=optional(whole(1, huge=False)),
    version=word("0.5", "0.4"),
    resume=FLAG,
    words=WORDS,
)
entry(
    "TiffSink",
    lambda: (
        _closed(pl.TiffSink),
        {
            "path": "out.ome.tif",
            "axes_map": MAP(),
            "dtype": "uint8",
            "metadata": None,
            "overwrite": False,
            "lock": None,
        },
    ),
    path=OUTPUT_PATH.accepting("text", "unknown ending", because="the class decides the format"),
    **COMMON,
    metadata=METADATA,
    words=WORDS,
)
entry(
    "NpySink",
    lambda: (
        _closed(pl.NpySink),
        {"path": "out.npy", "axes_map": MAP(), "dtype": "uint8", "overwrite": False, "lock": None},
    ),
    path=OUTPUT_PATH.accepting("text", "unknown ending", because="the class decides the format"),
    **COMMON,
    words=WORDS,
)
entry(
    "MemorySink",
    lambda: (_closed(pl.MemorySink), {"axes_map": MAP(), "dtype": "uint8"}),
    axes_map=COMMON["axes_map"],
    dtype=DTYPE,
)


def _written(kind: str):
    def write(region, block):
        sink = _sink(kind)
        try:
            sink.write(region, block)
        finally:
            sink.abort()

    return write


def _sink(kind: str):
    common = {"axes_map": MAP(), "dtype": "uint8"}
    if kind == "zarr":
        return pl.OmeZarrSink("out.ome.zarr", **common, **GRID)
    return {
        "tif": lambda: pl.TiffSink("out.tif", **common),
        "npy": lambda: pl.NpySink("out.npy", **common),
        "memory": lambda: pl.MemorySink(**common),
    }[kind]()


WRITE_WORDS = {"region": ("region", "block"), "block": ("block", "region")}
for name, kind in {"MemorySink": "memory", "FileSink": "tif", "OmeZarrSink": "zarr"}.items():
    entry(
        f"{name}.write",
        lambda kind=kind: (_written(kind), {"region": REGION, "block": BLOCK}),
        region=slices(4),
        block=ARRAY,
        words=WRITE_WORDS,
    )
entry("MemorySink.buffer", lambda: (_sink("memory").buffer, {"region": REGION}), region=slices(4), words=WRITE_WORDS)


def _with_sink(method: str):
    def call(**arguments):
        sink = _sink("zarr")
        try:
            sink.write(REGION, BLOCK)
            if method != "block_record":
                arguments = {
                    "record": {**sink.block_record(REGION), **arguments["record"]}
                    if arguments["record"] == {} and method == ""
                    else arguments["record"]
                }
            return getattr(sink, method)(**arguments)
        finally:
            sink.abort()

    return call


def _record():
    sink = _sink("zarr")
    try:
        sink.write(REGION, BLOCK)
        return sink.block_record(REGION)
    finally:
        sink.abort()


entry(
    "OmeZarrSink.block_record",
    lambda: (_with_sink("block_record"), {"region": REGION}),
    region=slices(4),
    words=WRITE_WORDS,
)
entry(
    "OmeZarrSink.has_block",
    lambda: (_with_sink("has_block"), {"record": _record()}),
    free={"record": "answers False for what is not the record of a block"},
)


def _finalized(advance):
    sink = _sink("zarr")
    try:
        for region in sink.grid.shards(sink.grid.whole):
            sink.write(region, np.zeros([part.stop - part.start for part in region], sink.data_dtype))
        return sink.finalize(advance)
    finally:
        sink.abort()


entry("OmeZarrSink.finalize", lambda: (_finalized, {"advance": lambda number: None}), advance=optional(CALLABLE))


def _restored(record):
    begun = _sink("zarr")
    begun.write(REGION, BLOCK)
    begun.close()
    sink = pl.OmeZarrSink("out.ome.zarr", axes_map=MAP(), dtype="uint8", **GRID, resume=True)
    try:
        sink.restore(record)
    finally:
        sink.abort()


entry(
    "OmeZarrSink.restore",
    lambda: (_restored, {"record": _record()}),
    record=mapping(_record),
    words={"record": ("block",)},
)
WINDOW = word("hann", "gaussian", "linear", "mean")
TILING = instance("tiling", random=world.random_plan)
entry(
    "CropStitcher",
    lambda: (
        pl.CropStitcher,
        {"data_shape": world.SHAPE, "dtype": "uint8", "blend": "hann", "tiling": world.tiling()},
    ),
    data_shape=tuple_of_whole(4, 1),
    dtype=DTYPE,
    blend=optional(WINDOW),
    tiling=TILING,
    words={"data_shape": ("shape",)},
)


def _stitched(tile, spec):
    pl.CropStitcher(world.SHAPE, "uint8").add(tile, spec)


NOT_TILES = {
    "plain patch": lambda: world.SPEC,
    "past the image": lambda: {**world.tiling()[0], "stitch_coords": (60, 40)},
    "crop past the tile": lambda: {**world.tiling()[0], "crop_size": (99, 99)},
    "negative crop": lambda: {**world.tiling()[0], "crop_coords": (-1, 0)},
    "fractional crop": lambda: {**world.tiling()[0], "crop_coords": (0.5, 0)},
    "text crop": lambda: {**world.tiling()[0], "crop_size": "88"},
    "one crop": lambda: {**world.tiling()[0], "crop_size": (8,)},
    "wrong total": lambda: {**world.tiling()[0], "total_tiles": -1},
}
TILE = Kind("tile specification", {**STRANGERS, **NOT_TILES})
entry(
    "CropStitcher.add",
    lambda: (_stitched, {"tile": np.zeros((3, 32, 32), np.uint8), "spec": world.tiling()[0]}),
    tile=ARRAY.refusing(
        floats=lambda: np.zeros((3, 32, 32), np.float32),
        channels=lambda: np.zeros((2, 32, 32), np.uint8),
        smaller=lambda: np.zeros((3, 8, 8), np.uint8),
    ),
    spec=TILE.accepting("wrong total", because="compared with the number of tiles at the end"),
    words={"spec": ("specification", "tile", "stitch_coords", "crop"), "tile": ("tile",)},
)
entry(
    "TiledPatching.index_of",
    lambda: (world.tiling().index_of, {"spec": world.tiling()[0]}),
    spec=TILE,
    words={"spec": (*SPEC_WORDS, "tile", "stitch_coords", "crop")},
)
MANY_TILES = Kind(
    "tile specifications",
    {
        **STRANGERS,
        **inside(NOT_TILES, lambda: list(world.tiling())),
        "None inside": lambda: [*list(world.tiling())[:-1], None],
        "one too few": lambda: list(world.tiling())[:-1],
        "one too many": lambda: [*world.tiling(), world.tiling()[0]],
    },
)
entry(
    "TiledPatching.indices_of",
    lambda: (world.tiling().indices_of, {"specs": list(world.tiling())}),
    specs=MANY_TILES.accepting("one too few", "one too many", because="any number of tiles has indices"),
    words={"specs": (*SPEC_WORDS, "tile", "stitch_coords", "crop")},
)
TILES = Kind(
    "tiles",
    dict(ARRAY.values.items())
    | {
        "one too few": lambda: world.tiles()[:-1],
        "one too many": lambda: [*world.tiles(), world.tiles()[0]],
        "None inside": lambda: [*list(world.tiles())[:-1], None],
        "text inside": lambda: [*list(world.tiles())[:-1], "a"],
        "smaller inside": lambda: [*list(world.tiles())[:-1], np.zeros((3, 8, 8), np.uint8)],
        "other dtype inside": lambda: [*list(world.tiles())[:-1], np.zeros((3, 32, 32))],
    },
)
entry(
    "stitch_tiles",
    lambda: (
        pl.stitch_tiles,
        {
            "tiles": world.tiles(),
            "specs": list(world.tiling()),
            "data_shape": world.SHAPE,
            "blend": "hann",
            "tiling": world.tiling(),
        },
    ),
    tiles=TILES.accepting("other dtype inside", because="the image is of the dtype that holds all"),
    specs=MANY_TILES,
    data_shape=optional(tuple_of_whole(4, 1)),
    blend=optional(WINDOW),
    tiling=TILING,
    words={
        "tiles": ("tile",),
        "specs": (*SPEC_WORDS, "tile", "stitch_coords", "crop"),
        "data_shape": ("shape", "tile"),
    },
)
entry(
    "seam_visibility",
    lambda: (pl.seam_visibility, {"image": world.pixels().astype(float), "tiling": world.tiling(), "data_idx": 0}),
    image=ARRAY,
    tiling=instance("plan", random=world.random_plan),
    data_idx=whole(0),
    words={"image": ("shape",)},
)
entry(
    "SeamVisibility",
    lambda: (dict, {}),
    free=dict.fromkeys(("ratio", "expected", "spread", "n_seams"), "made by `seam_visibility`, of what it has checked"),
)
