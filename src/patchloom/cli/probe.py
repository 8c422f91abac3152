"""`patchloom probe`: measure what a model accepts, and how far it looks."""

from __future__ import annotations

from typing import Annotated

import typer

from patchloom.cli import options
from patchloom.cli.reporting import FAILED, print_json, reported_errors
from patchloom.figures import probe_figure, save_figure
from patchloom.prediction.models.load import load_model
from patchloom.prediction.probe.probing import probe


def probe_command(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="A model file or package, or a function as module:name or path/to/file.py:name."
        ),
    ],
    image: Annotated[
        str | None,
        typer.Option(
            metavar="IMAGE",
            help="An image whose middle is used. Default: random numbers between 0 and 1.",
        ),
    ] = None,
    axes: options.Axes = None,
    tolerance: Annotated[
        float,
        typer.Option(min=0.0, help="Differences below this share of the range of the output count as equal."),
    ] = 1e-4,
    seconds: Annotated[
        float,
        typer.Option(min=0.001, help="Time for all measurements together. What does not fit into it is left out."),
    ] = 20.0,
    figure: Annotated[
        str | None,
        typer.Option(
            metavar="PNG",
            help="Draw a tile with its halo, the part that is kept, and what one output voxel looks at (extra plot).",
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
    device: options.Device = "auto",
    precision: options.Precision = None,
    as_json: options.AsJson = False,
    debug: options.Debug = False,
) -> None:
    """Measure which tiles a model accepts, how far it looks, its stride, and where its predictions differ.

    The exit code is 1 if the model refuses every tile.
    """
    with reported_errors(debug=debug):
        loaded = load_model(
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
        )
        found = probe(loaded, image=image, axes=axes, tolerance=tolerance, seconds=seconds)
        if as_json:
            print_json({"model": model, **found.to_dict()})
        else:
            typer.echo(found)
        if not found.sizes:
            raise typer.Exit(FAILED)
        if figure is not None:
            save_figure(probe_figure(found), figure)
