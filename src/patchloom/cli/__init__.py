"""The command line: it only parses arguments and prints results."""

from __future__ import annotations

from typing import Annotated

import typer

from patchloom import __version__
from patchloom.cli.check import check_command
from patchloom.cli.check_model import check_model_command
from patchloom.cli.info import info_command
from patchloom.cli.plan import plan_command
from patchloom.cli.predict import predict_command
from patchloom.cli.probe import probe_command
from patchloom.cli.status import status_command

app = typer.Typer(
    name="patchloom",
    help="Run models over microscopy images of any size, tile by tile.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("predict")(predict_command)
app.command("plan")(plan_command)
app.command("info")(info_command)
app.command("status")(status_command)
app.command("check")(check_command)
app.command("probe")(probe_command)
app.command("check-model")(check_model_command)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[  # handled by its callback
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line; the exit code is 0 (done), 1 (failed), 2 (wrong use) or 130 (interrupted)."""
    app()
