"""Arguments and options that several commands share, so that they are called and explained alike."""

from __future__ import annotations

import re
from typing import Annotated, Literal

import typer


class Voxels(tuple[int, ...]):
    """One whole number for each spatial axis; a class of its own, as typer takes a plain tuple for several arguments."""

    __slots__ = ()


def voxels(text: str) -> int | Voxels:
    """Read one whole number for all spatial axes, or one for each, separated by commas.

    Examples
    --------
    >>> voxels("16,256,256"), voxels("256")
    ((16, 256, 256), 256)
    """
    try:
        numbers = Voxels(int(part) for part in text.split(","))
    except ValueError:
        raise typer.BadParameter(
            f"{text!r} is not a whole number or a list of them, such as 256 or 16,256,256"
        ) from None
    return numbers[0] if len(numbers) == 1 else numbers


def n_bytes(text: str) -> int:
    """Read a size in memory.

    Examples
    --------
    >>> n_bytes("1.5GiB"), n_bytes("200 MB"), n_bytes("4096")
    (1610612736, 200000000, 4096)
    """
    match = re.fullmatch(r"\s*([\d.]+)\s*(?:([KMGT])(i?)B?|B)?\s*", text, re.IGNORECASE)
    try:
        number, prefix, binary = float(match[1]), match[2] or "", match[3]  # type: ignore[index]  # no match is a TypeError
    except (TypeError, ValueError):
        raise typer.BadParameter(f"{text!r} is not a size such as 2GiB or 500MB") from None
    power = " KMGT".index(prefix.upper() or " ")
    return int(number * (1024 if binary else 1000) ** power)


Sources = Annotated[
    list[str],
    typer.Argument(
        metavar="IMAGE...",
        help="Images: files, folders, glob patterns or URLs (TIFF, OME-Zarr, Zarr, CZI); one of several in a file as cells.ome.tif@1.",
    ),
]
Axes = Annotated[
    str | None,
    typer.Option(
        help="Axes of the images, outermost first, letters of STCZYX such as CYX; from their metadata if left out."
    ),
]
PatchSize = Annotated[
    Voxels | None,
    typer.Option(
        parser=voxels,
        metavar="N|[Z,]Y,X",
        help="Tile size in voxels, one number for all axes or one for each; from the model if it takes only one. With two "
        "numbers, images with a Z axis are predicted slice by slice.",
    ),
]
Overlaps = Annotated[
    Voxels | None,
    typer.Option(
        parser=voxels,
        metavar="N|[Z,]Y,X",
        help="Voxels that neighboring tiles share; what the model declares, else a quarter of the tile.",
    ),
]
Blend = Annotated[
    Literal["hann", "gaussian", "linear", "mean"] | None,
    typer.Option(help="Blend overlapping tiles with this window; by default each voxel is cropped from one tile."),
]
Seams = Annotated[
    Literal["centered", "grid"] | None,
    typer.Option(help="Put seams in the middle of overlaps, or on the output's own grid; chosen by size if left out."),
]
Padding = Annotated[
    Literal["reflect", "edge", "wrap", "constant"],
    typer.Option(help="How pixels outside the image are filled, where a tile passes its end."),
]
OriginMultiple = Annotated[
    Voxels | None,
    typer.Option(
        parser=voxels,
        metavar="N|[Z,]Y,X",
        help="Start every tile on a multiple of this, in voxels: the stride of the network. One number holds for all axes; "
        "what the model declares if left out, else 1.",
    ),
]
BatchSize = Annotated[
    int | None,
    typer.Option(
        min=1, help="Number of tiles that go through the model together; as the model declares if left out, else 1."
    ),
]
Pyramid = Annotated[
    Literal["auto", "mean", "mode", "nearest", "none"],
    typer.Option(
        help="How the output's lower levels are made: auto takes the mode of labels and the mean of intensities; none makes none."
    ),
]
MemoryLimit = Annotated[
    int | None,
    typer.Option(
        parser=n_bytes,
        metavar="SIZE",
        help="What the run may take, the model's own needs not counted, such as 2GiB; half of what is free if left out.",
    ),
]
Postprocess = Annotated[
    str | None,
    typer.Option(
        metavar="STEPS",
        help="What to write of a prediction: argmax, threshold:0.5, channels:1, uint8, uint8*255; several joined by |.",
    ),
]
Normalize = Annotated[
    str | None,
    typer.Option(
        metavar="METHOD",
        help="Bring each image's gray values to the model's range, by statistics of the whole image: mean_std (mean to 0, "
        "deviation to 1) or percentiles:1,99.8 (to 0 and 1); with /channel, /sample or /sample_channel behind it, each of "
        "these by its own.",
    ),
]
Skip = Annotated[
    str | None,
    typer.Option(
        metavar="RULE",
        help="Do not run the model on some tiles: dark:100 skips those without a voxel brighter than 100, and writes 0 there; "
        "dark:100,fill=5 writes 5.",
    ),
]
Layout = Annotated[
    str | None,
    typer.Option(help="Order of an ONNX model's axes, such as NCHW or NHWC, if the file leaves it open."),
]
Bgr = Annotated[
    bool | None,
    typer.Option(
        "--bgr/--rgb",
        help="Whether a ZEISS model takes colors blue first or red first; a .czann does not declare it, and gets them as they come.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
Measure = Annotated[
    bool,
    typer.Option(
        "--measure",
        help="Read the pixels: measure the images for --normalize, and run the model on one tile to see its outputs.",
    ),
]
Debug = Annotated[bool, typer.Option("--debug", help="Show where in the code an error came from.")]
