"""Arguments and options that several commands share, so that they are called and explained alike."""

from __future__ import annotations

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


Sources = Annotated[
    list[str],
    typer.Argument(
        metavar="IMAGE...", help="Images: files, folders, glob patterns or URLs (TIFF, OME-Zarr, Zarr, CZI)."
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
    typer.Option(parser=voxels, metavar="[Z,]Y,X", help="Tile size in voxels; from the model if it takes only one."),
]
Overlaps = Annotated[
    Voxels | None,
    typer.Option(
        parser=voxels,
        metavar="[Z,]Y,X",
        help="Voxels that neighbouring tiles share; what the model declares, else a quarter of the tile.",
    ),
]
Seams = Annotated[
    Literal["centered", "grid"] | None,
    typer.Option(help="Put seams in the middle of overlaps, or on the output's own grid; chosen by size if left out."),
]
Padding = Annotated[
    Literal["reflect", "edge", "wrap", "constant"],
    typer.Option(help="What stands outside an image that is smaller than a tile."),
]
BatchSize = Annotated[int, typer.Option(min=1, help="Tiles that go through the model together.")]
Dtype = Annotated[
    str | None,
    typer.Option(help="Type of the output, such as uint8; the model's own if left out. Integers are rounded."),
]
Pyramid = Annotated[
    Literal["mean", "nearest", "none"],
    typer.Option(help="How the output's lower levels are made; nearest for labels, none for none."),
]
Layout = Annotated[
    str | None,
    typer.Option(help="Order of an ONNX model's axes, such as NCHW or NHWC, where it cannot be told from the file."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show where in the code an error came from.")]
