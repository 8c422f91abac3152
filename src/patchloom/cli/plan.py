"""`patchloom plan`: show what a prediction would do, without running it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from patchloom.cli import options
from patchloom.cli.predict import load_models
from patchloom.cli.reporting import print_json, reported_errors
from patchloom.errors import ArgumentError
from patchloom.prediction import PredictionPlan, plan


def plan_command(
    sources: options.Sources,
    model: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE",
            help="As for predict. Use the tile size, overlap and channels that this model declares.",
            rich_help_panel=options.MODEL,
        ),
    ] = None,
    layout: options.Layout = None,
    inputs: options.InputValues = None,
    model_output: options.ModelOutput = None,
    bgr: options.Bgr = None,
    weights: options.Weights = None,
    network: options.Network = None,
    argument: options.FactoryArguments = None,
    trust: options.Trust = False,
    batch_size: options.BatchSize = None,
    n_draws: options.Draws = None,
    device: options.Device = "auto",
    precision: options.Precision = None,
    axes: options.Axes = None,
    channels: options.Channels = None,
    region: options.Region = None,
    voxel_size: options.VoxelSize = None,
    pixel_size: options.PixelSize = None,
    normalize: options.Normalize = None,
    denormalize: options.Denormalize = None,
    patch_size: options.PatchSize = None,
    overlaps: options.Overlaps = None,
    halo: options.Halo = None,
    blend: options.Blend = None,
    seams: options.Seams = None,
    origin_multiple: options.OriginMultiple = None,
    padding: options.Padding = "reflect",
    skip: options.Skip = None,
    postprocess: options.Postprocess = None,
    memory_limit: options.MemoryLimit = None,
    measure: options.Measure = False,
    export: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Write the plan as JSON to a file, for check and PredictionPlan.from_json."),
    ] = None,
    as_json: options.AsJson = False,
    debug: options.Debug = False,
) -> None:
    """Show the tiles, blocks and memory of a prediction without running it.

    No pixels are read, unless --measure is given. A model that declares no tile size is probed on random numbers.
    """
    with reported_errors(debug=debug):
        prepared = plan(
            sources if len(sources) > 1 else sources[0],
            model=None
            if not model
            else load_models(
                model,
                layout=layout,
                inputs=options.input_values(inputs),
                output=model_output or None,
                bgr=bgr,
                weights=weights,
                network=network,
                arguments=options.factory_arguments(argument),
                trust=trust or None,
                device=device,
                precision=precision,
            ),
            axes=axes,
            channels=channels,
            region=region,
            voxel_size=voxel_size,
            pixel_size=pixel_size,
            normalize=normalize,
            denormalize=denormalize,
            patch_size=patch_size,
            overlaps=overlaps,
            halo=halo,
            blend=blend,
            seams=seams,
            origin_multiple=origin_multiple,
            padding=padding,
            batch_size=batch_size,
            n_draws=n_draws,
            skip=skip,
            memory_limit=memory_limit,
            postprocess=postprocess,
            measure=measure,
        )
        if export is not None:
            _export(prepared, export)
        if as_json:
            print_json(prepared.summary())
        else:
            typer.echo(prepared)


def _export(prepared: PredictionPlan, path: str) -> None:
    try:
        Path(path).write_text(prepared.to_json(), encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ArgumentError(f"export is {path!r}, which cannot be written ({error}): name a file") from None
