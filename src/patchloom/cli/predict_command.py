"""`patchloom predict`: run a model over images and write the result."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from patchloom.cli import options
from patchloom.cli.reporting import print_json, reported_errors
from patchloom.prediction import predict
from patchloom.prediction.models import load_model


def predict_command(
    sources: options.Sources,
    model: Annotated[
        str, typer.Option(help="An .onnx, .czann or .czseg file, or module:function for a callable of your own.")
    ],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", help="The .ome.zarr to write; a folder of them where there are several images."),
    ],
    axes: options.Axes = None,
    patch_size: options.PatchSize = None,
    overlaps: options.Overlaps = None,
    blend: options.Blend = None,
    seams: options.Seams = None,
    padding: options.Padding = "reflect",
    batch_size: options.BatchSize = 1,
    dtype: options.Dtype = None,
    memory_limit: options.MemoryLimit = None,
    layout: options.Layout = None,
    pyramid: options.Pyramid = "mean",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an output that exists.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")] = False,
    as_json: options.AsJson = False,
    debug: options.Debug = False,
) -> None:
    """Run a model over images of any size and write a seamless OME-Zarr."""
    with reported_errors(debug=debug):
        started = time.monotonic()
        result = predict(
            load_model(model, layout=layout),
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
            memory_limit=memory_limit,
            pyramid=None if pyramid == "none" else pyramid,
            overwrite=overwrite,
            progress=not quiet,
        )
        written = [str(path) for path in (result if isinstance(result, list) else [result])]
        if as_json:
            print_json({"written": written, "seconds": round(time.monotonic() - started, 3)})
            return
        for path in written:
            typer.echo(path)
        if not quiet:
            Console(stderr=True).print(f"done in {time.monotonic() - started:.1f} s", highlight=False)
