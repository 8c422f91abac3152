"""`patchloom status`: say how far the run that writes an output is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from patchloom.cli import options
from patchloom.cli.reporting import FAILED, print_json, reported_errors
from patchloom.errors import SourceNotFoundError
from patchloom.local_paths import normalize_path
from patchloom.prediction.ledger import ledger_path, read_progress


def status_command(
    output: Annotated[Path, typer.Argument(help="An output, finished or not; for a series its folder.")],
    as_json: options.AsJson = False,
    debug: options.Debug = False,
) -> None:
    """Say whether an output is finished, or how many of its blocks are; exit code 0 if it is finished, else 1."""
    with reported_errors(debug=debug):
        output = normalize_path(output)
        progress = read_progress(ledger_path(output))
        if progress is None and not output.exists():
            raise SourceNotFoundError(f"{output}: no output, and no run that has begun one")
        facts = {"output": str(output), "finished": progress is None}
        line = f"{output}: finished"
        if progress is not None:
            header, blocks, images = progress
            facts |= {
                "blocks": blocks,
                "of_blocks": header["n_blocks"],
                "images": images,
                "of_images": header["n_images"],
            }
            line = (
                f"{output}: unfinished, {blocks} of {header['n_blocks']} blocks and {images} of {header['n_images']} images "
                "are done; start the same run again to go on"
            )
        if as_json:
            print_json(facts)
        else:
            typer.echo(line)
        if progress is not None:
            raise typer.Exit(FAILED)
