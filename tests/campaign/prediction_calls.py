"""Predictions: models, settings, postprocessing, plans and runs."""

from __future__ import annotations

from dataclasses import fields
from threading import Event

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
    HUGE,
    OUTPUT_PATH,
    SOURCE_PATH,
    STRANGERS,
    TEXT,
    Kind,
    instance,
    mapping,
    number,
    numbers,
    numbers_of_choice,
    optional,
    sequence_of,
    tuple_of_whole,
    whole,
    word,
)
from .patching_calls import SIZE
from .reading_calls import SOURCE_WORDS, SOURCES

SETTINGS = {
    "axes": "YX",
    "channels": [0],
    "region": {"y": (0, 40)},
    "voxel_size": None,
    "pixel_size": None,
    "patch_size": (32, 32),
    "overlaps": (8, 8),
    "halo": 0,
    "blend": None,
    "seams": None,
    "origin_multiple": 1,
    "padding": "reflect",
    "batch_size": 1,
    "n_draws": None,
    "postprocess": None,
    "normalize": None,
    "denormalize": None,
    "skip": None,
    "memory_limit": None,
}
POSTPROCESSING = Kind(
    "postprocessing",
    {
        **{label: make for label, make in STRANGERS.items() if label not in {"function", "class"}},
        "word": lambda: "relu",
        "half": lambda: "threshold:",
        "nan": lambda: "threshold:nan",
        "channel text": lambda: "channels:a",
        "bar": lambda: "argmax|",
        "negative channel": lambda: "channels:-1",
        "dtype text": lambda: "uint8*a",
        "function": lambda: np.max,
        "class": lambda: pl.Argmax,
        "list": lambda: [pl.Argmax()],
    },
)
SKIP = Kind(
    "skip rule",
    {
        **STRANGERS,
        "class of rules": lambda: pl.SkipDark,
        "list of rules": lambda: [pl.SkipDark(3)],
        "half": lambda: "dark:",
        "fill text": lambda: "dark:3,fill=a",
    },
)
NORMALIZE = word("mean_std", "percentiles").refusing(
    per=lambda: "mean_std/tile",
    one=lambda: "percentiles:1",
    order=lambda: "percentiles:99,1",
    outside=lambda: "percentiles:-1,101",
    of_another=pl.Argmax,
    None_inside=lambda: [None],
    two=lambda: [pl.measure_normalization(world.stacks()[0])] * 2,
)
CHANNELS = numbers_of_choice(1).refusing(
    negative_number=lambda: -1, name=lambda: "DAPI", huge=lambda: 10**30, empty_name=lambda: "0,,0"
)
REGION = Kind(
    "region",
    {
        **STRANGERS,
        "outside": lambda: "y=0:65",
        "reversed": lambda: "y=8:3",
        "no axis": lambda: "0:8",
        "channel": lambda: {"c": 0},
        "missing axis": lambda: {"z": 0},
        "unit": lambda: "y=0um:3um",
        "negative": lambda: {"y": (-8, 8)},
        "fraction": lambda: {"y": (0.5, 8)},
        "huge inside": lambda: {"y": (0, HUGE)},
        "nan inside": lambda: {"y": (0, float("nan"))},
        "None inside": lambda: {"y": None},
        "number as axis": lambda: {0: 8},
        "step": lambda: {"y": slice(0, 8, 2)},
        "list of pairs": lambda: [("y", (0, 8))],
    },
)
MICROMETERS = numbers(length=2).refusing(
    zero=lambda: 0.0, below=lambda: (-1.0, 1.0), three=lambda: (1, 1, 1), empty=lambda: "1,"
)
MICROMETERS = Kind(
    MICROMETERS.name,
    {
        label: make
        for label, make in MICROMETERS.values.items()
        if label not in ("3", "1.5", "'3'", "np.float64", "too long")
    },
)
KINDS = {
    "axes": AXES.refusing_values(None),
    "region": optional(REGION),
    "voxel_size": optional(MICROMETERS),
    "pixel_size": optional(MICROMETERS).refusing(unknown_voxel_size=lambda: 0.5, undeclared=lambda: "model"),
    "channels": optional(CHANNELS).accepting("digits", because="the index 0, as a command line contains it"),
    "patch_size": optional(SIZE),
    "overlaps": optional(tuple_of_whole(2, 0, one=True)),
    "halo": optional(tuple_of_whole(2, 0, one=True)),
    "blend": optional(word("hann", "gaussian", "linear", "mean", "none")),
    "seams": optional(word("centered", "grid")),
    "origin_multiple": optional(tuple_of_whole(2, 1, one=True)),
    "padding": word("reflect", "constant", "edge", "wrap"),
    "batch_size": optional(whole(1, huge=False)),
    "n_draws": optional(whole(2, huge=False)),
    "postprocess": optional(POSTPROCESSING),
    "normalize": optional(NORMALIZE),
    "denormalize": optional(FLAG),
    "skip": optional(SKIP),
    "memory_limit": optional(whole(1, huge=False)),
}
WORDS = {
    **SOURCE_WORDS,
    "channels": ("channel",),
    "region": ("region",),
    "postprocess": ("postprocessing", "threshold", "channel"),
    "normalize": ("normali", "percentile", "per "),
    "overlaps": ("overlap",),
    "output": ("path", "name", "folder", "ending", "there is", "tif", "npy", "zarr", "."),
    "memory_limit": ("memory",),
    "patch_size": ("patch", "tile"),
}
MODEL = Kind("model", CALLABLE.values)
entry(
    "plan",
    lambda: (pl.plan, {"sources": world.image(), "model": world.model, **SETTINGS, "measure": False}),
    sources=SOURCES,
    model=optional(MODEL),
    **KINDS,
    measure=FLAG,
    words=WORDS,
)


DEVICE = optional(
    word("auto", "cpu").accepting(
        "in a list", "with a space", because="several devices may be listed or separated by commas"
    )
)
PRECISION = optional(word("float32", "bfloat16", "float16"))


PROGRESS = Kind("flag or function", {label: make for label, make in FLAG.values.items() if label != "function"})
CERTIFY = PROGRESS
STOP = instance("event", **{"class of events": lambda: Event})


def _noise(ones):
    return ones


entry(
    "predict",
    lambda: (
        pl.predict,
        {
            "model": world.model,
            "sources": world.image(),
            "output": None,
            **SETTINGS,
            "device": "auto",
            "precision": None,
            "overwrite": False,
            "keep_going": False,
            "progress": False,
            "stop": None,
            "report": None,
            "certify": False,
            "tolerance": None,
            "resume_anyway": False,
        },
    ),
    model=MODEL,
    sources=SOURCES,
    output=optional(OUTPUT_PATH),
    **KINDS,
    device=DEVICE,
    precision=PRECISION,
    overwrite=FLAG,
    keep_going=FLAG,
    progress=PROGRESS,
    stop=optional(STOP),
    report=optional(CALLABLE),
    certify=CERTIFY,
    tolerance=optional(number(least=0)),
    resume_anyway=FLAG,
    words=WORDS,
)
entry(
    "OmeZarr",
    lambda: (pl.OmeZarr, {"path": "out.ome.zarr", "version": "0.5", "pyramid": "mean", "chunks": (64, 64)}),
    path=OUTPUT_PATH.accepting(
        "the root",
        "here",
        "text",
        "unknown ending",
        because="a folder for a series, which is looked at when it is written",
    ),
    version=word("0.5", "0.4"),
    pyramid=optional(word("mean", "nearest")),
    chunks=optional(tuple_of_whole(2, 1, one=True)),
    words={"path": WORDS["output"]},
)
PER = word("source", "channel", "sample", "sample_channel")
entry("MeanStd", lambda: (pl.MeanStd, {"per": "channel", "eps": 1e-6}), per=PER, eps=number(least=0))
entry(
    "Percentiles",
    lambda: (pl.Percentiles, {"lower": 1, "upper": 99, "per": "channel", "eps": 1e-6}),
    lower=number(),
    upper=number(),
    per=PER,
    eps=number(least=0),
    words={"lower": ("percentiles",), "upper": ("percentiles",)},
)

entry("AsDtype", lambda: (pl.AsDtype, {"dtype": "uint8", "scale": 2.0}), dtype=DTYPE, scale=number())
entry(
    "Threshold",
    lambda: (pl.Threshold, {"value": 0.5, "channel": 0}),
    words={"value": ("threshold",)},
    value=number(inf=True),
    channel=optional(whole(0, huge=False)),
)
entry(
    "SelectChannels",
    lambda: (pl.SelectChannels, {"channels": (0,)}),
    words={"channels": ("channel",)},
    channels=numbers_of_choice(3).accepting(
        "past the end", "huge inside", because="the number of channels is known later"
    ),
)
entry(
    "PostprocessingChain",
    lambda: (pl.PostprocessingChain, {"steps": (pl.Argmax(),)}),
    steps=sequence_of(POSTPROCESSING, lambda: [pl.Argmax(), pl.Argmax()], keep=99),
    words={"steps": ("postprocessing", "step")},
)
entry(
    "parse_postprocessing",
    lambda: (pl.parse_postprocessing, {"text": "argmax"}),
    text=Kind("text", {**POSTPROCESSING.values}),
    words={"text": ("postprocessing", "threshold", "channel")},
)
BLOCK = np.zeros((2, 8, 8), np.float32)
NOT_BLOCK = ARRAY
for name, make in {
    "Argmax": pl.Argmax,
    "AsDtype": lambda: pl.AsDtype("uint8"),
    "Threshold": lambda: pl.Threshold(0.5),
    "SelectChannels": lambda: pl.SelectChannels([0]),
    "Sigmoid": pl.Sigmoid,
    "Softmax": pl.Softmax,
    "PostprocessingChain": lambda: pl.PostprocessingChain((pl.Argmax(),)),
}.items():
    entry(
        f"{name}.__call__",
        lambda make=make: ((make()), {"block": BLOCK}),
        block=NOT_BLOCK,
        words={"block": ("block", "model", "dtype")},
    )
    entry(
        f"{name}.output",
        lambda make=make: (make().output, {"n_channels": 2, "dtype": np.dtype("float32")}),
        n_channels=whole(1, huge=False),
        dtype=DTYPE,
        words={"dtype": ("dtype", "model returns")},
    )
FILL = number(nan=True, inf=True).accepting("True", because="1, and for outputs of truth values")
entry(
    "SkipDark",
    lambda: (pl.SkipDark, {"threshold": 3, "fill": 0, "channels": [0]}),
    threshold=number(inf=True),
    fill=FILL,
    channels=optional(
        numbers_of_choice(3).accepting("past the end", "huge inside", because="the number of channels is known later")
    ),
)
entry(
    "SkipOutside",
    lambda: (pl.SkipOutside, {"masks": tuple(world.masks()), "fill": 0}),
    fill=FILL,
    masks=sequence_of(instance("stack"), world.masks, keep=99)
    .accepting("[]", because="compared with the series later")
    .refusing(arrays=lambda: [world.image()]),
    words={"masks": ("mask",)},
)
from .patching_calls import STACKS  # noqa: E402

for name, make in {"SkipDark": lambda: pl.SkipDark(3), "SkipOutside": lambda: pl.SkipOutside(world.masks())}.items():
    entry(
        f"{name}.check",
        lambda make=make: (make().check, {"image_stacks": world.stacks()}),
        image_stacks=STACKS.accepting("[]", "mixed", because="each image is checked by itself"),
        words={"image_stacks": ("image", "mask")},
    )
    entry(
        f"{name}.skips",
        lambda make=make: (make().skips, {}),
        free=dict.fromkeys(("tiles",), "called by `predict`, with what it has checked"),
    )
entry(
    "SkipDark.from_identity",
    lambda: (pl.SkipDark.from_identity, {}),
    free=dict.fromkeys(("identity", "fill"), "called with what a plan contains"),
)
entry(
    "SkipDark.is_dark",
    lambda: (pl.SkipDark(3).is_dark, {}),
    free={"pixels": "called by `predict`, with pixels of the source"},
)

MAPPED = (
    *("axes", "channels", "normalize", "patch_size", "overlaps", "halo", "blend", "origin_multiple", "padding"),
    "postprocess",
)
entry(
    "seam_map",
    lambda: (
        pl.seam_map,
        {
            "model": world.model,
            "image": world.image(),
            **{name: SETTINGS[name] for name in MAPPED},
            "device": "auto",
            "precision": None,
        },
    ),
    model=MODEL,
    **{name: KINDS[name] for name in MAPPED},
    device=DEVICE,
    precision=PRECISION,
    free={"image": "one of the sources of `plan`, which refuses them"},
    words=WORDS,
)
CERTIFICATE_PARTS = {
    "Certificate": (
        *("outputs", "regions", "n_skipped_regions", "n_voxels_predicted", "n_voxels_of_run", "seed", "plan", "model"),
        *("model_unknown", "versions", "seconds"),
    ),
    "Certificate.from_dict": ("values",),
    "CertifiedRegion": (
        *("kind", "data_idx", "sample_idx", "middle", "tile_start", "tile_size", "start", "stop", "is_exact"),
    ),
    "OutputDifference": (
        *("output", "is_labels", "n_voxels", "largest", "percentiles", "value_range", "tolerance", "n_over"),
        *("worst_data_idx", "worst_sample_idx", "worst_coords", "worst_size"),
    ),
}
for name, arguments in CERTIFICATE_PARTS.items():
    entry(name, lambda: (dict, {}), free=dict.fromkeys(arguments, "made by `certify`, of what it has checked"))


def _planned():
    return pl.plan(world.image(), axes="YX", patch_size=(32, 32), overlaps=(8, 8))


entry(
    "certify",
    lambda: (
        pl.certify,
        {
            "output": pl.predict(
                world.model, world.image(), axes="YX", patch_size=(32, 32), overlaps=(8, 8), progress=False
            ),
            "model": world.model,
            "sources": world.image(),
            "plan": _planned(),
            "tolerance": None,
            "n_regions": 2,
            "seed": 0,
            "device": "auto",
            "precision": None,
            "write": False,
        },
    ),
    model=MODEL,
    tolerance=optional(number(least=0)),
    n_regions=whole(1),
    seed=whole(0),
    device=DEVICE,
    precision=PRECISION,
    write=FLAG,
    free={
        "output": "arrays of other shapes are refused as another output, which names the array",
        "sources": "as those of `PredictionPlan.run`: another image is refused as one that has changed",
        "plan": "an instance of a class that only `plan` makes",
    },
    words=WORDS,
)
MADE_BY_PREDICT = "made by `predict`, of what it has checked"
for name, arguments in {
    "CandidateTiles": ("image_stacks", "specs", "read", "cache"),
    "ImageReport": (
        *(
            "source",
            "outputs",
            "axes",
            "shape",
            "tiles",
            "blocks",
            "blocks_resumed",
            "tiles_skipped",
            "seconds",
            "error",
        ),
    ),
    "Progress": ("label", "done", "total", "elapsed", "remaining", "device_use", "device_memory"),
    "OutputSpec": ("n_channels", "dtype", "scale", "margin", "name"),
    "OutputSpec.from_dict": ("values",),
    "ModelProbe": (
        *(
            "n_dims",
            "n_channels",
            "dtype",
            "sizes",
            "outputs",
            "reach",
            "checked_by",
            "takes_batches",
            "repeat_difference",
        ),
        *("batch_difference", "size_differences", "largest_size", "tolerance", "border", "seconds_per_tile"),
        *("bytes_per_tile", "remarks"),
    ),
    "ModelProbe.from_dict": ("values",),
    "OutputSpec.scale_coords": ("coords",),
    "OutputSpec.scale_size": ("sizes",),
    "OutputSpec.scale_window": ("window",),
}.items():
    entry(name, lambda: (dict, {}), free=dict.fromkeys(arguments, MADE_BY_PREDICT))

entry(
    "measure_normalization",
    lambda: (
        pl.measure_normalization,
        {
            "stack": world.stacks()[0],
            "method": "mean_std/channel",
            "max_bytes": 10**6,
            "max_count_bytes": None,
        },
    ),
    stack=instance("stack", array=world.image),
    method=word("mean_std", "percentiles"),
    max_bytes=whole(1, huge=False),
    max_count_bytes=optional(whole(0, huge=False)),
)
NORM = lambda: pl.measure_normalization(world.stacks()[0], pl.MeanStd("channel"))  # noqa: E731
TABLE = sequence_of(numbers(length=3), lambda: [(1.0, 2.0, 3.0)] * 2, keep=99)
entry(
    "Normalization",
    lambda: (
        pl.Normalization,
        {
            "method": "mean_std",
            "scale": ((1.0, 2.0, 3.0),) * 2,
            "offset": ((1.0, 2.0, 3.0),) * 2,
            "n_ignored": 0,
            "n_flat": 0,
        },
    ),
    method=word("mean_std", "percentiles"),
    free={"offset_rest": "what rounding left of an offset, measured"},
    scale=TABLE,
    offset=TABLE,
    n_ignored=whole(0, huge=False),
    n_flat=whole(0, huge=False),
)
entry(
    "Normalization.from_dict",
    lambda: (pl.Normalization.from_dict, {"values": NORM().to_dict()}),
    values=mapping(lambda: NORM().to_dict()),
    words={"values": ("normali", "method", "per", "scale", "offset", "n_")},
)
entry(
    "Normalization.of_channels",
    lambda: (NORM().of_channels, {"channels": [0, 2]}),
    channels=numbers_of_choice(3),
)
entry(
    "Normalization.undo",
    lambda: (NORM().undo, {"prediction": np.zeros((3, 8, 8), np.float32), "sample_idx": 0, "channels": [0, 1, 2]}),
    prediction=ARRAY,
    sample_idx=whole(0),
    channels=optional(numbers_of_choice(3)),
    words={"channels": ("channel",), "prediction": ("prediction", "channel")},
)

entry(
    "AugmentedModel",
    lambda: (pl.AugmentedModel, {"model": world.model, "quarter_turns": True, "flip_z": False}),
    model=MODEL,
    quarter_turns=FLAG,
    flip_z=FLAG,
)
WEIGHTS = word("onnx", "torchscript", "pytorch_state_dict")
BATCH = np.zeros((1, 1, 8, 8), np.float32)


def _checkpoint():
    return pl.CareamicsModel(world.files() / "run.ckpt", make_network=world.module)


entry(
    "TorchModel",
    lambda: (
        pl.TorchModel,
        {
            "module": world.module(),
            "description": pl.ModelDescription(n_dims=2),
            "precision": "float32",
            "inputs": {},
            "dropout": False,
        },
    ),
    module=instance("module"),
    description=instance("description"),
    precision=PRECISION,
    inputs=mapping(lambda: {"no_input": 1}, keys=False),
    dropout=FLAG,
)
entry(
    "TorchModel.__call__",
    lambda: (pl.TorchModel(world.module()), {"batch": BATCH}),
    batch=ARRAY.accepting("of nothing", because="the model is asked"),
)
entry(
    "TorchModel.on",
    lambda: (pl.TorchModel(world.module()).on, {"device": "cpu", "precision": None}),
    device=optional(word("auto", "cpu").accepting("with a space", because="spaces around a name do not matter")),
    precision=PRECISION,
)
entry(
    "AugmentedModel.__call__",
    lambda: ((pl.AugmentedModel(world.model)), {"batch": BATCH}),
    batch=ARRAY.accepting("of nothing", because="the model is asked"),
)
entry(
    "MonteCarloModel",
    lambda: (pl.MonteCarloModel, {"model": world.model, "n_draws": 3, "seed": 1, "postprocess": pl.Argmax()}),
    model=MODEL,
    n_draws=whole(2, huge=False),
    seed=whole(0, huge=False),
    postprocess=optional(CALLABLE),
)
entry(
    "MonteCarloModel.__call__",
    lambda: (pl.MonteCarloModel(world.model, 2), {"batch": BATCH}),
    batch=ARRAY.accepting("of nothing", because="the model is asked"),
    words={"batch": ("batch", "returned")},
)
entry(
    "MonteCarloModel.on",
    lambda: (pl.MonteCarloModel(pl.TorchModel(world.module())).on, {"device": "cpu", "precision": None}),
    device=optional(word("auto", "cpu").accepting("with a space", because="spaces around a name do not matter")),
    precision=PRECISION,
)
MODELS = sequence_of(MODEL, lambda: [world.model, world.model], keep=99)
entry("EnsembleModel", lambda: (pl.EnsembleModel, {"models": [world.model, world.model]}), models=MODELS)
for name, make in {
    "EnsembleModel": lambda: pl.EnsembleModel([pl.TorchModel(world.module())]),
    "AugmentedModel": lambda: pl.AugmentedModel(pl.TorchModel(world.module())),
    "OnnxModel": lambda: pl.OnnxModel(world.network()),
    "CzannModel": lambda: pl.CzannModel(world.files() / "network.czann"),
}.items():
    entry(
        f"{name}.on",
        lambda make=make: (make().on, {"device": "cpu", "precision": None}),
        device=DEVICE,
        precision=PRECISION,
    )
entry(
    "EnsembleModel.__call__",
    lambda: ((pl.EnsembleModel([world.model])), {"batch": BATCH}),
    batch=ARRAY.accepting("of nothing", because="the model is asked"),
    words={"batch": ("batch", "returned")},
)
INPUTS = optional(
    mapping(lambda: {"w": 0.5}).accepting("{}", "one too few", because="a network of one input needs no values")
)
OUTPUTS = optional(TEXT).refusing_values("z", ["z"], [], ["y", "y"])
ONE_DEVICE = word("cpu").accepting("in a list", "with a space", because="several devices may be listed")
entry(
    "OnnxModel",
    lambda: (
        pl.OnnxModel,
        {
            "source": world.network(),
            "layout": "NCHW",
            "inputs": {},
            "output": "y",
            "scale": 1.0,
            "channel_order": [0],
            "threads": 1,
            "device": "cpu",
            "providers": ("CPUExecutionProvider",),
            "name": None,
        },
    ),
    source=SOURCE_PATH.refusing(
        text_onnx=lambda: "no.onnx",
        npy=lambda: world.files() / "image.npy",
        NUL_onnx=lambda: "a\0.onnx",
        folder=world.files,
    ),
    layout=optional(TEXT).refusing_values("foo", "NCHWW", "CHW9", "nchw "),
    inputs=INPUTS,
    output=OUTPUTS,
    scale=optional(number()),
    channel_order=optional(numbers_of_choice(1)),
    threads=optional(whole(1)),
    device=ONE_DEVICE,
    providers=optional(sequence_of(TEXT, lambda: ["CPUExecutionProvider"], keep=99).refusing_values(("foo",))),
    name=optional(TEXT).accepting("empty text", because="as None"),
    words={
        "source": ("model", "file", "there is no", "ONNX"),
        "channel_order": ("channel",),
        "providers": ("provider",),
    },
)
entry(
    "OnnxModel.__call__",
    lambda: ((pl.OnnxModel(world.network())), {"batch": BATCH}),
    batch=ARRAY,
    words={"batch": ("batch", "images")},
)
entry(
    "load_model",
    lambda: (
        pl.load_model,
        {
            "reference": str(world.files() / "network.onnx"),
            "layout": "NCHW",
            "inputs": {},
            "output": "y",
            "bgr": None,
            "weights": None,
            "network": None,
            "arguments": None,
            "trust": None,
            "device": "auto",
            "precision": None,
        },
    ),
    reference=SOURCE_PATH.refusing(
        onnx=lambda: "no.onnx",
        czann=lambda: "no.czann",
        ckpt=lambda: "no.ckpt",
        module=lambda: "no_module:f",
        function=lambda: "numpy:no_function",
        value=lambda: "numpy:pi",
        py=lambda: "no.py:f",
        colon=lambda: ":",
        NUL_onnx=lambda: "a\0.onnx",
        NUL_czann=lambda: "a\0.czann",
        NUL_py=lambda: "a\0.py:f",
        long_py=lambda: "a" * 5000 + ".py:f",
        relative=lambda: "..x:f",
        folder=world.files,
    ),
    layout=optional(TEXT).refusing_values("foo"),
    inputs=INPUTS,
    output=OUTPUTS,
    bgr=optional(FLAG),
    weights=optional(WEIGHTS),
    network=optional(TEXT),
    arguments=optional(mapping(lambda: {"channels": 3})),
    trust=optional(FLAG),
    device=DEVICE,
    precision=PRECISION,
    words={"reference": ("model", "file", "there is no", "import", "class", "callable")},
)
entry(
    "ModelDescription",
    lambda: (pl.ModelDescription, {}),
    free=dict.fromkeys(
        [field.name for field in fields(pl.ModelDescription)],
        "a record of what a model declares; checked where it is used",
    ),
)
entry(
    "CareamicsModel",
    lambda: (pl.CareamicsModel, {"path": world.files() / "run.ckpt", "trust": False, "make_network": world.module}),
    path=SOURCE_PATH.refusing(
        ckpt=lambda: "no.ckpt",
        npy=lambda: world.files() / "image.npy",
        onnx=lambda: world.files() / "network.onnx",
        NUL_ckpt=lambda: "a\0.ckpt",
        folder=world.files,
    ),
    trust=FLAG,
    make_network=optional(CALLABLE),
    words={"path": ("file", "model", "there is no"), "make_network": ("make_network", "network")},
)
entry(
    "CareamicsModel.on",
    lambda: (_checkpoint().on, {"device": "cpu", "precision": None}),
    device=optional(word("auto", "cpu").accepting("with a space", because="spaces around a name do not matter")),
    precision=PRECISION,
)
entry(
    "CareamicsModel.__call__",
    lambda: (_checkpoint(), {"batch": BATCH}),
    batch=ARRAY.accepting("of nothing", because="the model is asked"),
)
entry(
    "MonaiModel",
    lambda: (pl.MonaiModel, {"path": world.bundle(), "layout": "NCHW", "preprocess": True, "trust": False}),
    path=SOURCE_PATH.refusing(
        npy=lambda: world.files() / "image.npy",
        NUL=lambda: "a\0b",
        folder=world.files,
    ),
    layout=optional(word("NCHW", "NCWH", "NCDHW", "NCWHD")),
    preprocess=FLAG,
    trust=FLAG,
    words={"path": ("folder", "bundle", "there is no")},
)
entry(
    "MonaiModel.on",
    lambda: (pl.MonaiModel(world.bundle()).on, {"device": "cpu", "precision": None}),
    device=optional(word("auto", "cpu").accepting("with a space", because="spaces around a name do not matter")),
    precision=PRECISION,
)
entry(
    "MonaiModel.__call__",
    lambda: (pl.MonaiModel(world.bundle()), {"batch": BATCH}),
    batch=ARRAY.accepting("of nothing", because="the model is asked"),
)
entry(
    "CzannModel",
    lambda: (
        pl.CzannModel,
        {
            "path": world.files() / "network.czann",
            "layout": None,
            "bgr": None,
            "threads": 1,
            "device": "cpu",
        },
    ),
    path=SOURCE_PATH.refusing(
        czann=lambda: "no.czann",
        npy=lambda: world.files() / "image.npy",
        NUL_czann=lambda: "a\0.czann",
        folder=world.files,
    ),
    layout=optional(TEXT).refusing_values("foo"),
    bgr=optional(FLAG),
    threads=optional(whole(1)),
    device=ONE_DEVICE,
    words={"path": ("file", "archive", "model", "there is no")},
)
entry(
    "CzannModel.__call__",
    lambda: (
        (pl.CzannModel(world.files() / "network.czann")),
        {"batch": np.zeros((1, 1, 24, 20), np.float32)},
    ),
    batch=ARRAY,
    words={"batch": ("batch", "images", "tiles")},
)
