"""Arguments and options that several commands share, with the same names and help."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from contextlib import suppress
from typing import Annotated, Any, Literal

import numpy as np
import typer

from patchloom.errors import ArgumentError


class Voxels(tuple[int, ...]):
    """One whole number for each spatial axis; a class of its own, because typer reads a plain tuple from several arguments."""

    __slots__ = ()


def voxels(text: str) -> int | Voxels:
    """Parse one whole number for all spatial axes, or one for each, separated by commas.

    Examples
    --------
    >>> voxels("16,256,256"), voxels("256")
    ((16, 256, 256), 256)
    """
    try:
        numbers = Voxels(int(part) for part in text.split(","))
    except ValueError:
        raise typer.BadParameter(
            f"{text!r} is not a whole number, or one for each axis: write 256 or 16,256,256"
        ) from None
    return numbers[0] if len(numbers) == 1 else numbers


def input_values(texts: Sequence[str] | None) -> dict[str, Any] | None:
    """Parse values of inputs of a network: numbers, or arrays in NumPy files.

    Examples
    --------
    >>> input_values(["threshold=0.5", "steps=3"])
    {'threshold': 0.5, 'steps': 3}
    """
    return dict(map(_input_value, texts)) if texts else None


def factory_arguments(texts: Sequence[str] | None) -> dict[str, Any] | None:
    """Parse arguments of a function that makes a network: JSON, else text.

    Examples
    --------
    >>> factory_arguments(["channels=32", "levels=[1, 2]", "norm=batch"])
    {'channels': 32, 'levels': [1, 2], 'norm': 'batch'}
    """
    return dict(map(_factory_argument, texts)) if texts else None


def _factory_argument(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise ArgumentError(f"argument {text!r} is not a name and a value: write channels=32")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def _input_value(text: str) -> tuple[str, Any]:
    name, _, value = text.rpartition("=")
    if not name:
        raise ArgumentError(f"input {text!r} is not a name and a value: write noise=0.1 or mask=mask.npy")
    if value.lower().endswith(".npy"):
        try:
            return name, np.load(value, allow_pickle=False)
        except (OSError, ValueError) as error:
            raise ArgumentError(
                f"input {name!r} is {value!r}, which cannot be read ({error}): name a NumPy file"
            ) from None
    for parse in (int, float):
        with suppress(ValueError):
            return name, parse(value)
    raise ArgumentError(
        f"input {name!r} is {value!r}, which is not a number or a NumPy file: write {name}=0.1 or {name}=values.npy"
    )


def n_bytes(text: str) -> int:
    """Parse a number of bytes.

    Examples
    --------
    >>> n_bytes("1.5GiB"), n_bytes("200 MB"), n_bytes("4096")
    (1610612736, 200000000, 4096)
    """
    match = re.fullmatch(r"\s*([\d.]+)\s*(?:([KMGT])(i?)B?|B)?\s*", text, re.IGNORECASE)
    try:
        number, prefix, binary = float(match[1]), match[2] or "", match[3]  # type: ignore[index]  # no match is a TypeError
    except (TypeError, ValueError):
        raise typer.BadParameter(f"{text!r} is not a number of bytes: write 2GiB, 500MB or 4096") from None
    power = " KMGT".index(prefix.upper() or " ")
    return int(number * (1024 if binary else 1000) ** power)


MODEL = "Model"
MODEL_FILE = "Model file"
OUTPUT = "Output"
IMAGES = "Images"
TILES = "Tiles"
RUN = "Run"
"""Titles of the groups of options in the help."""

MODEL_KINDS = (
    "a file of ONNX (.onnx), ZEISS (.czann, .czseg) or PyTorch (TorchScript, torch.export, weights), a package of bioimage.io (.zip or "
    "folder), a checkpoint of CAREamics (.ckpt), a MONAI bundle (folder), or a callable of your own as module:name or "
    "path/to/file.py:name"
)
"""What `load_model` opens, for the help."""

Sources = Annotated[
    list[str],
    typer.Argument(
        metavar="IMAGE...",
        help="Files, folders, glob patterns or URLs of images: TIFF, OME-Zarr, Zarr, CZI, NumPy. If a file contains several "
        "images, select one by its number: cells.ome.tif@1.",
    ),
]
Axes = Annotated[
    str | None,
    typer.Option(
        metavar="LETTERS",
        help="Axes of the images, outermost first: letters of STCZYX, such as CYX. Default: the axes that their metadata declare.",
        rich_help_panel=IMAGES,
    ),
]
Channels = Annotated[
    str | None,
    typer.Option(
        metavar="CHANNELS",
        help="Channels that the model gets, in this order: indices, counted from 0, or names, separated by commas, such as 0,2 "
        "or DAPI,GFP. Default: all channels.",
        rich_help_panel=IMAGES,
    ),
]
Region = Annotated[
    str | None,
    typer.Option(
        metavar="BOX",
        help="The box of each image that is predicted, such as y=100:400,x=0:512,t=3 in voxels or z=2um:8um. What lies around "
        "it is read as context. Default: the whole image.",
        rich_help_panel=IMAGES,
    ),
]
VoxelSize = Annotated[
    str | None,
    typer.Option(
        metavar="N|[Z,]Y,X",
        help="Size of a voxel in micrometers: one number for all spatial axes, or one for each. Default: as the metadata of the "
        "images contain it.",
        rich_help_panel=IMAGES,
    ),
]
PixelSize = Annotated[
    str | None,
    typer.Option(
        metavar="N|[Z,]Y,X|model",
        help="Size of a pixel that the model was trained on, in micrometers, or model for the size that it declares. Tiles are "
        "resampled to it and predictions back; --patch-size, --overlaps, --halo and --origin-multiple are then in pixels of the model. Default: the model "
        "gets the voxels of the image.",
        rich_help_panel=IMAGES,
    ),
]
Normalize = Annotated[
    str | None,
    typer.Option(
        metavar="METHOD",
        help="Normalize each image by statistics of the whole image: mean_std (to mean 0 and standard deviation 1) or "
        "percentiles:1,99.8 (these percentiles to 0 and 1). Add /channel, /sample or /sample_channel to measure each one "
        "alone; none leaves the pixel values as they are. Default: what the model declares, else none.",
        rich_help_panel=IMAGES,
    ),
]
Denormalize = Annotated[
    bool | None,
    typer.Option(
        "--denormalize/--no-denormalize",
        help="Undo the normalization in predictions, before --postprocess: a denoiser then returns gray values. Default: what the "
        "model declares.",
        rich_help_panel=IMAGES,
    ),
]
PatchSize = Annotated[
    Voxels | None,
    typer.Option(
        parser=voxels,
        metavar="N|[Z,]Y,X",
        help="Size of a tile in voxels: one number for all axes, or one for each. With two numbers, images with a Z axis are "
        "predicted slice by slice. Default: the size that the model declares; if it declares none, one that is chosen by probing it.",
        rich_help_panel=TILES,
    ),
]
Overlaps = Annotated[
    Voxels | None,
    typer.Option(
        parser=voxels,
        metavar="N|[Z,]Y,X",
        help="Number of voxels that neighboring tiles share. Default: what the model declares, or a quarter of the tile.",
        rich_help_panel=TILES,
    ),
]
Halo = Annotated[
    Voxels | None,
    typer.Option(
        parser=voxels,
        metavar="N|[Z,]Y,X",
        help="Number of voxels at the borders of each tile's prediction that are not used, except at the ends of the image; at most "
        "half of --overlaps. Default: what the model declares, or 0.",
        rich_help_panel=TILES,
    ),
]
Blend = Annotated[
    Literal["hann", "gaussian", "linear", "mean", "none"] | None,
    typer.Option(
        help="Blend overlapping tiles with this window; none crops each voxel from one tile. Default: what the model declares, "
        "else none.",
        rich_help_panel=TILES,
    ),
]
Seams = Annotated[
    Literal["centered", "grid"] | None,
    typer.Option(
        help="Put seams in the middle of overlaps, or on the grid of blocks. Default: chosen by the size of the images.",
        rich_help_panel=TILES,
    ),
]
OriginMultiple = Annotated[
    Voxels | None,
    typer.Option(
        parser=voxels,
        metavar="N|[Z,]Y,X",
        help="Start every tile on a multiple of this number of voxels: the stride of the network. Default: what the model "
        "declares, or 1.",
        rich_help_panel=TILES,
    ),
]
Padding = Annotated[
    Literal["reflect", "edge", "wrap", "constant"],
    typer.Option(
        help="How pixels outside the image are filled, if a tile reaches over its end.", rich_help_panel=TILES
    ),
]
Skip = Annotated[
    str | None,
    typer.Option(
        metavar="RULE",
        help="Skip tiles without running the model: dark:100 skips tiles in which no voxel is brighter than 100, and writes 0 "
        "there; dark:100,fill=5 writes 5. Default: no tile is skipped.",
        rich_help_panel=TILES,
    ),
]
BatchSize = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="N",
        help="Number of tiles that go through the model together. Default: what the model declares, or 1.",
        rich_help_panel=MODEL,
    ),
]
Draws = Annotated[
    int | None,
    typer.Option(
        "--draws",
        min=2,
        metavar="N",
        help="Run a model with dropout, or one that draws random numbers, N times on each tile, and write the mean and the standard "
        "deviation.",
        rich_help_panel=MODEL,
    ),
]
Device = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help="Where the model runs: cpu, cuda, cuda:1, mps, or auto for the best that this machine has.",
        rich_help_panel=MODEL,
    ),
]
Precision = Annotated[
    Literal["float32", "bfloat16", "float16"] | None,
    typer.Option(
        help="Dtype in which the network computes; lower precision is faster on a GPU, and less exact. Default: that of its "
        "weights.",
        rich_help_panel=MODEL,
    ),
]
Layout = Annotated[
    str | None,
    typer.Option(
        metavar="AXES",
        help="Order of the axes of the input of an ONNX, ZEISS or MONAI model, such as NCHW or NHWC. Default: inferred from its file.",
        rich_help_panel=MODEL_FILE,
    ),
]
InputValues = Annotated[
    list[str] | None,
    typer.Option(
        "--input",
        metavar="NAME=VALUE",
        help="Value of an input of an ONNX or PyTorch model other than the image: a number, or an array in a NumPy file. Repeat the option "
        "for several inputs.",
        rich_help_panel=MODEL_FILE,
    ),
]
ModelOutput = Annotated[
    list[str] | None,
    typer.Option(
        "--model-output",
        metavar="NAME",
        help="Output of an ONNX model to use; repeat the option for several. Default: all outputs.",
        rich_help_panel=MODEL_FILE,
    ),
]
Bgr = Annotated[
    bool | None,
    typer.Option(
        "--bgr/--rgb",
        help="Whether a ZEISS model takes blue or red as the first color. Default: as its file declares, or the order of the "
        "image.",
        rich_help_panel=MODEL_FILE,
    ),
]
Weights = Annotated[
    Literal["onnx", "torchscript", "pytorch_state_dict"] | None,
    typer.Option(
        help="Which weights of a bioimage.io package are used. Default: the first of these that it contains.",
        rich_help_panel=MODEL_FILE,
    ),
]
Network = Annotated[
    str | None,
    typer.Option(
        metavar="MODULE:NAME",
        help="Function or class that makes the network of a file with weights alone (.pt, .pth, .ckpt, .safetensors). Default: the one "
        "that the file names, with --trust.",
        rich_help_panel=MODEL_FILE,
    ),
]
FactoryArguments = Annotated[
    list[str] | None,
    typer.Option(
        "--argument",
        metavar="NAME=VALUE",
        help="An argument of the function or class that makes the network of --network, such as channels=32; may be repeated. A value "
        "that is not JSON is a text.",
        rich_help_panel=MODEL_FILE,
    ),
]
Trust = Annotated[
    bool,
    typer.Option(
        "--trust",
        help="Run code that comes with the model, or that its file names. Only for models whose origin you trust.",
        rich_help_panel=MODEL_FILE,
    ),
]
Postprocess = Annotated[
    str | None,
    typer.Option(
        metavar="STEPS",
        help="What is done to predictions before they are written: argmax, threshold:0.5, channels:1, uint8 or uint8*255; "
        "sigmoid and softmax; several steps are joined by |, and none does nothing. Default: what the model declares, else none.",
        rich_help_panel=OUTPUT,
    ),
]
Pyramid = Annotated[
    Literal["auto", "mean", "mode", "nearest", "none"],
    typer.Option(
        help="How the lower levels of an OME-Zarr are computed: auto takes the mode of labels and the mean of intensities; "
        "none writes no lower levels.",
        rich_help_panel=OUTPUT,
    ),
]
MemoryLimit = Annotated[
    int | None,
    typer.Option(
        parser=n_bytes,
        metavar="SIZE",
        help="Memory that the run may use, such as 2GiB, without the memory of the model. Default: half of the free memory.",
        rich_help_panel=RUN,
    ),
]
Tolerance = Annotated[
    float | None,
    typer.Option(
        min=0,
        metavar="VALUE",
        help="The largest difference that a certificate tolerates, in intensities; of labels, the share of voxels that may differ. "
        "Default: a ten-thousandth of the range, and of the voxels.",
        rich_help_panel=RUN,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
Measure = Annotated[
    bool,
    typer.Option(
        "--measure",
        help="Read the pixels: measure the images for --normalize, and run the model on one tile to infer its outputs.",
        rich_help_panel=RUN,
    ),
]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
