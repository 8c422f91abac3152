"""The outcome of each image of a run, for people and for programs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from patchloom.prediction.output.writer import OutputWriter, Result
from patchloom.prediction.planning.plan import Plan
from patchloom.prediction.running.engine import Engine


@dataclass(frozen=True, slots=True)
class ImageReport:
    """The outcome of one image of a run.

    `pl.predict` calls its argument `report` with a list of these, one for each image.

    Parameters
    ----------
    source : str
        Name of the image.
    outputs : tuple of str
        Files that were written, one for each output of the model; empty if arrays are returned.
    axes : str
        Axes of the image as it is stored.
    shape : tuple of int
        Shape of the image, in these axes.
    tiles, blocks : int
        Number of tiles and blocks of the image.
    blocks_resumed : int
        Number of blocks that an earlier run finished.
    tiles_skipped : int
        Number of tiles that this run skipped.
    seconds : float, optional
        Seconds from the first read to completion, which may include reads of neighbors in the series; None if this run did not
        complete the image.
    error : str, optional
        Message of the error by which the image failed; None if it did not.

    Examples
    --------
    >>> import numpy as np
    >>> import patchloom as pl
    >>> reports = []
    >>> options = {"axes": "YX", "patch_size": (4, 4), "overlaps": (0, 0), "progress": False}
    >>> result = pl.predict(lambda batch: batch, np.zeros((8, 12)), report=reports.extend, **options)
    >>> reports[0].shape, reports[0].tiles, reports[0].error
    ((8, 12), 6, None)
    """

    source: str
    outputs: tuple[str, ...]
    axes: str
    shape: tuple[int, ...]
    tiles: int
    blocks: int
    blocks_resumed: int
    tiles_skipped: int
    seconds: float | None
    error: str | None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values that go to JSON."""
        return {**asdict(self), "outputs": list(self.outputs), "shape": list(self.shape)}


def report_images(plan: Plan, outputs: OutputWriter, engine: Engine) -> list[ImageReport]:
    """Report on each image, after the run.

    Parameters
    ----------
    plan : Plan
        The plan.
    outputs : OutputWriter
        The outputs.
    engine : Engine
        The engine that ran it.
    """
    return [
        ImageReport(
            source=str(stack.source),
            outputs=tuple(map(str, _paths(outputs.results.get(data_idx)))),
            axes=stack.original_axes,
            shape=tuple(stack.original_data_shape),
            tiles=len(plan.tiling.get_patch_indices(data_idx)),
            blocks=len(plan.blocks[data_idx]),
            blocks_resumed=len(outputs.resumed[data_idx]),
            tiles_skipped=engine.skipped[data_idx],
            seconds=_seconds(engine.began_at.get(data_idx), outputs.completed_at.get(data_idx)),
            error=None if data_idx not in engine.failures else str(engine.failures[data_idx]),
        )
        for data_idx, stack in enumerate(plan.survey.stacks)
    ]


def _seconds(began_at: float | None, completed_at: float | None) -> float | None:
    return None if began_at is None or completed_at is None else round(completed_at - began_at, 3)


def show_reports(reports: Sequence[ImageReport]) -> None:
    """Print a table of the images of a series on standard error; nothing for a single image.

    Parameters
    ----------
    reports : sequence of ImageReport
        One report for each image.
    """
    if len(reports) < 2:
        return
    console = Console(stderr=True, highlight=False)
    if not console.is_terminal:
        console.width = 10_000  # a log file has no width, and a wrapped line is hard to search
    console.print(_table(reports))


def _table(reports: Iterable[ImageReport]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("image", "output", "shape"):
        table.add_column(name, overflow="fold")
    for name in ("tiles", "blocks", "resumed", "skipped", "seconds"):
        table.add_column(name, justify="right")
    for report in reports:
        numbers = (report.tiles, report.blocks, report.blocks_resumed, report.tiles_skipped)
        seconds = "" if report.seconds is None else f"{report.seconds:.1f}"
        shape = f"{report.axes} {' × '.join(map(str, report.shape))}"
        table.add_row(Text(report.source), _outcome(report), shape, *map(str, numbers), seconds)
    return table


def _outcome(report: ImageReport) -> Text:
    if report.error is not None:
        return Text(f"failed: {report.error}", style="red")
    return Text(", ".join(report.outputs) or "array")


def _paths(result: Result | None) -> Iterator[Path]:
    if isinstance(result, dict):
        for of_output in result.values():
            yield from _paths(of_output)
    elif isinstance(result, Path):
        yield result
