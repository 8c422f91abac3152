"""`patchloom predict`: run a model over images and write the result."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console

from patchloom.cli import options
from patchloom.cli.reporting import print_json, reported_errors
from patchloom.prediction import predict
from patchloom.prediction.emptiness import SkipDark
from patchloom.prediction.models import AugmentedModel, Model, load_model


def predict_command(
    sources: options.Sources,
    model: Annotated[
        str, typer.Option(help="An .onnx, .czann or .czseg file, or module:function for a callable of your own.")
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", help="The .ome.zarr, .ome.tif or .npy to write; a folder where there are several images."
        ),
    ],
    axes: options.Axes = None,
    patch_size: options.PatchSize = None,
    overlaps: options.Overlaps = None,
    blend: options.Blend = None,
    seams: options.Seams = None,
    padding: options.Padding = "reflect",
    batch_size: options.BatchSize = 1,
    dtype: options.Dtype = None,
    reduce: options.Reduce = None,
    normalise: options.Normalise = None,
    skip_dark: options.SkipDarker = None,
    memory_limit: options.MemoryLimit = None,
    layout: options.Layout = None,
    augment: Annotated[
        Literal["none", "flips", "all"],
        typer.Option(help="Average over flips, or over flips and quarter turns too: 4 or 8 times the work."),
    ] = "none",
    pyramid: options.Pyramid = "mean",
    ome_zarr: Annotated[Literal["0.5", "0.4"], typer.Option(help="Which OME-Zarr to write.")] = "0.5",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an output that exists, and discard one that is unfinished.")
    ] = False,
    keep_going: Annotated[
        bool, typer.Option("--keep-going", help="Finish the other images of a series when one fails.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")] = False,
    as_json: options.AsJson = False,
    debug: options.Debug = False,
) -> None:
    """Run a model over images of any size and write a seamless result. A run that was killed goes on when started again."""
    with reported_errors(debug=debug):
        started = time.monotonic()
        result = predict(
            _augmented(load_model(model, layout=layout), augment),
            sources if len(sources) > 1 else sources[0],
            output,
            axes=axes,
            patch_size=patch_size,
            overlaps=overlaps,
            blend=blend,
            seams=seams,
            padding=padding,
            batch_size=batch_size,
            dtype=dtype,
            reduce=reduce,
            normalise=normalise,
            skip=None if skip_dark is None else SkipDark(skip_dark),
            memory_limit=memory_limit,
            ome_zarr_version=ome_zarr,
            keep_going=keep_going,
            pyramid=None if pyramid == "none" else pyramid,
            overwrite=overwrite,
            progress=not quiet,
        )
        written = [str(path) for path in _paths(result)]
        if as_json:
            print_json({"written": written, "seconds": round(time.monotonic() - started, 3)})
            return
        for path in written:
            typer.echo(path)
        if not quiet:
            Console(stderr=True).print(f"done in {time.monotonic() - started:.1f} s", highlight=False)


def _augmented(model: Model, augment: Literal["none", "flips", "all"]) -> Model:
    if augment == "none":
        return model
    return AugmentedModel(model, quarter_turns=augment == "all")


def _paths(result: Any) -> Iterator[Path]:
    """Flatten what a run wrote: a series is a list, several outputs are a mapping."""
    if isinstance(result, list):
        for image in result:
            yield from _paths(image)
    elif isinstance(result, dict):
        yield from result.values()
    else:
        yield result
