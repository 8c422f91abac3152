"""`patchloom status`: show whether an output is finished."""

from __future__ import annotations

from typing import Annotated

import typer

from patchloom.cli import options
from patchloom.cli.reporting import FAILED, print_json, reported_errors
from patchloom.prediction.output.status import OutputStatus, read_output_status


def status_command(
    output: Annotated[
        str, typer.Argument(help="The output of a run, finished or not; for a series its folder.", metavar="OUTPUT")
    ],
    as_json: options.AsJson = False,
    debug: options.Debug = False,
) -> None:
    """Show whether an output is finished, or the number of its finished blocks.

    The exit code is 0 for a finished output, 1 for an unfinished output, and 2 if there is no output.
    """
    with reported_errors(debug=debug):
        status = read_output_status(output)
        if as_json:
            print_json({"output": str(status.output), "finished": status.finished, **status.progress})
        else:
            typer.echo(f"{status.output}: {'finished' if status.finished else _unfinished(status)}")
        if not status.finished:
            raise typer.Exit(FAILED)


def _unfinished(status: OutputStatus) -> str:
    if not status.progress:
        return "unfinished; if no run is writing it, start the same run again"
    return (
        "unfinished, {blocks} of {of_blocks} blocks and {images} of {of_images} images are finished; if no run is writing "
        "it, start the same run again to resume"
    ).format(**status.progress)
