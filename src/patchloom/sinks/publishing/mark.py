"""By what an output that was begun is known again, whichever of its names it has."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

_ARRAY_DOCUMENTS = ("0/zarr.json", "0/.zarray")


def output_mark(folder: Path) -> list[int]:
    """Return what tells an OME-Zarr from all that were, are and will be at the same path.

    These are the number that the file system has for the folder, which stays the same when it is renamed, and the time at
    which its first array was made, as numbers are used again.

    Parameters
    ----------
    folder : Path
        The OME-Zarr, finished or not.

    Returns
    -------
    list of int
        Empty if there is none.
    """
    try:
        times = [(folder / name).stat().st_mtime_ns for name in _ARRAY_DOCUMENTS if (folder / name).exists()]
        return [folder.stat().st_ino, *times] if times else []
    except OSError:
        return []


def is_output_of(path: str | Path, records: Sequence[Any]) -> bool:
    """Return whether the output at a path is the one that some blocks were written to.

    Parameters
    ----------
    path : str or Path
        Where an output may be.
    records : sequence
        Records of blocks, as of `ResumableSink.block_record`.
    """
    mark = output_mark(Path(path))
    return bool(mark) and all(isinstance(record, dict) and record.get("output") == mark for record in records)
