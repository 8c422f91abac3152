"""The place where a run writes: worked out, checked, and kept away from other runs, with the ledger beside it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from patchloom.errors import SinkError
from patchloom.image_stacks import ImageStack, files_read
from patchloom.prediction.models.model import Model
from patchloom.prediction.output.ledger import Ledger, ledger_path, read_header
from patchloom.prediction.output.run_identity import RunIdentity
from patchloom.prediction.planning.plan import PredictionPlan
from patchloom.prediction.skip_rules import SkipRule
from patchloom.sinks import (
    SINK_SUFFIXES,
    InputPlaces,
    OmeZarrVersion,
    OutputLock,
    Pyramid,
    check_destination,
    output_kind,
)
from patchloom.sinks.output_paths import series_destinations
from patchloom.sinks.write_failure import why


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

    begun: dict[str, Any] | None
    """What the ledger says of the unfinished run that is to be gone on with."""

    inputs: InputPlaces
    """Where everything is that the run reads."""


@contextmanager
def claim_output(
    output: str | Path | None,
    stacks: Sequence[ImageStack],
    *,
    series: bool,
    overwrite: bool,
    skip: SkipRule | None = None,
    model: Model | None = None,
) -> Iterator[OutputClaim]:
    """Check all destinations and keep other runs away from them; a folder made for them is removed if it stays empty.

    Parameters
    ----------
    output : str, Path or None
        As in `predict`.
    stacks : sequence of ImageStack
        The series.
    series : bool
        Whether the output is a folder for a series.
    overwrite, skip, model
        As in `predict`.

    Raises
    ------
    SinkError
        If another run writes there; if a destination would destroy a source, a mask or a file of the model, exists and is
        not to be replaced, or cannot be written to; or if the ledger of an unfinished run is damaged.
    """
    spelled = _destinations(stacks, output, series=series)
    places = [destination.absolute() for destination in spelled if destination is not None]
    if output is None or not places:
        yield OutputClaim(spelled, spelled, None, None, None, InputPlaces([]))
        return
    inputs = InputPlaces(
        [*(stack.source for stack in stacks), *files_read(*stacks, skip), *files_read(model, names=False)]
    )
    inputs.check_names_beside(output)
    for place in places:
        inputs.check_apart(place)
    with OutputLock(output) as lock, _folder(places[0].parent):
        begun = None if overwrite else read_header(ledger_path(output))
        for place in places if begun is None else ():
            check_destination(place, overwrite=overwrite)
        ledger = ledger_path(output) if _is_resumable(output) else None
        yield OutputClaim(places, spelled, lock, ledger, begun, inputs)


@contextmanager
def run_ledger(
    path: Path | None,
    prepared: PredictionPlan,
    identity: RunIdentity | None,
    *,
    overwrite: bool,
    pyramid: Pyramid | None = "auto",
    version: OmeZarrVersion = "0.5",
) -> Iterator[Ledger | None]:
    """Open the ledger of a run; it goes when the run is complete, or when there is nothing in it to go on with.

    Parameters
    ----------
    path : Path, optional
        Where it is, or will be. Where the output cannot be resumed there is no ledger.
    prepared : PredictionPlan
        The plan, with forms.
    identity : RunIdentity, optional
        Model, images and version, as they were when the run began; given if `path` is.
    overwrite : bool
        Whether to start afresh.
    pyramid, version
        How outputs are written; a run is not resumed with others.

    Raises
    ------
    SinkError
        As `Ledger`.
    """
    if path is None or identity is None:
        yield None
        return
    if overwrite:
        _remove_ledger(path)
    header = {
        "memory limit": prepared.memory_limit,
        "n_blocks": prepared.n_blocks,
        "n_images": len(prepared.stacks),
        "overwrite": overwrite,
        # The model and the states of files are compared by the identity, which knows more of them.
        "settings": {name: value for name, value in prepared.settings.items() if name not in {"model", "files"}}
        | {"pyramid": pyramid, "version of OME-Zarr": version},
        "identity": identity.to_dict(),
    }
    ledger = Ledger(path, header)
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
        raise SinkError(f"the ledger {path} cannot be removed: {why(error)}: remove it by hand") from error


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
