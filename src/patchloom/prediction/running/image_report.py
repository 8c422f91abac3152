"""What became of each image of a run, for people and for programs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from patchloom.prediction.output.writer import OutputWriter, Result
from patchloom.prediction.planning.plan import PredictionPlan
from patchloom.prediction.running.engine import Engine


@dataclass(frozen=True, slots=True)
class ImageReport:
    """What became of one image of a run."""

    source: str
    """The image."""

    outputs: tuple[str, ...]
    """Files that were written: one for each output of the model, none where arrays are returned."""

    axes: str
    """The image's own axes."""

    shape: tuple[int, ...]
    """The image's shape, in its own axes."""

    tiles: int
    """Tiles that the image consists of."""

    blocks: int
    """Blocks that the image consists of."""

    blocks_resumed: int
    """Of these, how many an earlier run had finished."""

    tiles_skipped: int
    """Number of tiles that this run filled instead of computing them."""

    seconds: float | None
    """From the first read to completion, neighbors in the series read meanwhile included; `None` if not completed now."""

    error: str | None
    """Why the image failed."""

    def to_dict(self) -> dict[str, Any]:
        """Give plain values that go to JSON."""
        return {**asdict(self), "outputs": list(self.outputs), "shape": list(self.shape)}


def report_images(plan: PredictionPlan, outputs: OutputWriter, engine: Engine) -> list[ImageReport]:
    """Say what became of each image, after the run.

    Parameters
    ----------
    plan : PredictionPlan
        What was run.
    outputs : OutputWriter
        What was written.
    engine : Engine
        What ran it.
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
    """Show a series as a table on standard error; nothing for a single image.

    Parameters
    ----------
    reports : sequence of ImageReport
        What became of the images.
    """
    if len(reports) < 2:
        return
    console = Console(stderr=True, highlight=False)
    if not console.is_terminal:
        console.width = 10_000  # a log has no width, and a line that is cut loses its end
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
