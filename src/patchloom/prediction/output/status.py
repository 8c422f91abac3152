"""How much of an output is written."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from patchloom.argument_checks import file_path
from patchloom.errors import AxesError, SourceNotFoundError
from patchloom.image_stacks import open_stacks
from patchloom.local_paths import normalize_path
from patchloom.prediction.output.ledger import ledger_path, read_progress
from patchloom.sinks.output_kinds import SINK_SUFFIXES, ZARR, image_name
from patchloom.sinks.publishing.destination import partial_path


@dataclass(frozen=True, slots=True)
class OutputStatus:
    """State of an output.

    Parameters
    ----------
    output : Path
        The output, or the folder of a series.
    finished : bool
        Whether it is complete.
    progress : dict
        Number of finished blocks and images, `blocks` and `images`, and of all, `of_blocks` and `of_images`; empty where no
        ledger contains them.
    """

    output: Path
    finished: bool
    progress: dict[str, Any]


def read_output_status(output: str | Path) -> OutputStatus:
    """Read how much of an output is written, without touching it.

    An output is finished if it can be opened as an image and no run has left a ledger or `.partial` beside it. The folder of
    a series is finished if it contains OME-Zarr outputs and all of them are.

    Raises
    ------
    ArgumentError
        If the name is empty, or the file system does not take it.
    SourceNotFoundError
        If there is no output, finished or not.
    SourceError
        If the output is damaged.
    SinkError
        If its ledger is damaged.
    """
    path = Path(normalize_path(file_path("output", output)))
    ledger = read_progress(ledger_path(path))
    if ledger is not None:
        header, blocks, images = ledger
        counts = {"blocks": blocks, "of_blocks": header["n_blocks"], "images": images, "of_images": header["n_images"]}
        return OutputStatus(path, finished=False, progress=counts)
    is_image = path.name.lower().endswith(SINK_SUFFIXES)
    return OutputStatus(path, finished=_is_finished(path) if is_image else _all_finished(path), progress={})


def _is_finished(path: Path) -> bool:
    if partial_path(path).exists():
        return False
    if not path.exists():
        raise SourceNotFoundError(
            f"{path} does not exist, and no run has left it unfinished: give the name of an output (if the model has several outputs: "
            f"{image_name(path)}-NAME{path.name[len(image_name(path)) :]})"
        )
    with suppress(AxesError):  # NumPy files contain no axes
        open_stacks(path)
    return True


def _all_finished(folder: Path) -> bool:
    names = {place.name.removesuffix(".partial").removesuffix(".ledger") for place in _entries(folder)}
    outputs = [folder / name for name in sorted(names) if name.lower().endswith(ZARR.suffixes)]
    if not outputs:
        raise SourceNotFoundError(
            f"{folder} is not an output and contains none: give the output of a run, or the folder of a series"
        )
    return all(read_output_status(output).finished for output in outputs)


def _entries(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.is_dir() else []
