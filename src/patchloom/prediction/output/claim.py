"""The place where a run writes: checked, and locked against other runs, with the ledger beside it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from patchloom.errors import SinkError
from patchloom.image_stacks import ImageStack, files_read
from patchloom.prediction.models.model import Model
from patchloom.prediction.output.ledger import Ledger, ledger_path, read_header
from patchloom.prediction.planning.plan import Plan
from patchloom.prediction.request import RunOptions
from patchloom.prediction.skip_rules import SkipRule
from patchloom.sinks import (
    SINK_SUFFIXES,
    InputPlaces,
    OutputLock,
    check_destination,
    output_kind,
)
from patchloom.sinks.output_paths import output_path, series_destinations
from patchloom.sinks.write_errors import explain


class OutputClaim(NamedTuple):
    """What a run may write, as long as it holds it."""

    destinations: Sequence[Path | None]
    """Where each image goes, as absolute paths: the model may change the working directory; `None` for an array."""

    spelled: Sequence[Path | None]
    """The same as the user spelled it."""

    lock: OutputLock | None
    """The lock on the output, if that is anywhere."""

    ledger: Path | None
    """Where the ledger is, or will be; `None` where the output cannot be resumed."""

    unfinished: dict[str, Any] | None
    """What the ledger contains of the unfinished run that is to be resumed."""

    inputs: InputPlaces
    """Where everything is that the run reads."""


@contextmanager
def claim_output(
    options: RunOptions, images: Sequence[ImageStack], *, is_series: bool, skip: SkipRule | None, model: Model
) -> Iterator[OutputClaim]:
    """Check all destinations and keep other runs away from them; a folder made for them is removed if it stays empty.

    Parameters
    ----------
    options : RunOptions
        Where the output goes, and whether one that exists may be replaced.
    images : sequence of ImageStack
        The images.
    is_series : bool
        Whether the output is a folder for a series.
    skip, model
        As in `predict`.

    Raises
    ------
    SinkError
        If another run writes there; if a destination would destroy a source, a mask or a file of the model, exists and is
        not to be replaced, or cannot be written to; or if the ledger of an unfinished run is damaged.
    """
    output = options.path
    spelled = _destinations(images, output, series=is_series)
    places = [destination.absolute() for destination in spelled if destination is not None]
    if output is None or not places:
        yield OutputClaim(spelled, spelled, None, None, None, InputPlaces([]))
        return
    inputs = InputPlaces(
        [*(image.source for image in images), *files_read(*images, skip), *files_read(model, names=False)]
    )
    inputs.check_names_beside(output)
    for place in places:
        inputs.check_apart(place)
    with OutputLock(output) as lock, _folder(places[0].parent):
        unfinished = None if options.overwrite else read_header(ledger_path(output))
        for place in places if unfinished is None else ():
            check_destination(place, overwrite=options.overwrite)
        ledger = ledger_path(output) if _is_resumable(output) else None
        yield OutputClaim(places, spelled, lock, ledger, unfinished, inputs)


def result_paths(plan: Plan, output: Path) -> list[Path | dict[str, Path]]:
    """Return the paths that a run of a plan writes, for each image; by name if the model has several outputs.

    Parameters
    ----------
    plan : Plan
        The plan, with known outputs.
    output : Path
        The output, or the folder of a series.
    """
    sources = [facts.source for facts in plan.survey.stacks]
    destinations = series_destinations(sources, output) if plan.survey.is_series else [output]
    named = [
        {spec.name: output_path(destination, spec.name) for spec in outputs}
        for destination, outputs in zip(destinations, plan.survey.outputs, strict=True)
    ]
    return [paths[""] if paths.keys() == {""} else paths for paths in named]


@contextmanager
def run_ledger(claim: OutputClaim, header: Mapping[str, Any]) -> Iterator[Ledger | None]:
    """Open the ledger of a run; it goes when the run is complete, or when there is nothing in it to resume.

    Parameters
    ----------
    claim : OutputClaim
        Where the run writes. If the output cannot be resumed there is no ledger.
    header : mapping
        What the run is, for a ledger that is begun now.

    Raises
    ------
    SinkError
        As `Ledger`.
    """
    if claim.ledger is None:
        yield None
        return
    if claim.unfinished is None and header["overwrite"]:
        _remove_ledger(claim.ledger)
    ledger = Ledger(claim.ledger, header)
    try:
        yield ledger
    except BaseException:
        ledger.close() if ledger.blocks else ledger.remove()
        raise
    ledger.remove()


def _remove_ledger(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise SinkError(f"the ledger {path} cannot be removed: {explain(error)}: remove it by hand") from error


def _is_resumable(output: str | Path) -> bool:
    return not str(output).lower().endswith(SINK_SUFFIXES) or output_kind(output).resumable


def _destinations(stacks: Sequence[ImageStack], output: str | Path | None, *, series: bool) -> Sequence[Path | None]:
    if output is None:
        return [None] * len(stacks)
    if not series:
        output_kind(output)  # so that a name that asks for nothing is refused
        return [Path(output)]
    if str(output).lower().endswith(SINK_SUFFIXES):
        raise SinkError(
            f"output is {str(output)!r}, but the sources are a series: name a folder, which gets one .ome.zarr for each"
        )
    return series_destinations([stack.source for stack in stacks], Path(output))


@contextmanager
def _folder(folder: Path) -> Iterator[None]:
    made = not folder.exists() and folder.parent.is_dir()
    if made:
        folder.mkdir()
    try:
        yield
    except BaseException:
        if made:
            with suppress(OSError):
                folder.rmdir()
        raise
