"""What can be refused of the outputs of a run before any of its blocks is computed."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from pathlib import Path

from patchloom.errors import SinkError
from patchloom.prediction.models.output_spec import OutputSpec
from patchloom.prediction.planning.plan import PredictionPlan
from patchloom.sinks import InputPlaces, check_destination, check_room, check_storable, output_kind
from patchloom.sinks.output_paths import output_path


def check_dtype(plan: PredictionPlan, destinations: Sequence[Path | None]) -> None:
    """Check that the dtype that was asked for can be stored, while nothing else of the outputs is known.

    Parameters
    ----------
    plan : PredictionPlan
        The plan, with or without forms.
    destinations : sequence of Path or None
        Where each image goes; `None` for an array.

    Raises
    ------
    SinkError
        If it cannot.
    """
    if plan.dtype is not None and destinations:
        check_storable(destinations[0], plan.dtype)


def check_outputs(
    plan: PredictionPlan,
    destinations: Sequence[Path | None],
    inputs: InputPlaces,
    *,
    overwrite: bool,
    unfinished: bool,
) -> None:
    """Check everything that a run will write, as soon as the outputs of its model are known.

    Parameters
    ----------
    plan : PredictionPlan
        The plan, with forms.
    destinations : sequence of Path or None
        Where each image goes; `None` for an array.
    inputs : InputPlaces
        What the run reads.
    overwrite : bool
        Whether outputs that exist may be replaced.
    unfinished : bool
        Whether an unfinished run is resumed, some outputs of which exist.

    Raises
    ------
    OutputExistsError
        If an output exists and is not to be replaced.
    SinkError
        If an output cannot be stored or named, would be written over another or over an input, or is a file for which the disk
        has no room.
    """
    writers: dict[str, str] = {}
    for data_idx, destination in enumerate(destinations):
        for form in plan.forms[data_idx]:
            check_storable(destination, plan.stored(form)[1])
            if destination is None:
                continue
            path = output_path(destination, form.name)
            what = f"output {form.name!r} of {plan.stacks[data_idx].source}"
            other = writers.setdefault(_case_insensitive(path), what)
            if other is not what:
                raise SinkError(
                    f"{what} and {other} would both be written to {path}: return outputs whose names differ in more than "
                    "upper and lower case, or rename a source"
                )
            _check_place(path, form, inputs, overwrite=overwrite, unfinished=unfinished)
    if destinations and destinations[0] is not None and not output_kind(destinations[0]).resumable:
        check_room(destinations[0], plan.output_bytes)


def _check_place(path: Path, form: OutputSpec, inputs: InputPlaces, *, overwrite: bool, unfinished: bool) -> None:
    try:
        inputs.check_apart(path)
        if not unfinished:
            check_destination(path, overwrite=overwrite)
    except SinkError as error:
        if not form.name:
            raise
        raise type(error)(f"the model's output {form.name!r}: {error}") from error


def _case_insensitive(path: Path) -> str:
    return unicodedata.normalize("NFC", str(path)).casefold()
