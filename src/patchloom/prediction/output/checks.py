"""Checks of the outputs of a run, before any of its blocks is computed."""

from __future__ import annotations

import unicodedata
from pathlib import Path

from patchloom.errors import SinkError
from patchloom.prediction.models.outputs import OutputSpec
from patchloom.prediction.output.claim import OutputClaim
from patchloom.prediction.planning.plan import Plan
from patchloom.prediction.planning.summary import output_bytes
from patchloom.sinks import check_destination, check_room, check_storable, output_kind
from patchloom.sinks.output_paths import output_path


def check_outputs(plan: Plan, claim: OutputClaim, *, overwrite: bool) -> None:
    """Check everything that a run will write, as soon as the outputs of its model are known.

    Parameters
    ----------
    plan : Plan
        The plan, with known outputs.
    claim : OutputClaim
        The destinations of the run, and its inputs.
    overwrite : bool
        Whether outputs that exist may be replaced.

    Raises
    ------
    OutputExistsError
        If an output exists and may not be replaced.
    SinkError
        If an output cannot be stored or named, would overwrite another or an input, or is a file for which the disk has no
        room.
    """
    writers: dict[str, str] = {}
    for data_idx, destination in enumerate(claim.destinations):
        for output_spec in plan.survey.outputs[data_idx]:
            check_storable(destination, plan.layout.output_channels_and_dtype(output_spec)[1])
            if destination is None:
                continue
            path = output_path(destination, output_spec.name)
            what = f"output {output_spec.name!r} of {plan.survey.stacks[data_idx].source}"
            other = writers.setdefault(_case_insensitive(path), what)
            if other is not what:
                raise SinkError(
                    f"{what} and {other} would both be written to {path}: return outputs whose names differ in more than "
                    "upper and lower case, or rename a source"
                )
            _check_place(path, output_spec, claim, overwrite=overwrite)
    first = claim.destinations[0]
    if first is not None and not output_kind(first).resumable:
        check_room(first, output_bytes(plan))


def _check_place(path: Path, output_spec: OutputSpec, claim: OutputClaim, *, overwrite: bool) -> None:
    try:
        claim.inputs.check_apart(path)
        if claim.unfinished is None:  # otherwise some outputs exist
            check_destination(path, overwrite=overwrite)
    except SinkError as error:
        if not output_spec.name:
            raise
        raise type(error)(f"the model's output {output_spec.name!r}: {error}") from error


def _case_insensitive(path: Path) -> str:
    return unicodedata.normalize("NFC", str(path)).casefold()
