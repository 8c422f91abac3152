"""Arguments and options that several commands share, so that they are called and explained alike."""

from __future__ import annotations

import re
from typing import Annotated, Literal

import typer


class Voxels(tuple[int, ...]):
    """One whole number a spatial axis; a class of its own, as typer takes a plain tuple for several arguments."""

    __slots__ = ()


def voxels(text: str) -> Voxels:
    """Read whole numbers that are separated by commas.

    Examples
    --------
    >>> voxels("16,256,256")
    (16, 256, 256)
    """
    try:
        return Voxels(int(part) for part in text.split(","))
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no list of whole numbers such as 256,256") from None


class PercentilePair(tuple[float, ...]):
    """A lower and an upper percentile; a class of its own for the same reason."""

    __slots__ = ()


def percentile_pair(text: str) -> PercentilePair:
    """Read two numbers that are separated by a comma.

    Examples
    --------
    >>> percentile_pair("1,99.8")
    (1.0, 99.8)
    """
    try:
        lower, upper = map(float, text.split(","))
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no pair of numbers such as 1,99.8") from None
    return PercentilePair((lower, upper))


def one_or_each(numbers: Voxels | None) -> int | Voxels | None:
    """Return a single number as such: it holds for all axes.

    Examples
    --------
    >>> one_or_each(voxels("16")), one_or_each(voxels("1,16,16"))
    (16, (1, 16, 16))
    """
    return numbers[0] if numbers is not None and len(numbers) == 1 else numbers


def n_bytes(text: str) -> int:
    """Read a size in memory.

    Examples
    --------
    >>> n_bytes("1.5GiB"), n_bytes("200 MB"), n_bytes("4096")
    (1610612736, 200000000, 4096)
    """
    match = re.fullmatch(r"\s*([\d.]+)\s*(?:([KMGT])(i?)B?|B)?\s*", text, re.IGNORECASE)
    try:
        number, prefix, binary = float(match[1]), match[2] or "", match[3]  # type: ignore[index]  # no match is no size
    except (TypeError, ValueError):
        raise typer.BadParameter(f"{text!r} is no size such as 2GiB or 500MB") from None
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
        metavar="[Z,]Y,X",
        help="Tile size in voxels; from the model if it takes only one. With two numbers, images with a Z axis are "
        "predicted slice by slice.",
    ),
]
Overlaps = Annotated[
    Voxels | None,
    typer.Option(
        parser=voxels,
        metavar="[Z,]Y,X",
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
    typer.Option(help="What stands outside an image that is smaller than a tile."),
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
Dtype = Annotated[
    str | None,
    typer.Option(help="Type of the output, such as uint8; the model's own if left out. Integers are rounded."),
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
        help="What to write of a prediction: argmax, threshold:0.5, channels:1, uint8*255; several joined by |.",
    ),
]
Normalize = Annotated[
    Literal["mean_std", "percentiles"] | None,
    typer.Option(
        help="Bring each image's gray values to the model's range, by statistics of the whole image: mean to 0 and "
        "deviation to 1, or two percentiles to 0 and 1."
    ),
]
Percentiles = Annotated[
    PercentilePair | None,
    typer.Option(
        parser=percentile_pair, metavar="LOW,HIGH", help="Which percentiles become 0 and 1; 1,99.8 if left out."
    ),
]
Per = Annotated[
    Literal["source", "channel", "sample", "sample_channel"] | None,
    typer.Option(help="What of an image is normalized by statistics of its own; all of it together if left out."),
]
SkipDarker = Annotated[
    float | None,
    typer.Option(
        "--skip-dark",
        metavar="VALUE",
        help="Do not run the model where no voxel is brighter than this; 0 is written there.",
    ),
]
Layout = Annotated[
    str | None,
    typer.Option(help="Order of an ONNX model's axes, such as NCHW or NHWC, where it cannot be told from the file."),
]
Bgr = Annotated[
    bool | None,
    typer.Option(
        "--bgr/--rgb",
        help="Whether a ZEISS model takes colors blue first or red first; a .czann does not say, and gets them as they come.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show where in the code an error came from.")]
