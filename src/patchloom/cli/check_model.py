"""`patchloom check-model`: compare tiles with the whole image, and a package with its own test tensors."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from patchloom.cli import options
from patchloom.cli.reporting import FAILED, print_json, reported_errors
from patchloom.prediction.model_check import ModelCheck, check_model
from patchloom.prediction.models.load import load_model


def check_model_command(
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL", help=f"The model: {options.MODEL_KINDS}."),
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
    patch_size: options.PatchSize = None,
    overlaps: options.Overlaps = None,
    as_json: options.AsJson = False,
    debug: options.Debug = False,
) -> None:
    """Check that a model returns the same for tiles as for the whole image, and what its own test image expects.

    The exit code is 0 if all results agree within the tolerance, and 1 if they do not.
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
        found = check_model(loaded, patch_size=patch_size, overlaps=overlaps)
        if as_json:
            print_json({"model": model, **found.to_dict()})
        else:
            _print_table(found)
        if not found.passed:
            raise typer.Exit(FAILED)


def _print_table(found: ModelCheck) -> None:
    console = Console(highlight=False, soft_wrap=True)
    table = Table("compared", "output", "largest difference", "mismatched voxels", "verdict", box=None)
    for row in found.rows():
        table.add_row(*row, style=None if row[-1] == "equal" else "red")
    console.print(table)
    sizes = [" × ".join(map(str, size)) for size in (found.image_size, found.patch_size, found.overlaps)]
    allowed = found.tolerance
    console.print(f"image {sizes[0]}, tiles {sizes[1]}, overlap {sizes[2]}", markup=False)
    console.print(
        f"tolerance {allowed.absolute:g} + {allowed.relative:g} of the expected value, for all but "
        f"{allowed.mismatched_per_million:g} of a million voxels",
        markup=False,
    )
    for remark in found.remarks():
        console.print(remark, markup=False)
