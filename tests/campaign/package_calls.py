"""The campaign's calls of packages of bioimage.io; they are not made if bioimageio.spec is not installed."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import numpy as np

import patchloom as pl

from . import world
from .entry import Made, entry
from .hostile import (
    ARRAY,
    AXES,
    FLAG,
    OUTPUT_PATH,
    SOURCE_PATH,
    TEXT,
    instance,
    number,
    optional,
    sequence_of,
    tuple_of_whole,
    whole,
    word,
)
from .prediction_calls import BATCH, DEVICE, MODEL, PRECISION, WEIGHTS
from .reading_calls import SOURCE_WORDS, SOURCES

_REASON = "bioimageio.spec is not installed"


def _entry(name: str, make: Any, /, **kinds: Any) -> None:
    if find_spec("bioimageio"):
        entry(name, make, **kinds)
    else:
        arguments = {argument: _REASON for argument in kinds if argument != "words"}
        entry(name, make, free=arguments)


def _model() -> pl.BioimageioModel:
    return pl.BioimageioModel(world.package())


def _opened() -> Made:
    given = {"path": world.package(), "weights": "onnx", "trust": False, "device": None, "precision": None}
    return pl.BioimageioModel, given


_entry(
    "BioimageioModel",
    _opened,
    path=SOURCE_PATH.refusing(
        text_zip=lambda: "no.zip", npy=lambda: world.files() / "image.npy", NUL=lambda: "a\0.zip"
    ),
    weights=optional(WEIGHTS),
    trust=FLAG,
    device=DEVICE,
    precision=PRECISION,
    words={"path": ("package", "bioimage", "file")},
)
_entry("BioimageioModel.__call__", lambda: (_model(), {"batch": BATCH}), batch=ARRAY)
_entry(
    "BioimageioModel.on",
    lambda: (_model().on, {"device": "auto", "precision": None}),
    device=optional(word("auto").accepting("with a space", because="spaces around a name do not matter")),
    precision=PRECISION,
)

NAMES = sequence_of(TEXT, lambda: ["a"]).accepting("[]", because="a default is written")
TOLERANCE = {"absolute": 1e-3, "relative": 1e-3, "mismatched_per_million": 100}
entry(
    "Tolerance",
    lambda: (pl.Tolerance, dict(TOLERANCE)),
    **{name: number(least=0) for name in TOLERANCE},
)
entry(
    "Tolerance.compare",
    lambda: (pl.Tolerance().compare, {"output": "mask", "found": BATCH, "expected": BATCH}),
    free=dict.fromkeys(("output", "found", "expected"), "both arrays are results of models"),
)
entry(
    "check_model",
    lambda: (
        pl.check_model,
        {
            "model": world.model,
            "image": world.image(),
            "axes": "YX",
            "patch_size": (32, 32),
            "overlaps": (8, 8),
            "tolerance": pl.Tolerance(),
        },
    ),
    model=MODEL,
    image=ARRAY,
    axes=AXES.accepting("too many axes", because="the patch size is refused first, which does not fit"),
    patch_size=optional(tuple_of_whole(2, 1, one=True)),
    overlaps=optional(tuple_of_whole(2, 0, one=True)),
    tolerance=optional(instance("tolerance")),
    words={
        "patch_size": ("patch",),
        "overlaps": ("overlap",),
        "axes": ("axes", "patch_size"),
        "image": ("image", "source", "array"),
    },
)

entry(
    "probe",
    lambda: (
        pl.probe,
        {
            "model": world.model,
            "n_channels": 1,
            "n_dims": 2,
            "dtype": "float32",
            "image": world.image(),
            "axes": "YX",
            "tolerance": 1e-4,
            "seconds": 0.2,
        },
    ),
    model=MODEL.accepting("list of functions", because="they are averaged"),
    n_channels=optional(whole(1, huge=False)),
    n_dims=optional(whole(2, huge=False)),
    free={"dtype": "whatever NumPy takes as a dtype"},
    image=optional(SOURCES),
    axes=optional(AXES),
    tolerance=number(least=0),
    seconds=number(least=0.001),
    words={"image": SOURCE_WORDS["sources"], "axes": ("axes", "axis")},
)

_entry(
    "export_bioimageio",
    lambda: (
        pl.export_bioimageio,
        {
            "path": "exported-package",
            "model": pl.OnnxModel(world.package() / "network.onnx", layout="NCHW"),
            "example": world.pixels(np.float32)[0, :1],
            "axes": "CYX",
            "plan": None,
            "normalize": "mean_std",
            "overlaps": 8,
            "name": "a network",
            "description": "for the campaign",
            "authors": ["Ada"],
            "license": "MIT",
            "cite": ["a paper, 10.1234/none"],
            "channel_names": ["dna"],
            "out_channel_names": ["mask"],
            "overwrite": False,
        },
    ),
    model=MODEL,
    example=ARRAY,
    axes=AXES,
    plan=optional(instance("plan")),
    name=optional(TEXT),
    description=TEXT.accepting("empty text", because="a default is written"),
    license=TEXT,
    authors=NAMES.accepting("empty text inside", because="bioimageio.spec accepts it"),
    cite=NAMES,
    channel_names=NAMES.accepting("empty text inside", because="bioimageio.spec accepts it"),
    out_channel_names=NAMES.accepting("empty text inside", because="bioimageio.spec accepts it"),
    path=OUTPUT_PATH.accepting(
        "here",
        "text",
        "unknown ending",
        "no folder",
        because="a folder of any name is made, and one that exists is named whole",
    ),
    normalize=optional(word("mean_std", "percentiles")),
    overlaps=optional(tuple_of_whole(2, 0, one=True)),
    overwrite=FLAG,
    words={
        "overlaps": ("overlap",),
        "axes": ("axes", "patch_size"),
        "example": ("example", "image", "source", "array"),
    },
)
