"""`patchloom check`: compare the output of a run with predictions of larger tiles."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from patchloom.cli import options
from patchloom.cli.predict import load_models
from patchloom.cli.reporting import FAILED, print_json, reported_errors
from patchloom.errors import ArgumentError
from patchloom.prediction.api import PredictionPlan
from patchloom.prediction.certification import certify


def check_command(
    output: Annotated[
        str, typer.Argument(help="The output of a run; for a series its folder.", metavar="OUTPUT", show_default=False)
    ],
    sources: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="IMAGE...", help="The images of the run, if they lie elsewhere now.", show_default=False
        ),
    ] = None,
    *,
    model: Annotated[
        list[str],
        typer.Option(
            metavar="FILE",
            help="The model of the run, as in predict. Repeat it for several models.",
            rich_help_panel=options.MODEL,
        ),
    ],
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
    plan: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="The plan of the run as JSON, from plan --export. Default: the plan in the certificate of the output.",
        ),
    ] = None,
    tolerance: options.Tolerance = None,
    regions: Annotated[int, typer.Option(min=1, metavar="N", help="Largest number of regions that are compared.")] = 8,
    seed: Annotated[int, typer.Option(min=0, metavar="N", help="Another number chooses other regions.")] = 0,
    as_json: options.AsJson = False,
    debug: options.Debug = False,
) -> None:
    """Predict regions of an output once more in larger tiles, and compare: at seams, corners and borders of the image.

    The certificate is shown, and written beside the output and to its attributes. The exit code is 0 if the output equals the
    larger tiles within the tolerance, and 1 if it does not.
    """
    with reported_errors(debug=debug):
        loaded = load_models(
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
        found = certify(
            output,
            loaded,
            None if not sources else sources if len(sources) > 1 else sources[0],
            plan=None if plan is None else _read_plan(plan),
            tolerance=tolerance,
            n_regions=regions,
            seed=seed,
        )
        if as_json:
            print_json(found.to_dict())
        else:
            typer.echo(found)
        if not found.passed:
            raise typer.Exit(FAILED)


def _read_plan(path: str) -> PredictionPlan:
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ArgumentError(f"plan is {path!r}, which cannot be read ({error}): name a file of plan --export") from None
    return PredictionPlan.from_json(text)
