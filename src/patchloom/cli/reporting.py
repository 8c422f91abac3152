"""What the command line prints: results on standard output, everything else on standard error; and exit codes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer
from rich.console import Console
from rich.markup import escape

from patchloom.errors import (
    ArgumentError,
    AxesError,
    MissingExtraError,
    OutputExistsError,
    PatchloomError,
    SourceNotFoundError,
)

FAILED = 1
WRONG_USE = 2
INTERRUPTED = 130

_WRONG_USE_ERRORS = (
    ArgumentError,
    AxesError,
    MissingExtraError,
    OutputExistsError,
    SourceNotFoundError,
    FileNotFoundError,
)


@contextmanager
def reported_errors(*, debug: bool) -> Iterator[None]:
    """Turn an error into one message and an exit code: 2 for wrong use, 1 for a failure, 130 if interrupted.

    Parameters
    ----------
    debug : bool
        Whether the error is raised instead, with its traceback.
    """
    try:
        yield
    except KeyboardInterrupt as error:
        notes = getattr(error, "__notes__", ["no block is finished and kept: run the same again to start afresh"])
        Console(stderr=True, soft_wrap=True).print(f"[bold]stopped:[/] {escape(notes[0])}", highlight=False)
        raise typer.Exit(INTERRUPTED) from None
    except typer.Exit:
        raise
    except Exception as error:
        if debug:
            raise
        message = (
            str(error)
            if isinstance(error, PatchloomError)
            else f"{type(error).__name__}: {error} (--debug shows the traceback)"
        )
        _print_error("\n".join([message, *getattr(error, "__notes__", [])]))
        raise typer.Exit(WRONG_USE if isinstance(error, _WRONG_USE_ERRORS) else FAILED) from None


def _print_error(message: str) -> None:
    Console(stderr=True, soft_wrap=True).print(f"[bold red]error:[/] {escape(message)}", highlight=False)


def print_json(value: Any) -> None:
    """Print a value as JSON on standard output."""
    typer.echo(json.dumps(value, indent=2))
