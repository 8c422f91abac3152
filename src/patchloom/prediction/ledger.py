"""What of a run is done, written down beside the output so that a killed run can go on.

A ledger is a text file of one JSON value a line. The first line says what the run is: all settings that the bytes of the
result depend on. Each further line says of one block that its bytes are durable, or of one image that it is complete. A
line is on disk (fsync) when `record` returns, so whatever the ledger says is true, whenever the process is killed. A line
that was cut off by a kill says nothing: its block is computed again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from patchloom.errors import SinkError
from patchloom.sinks.destination import sync_folder


class Ledger:
    """The ledger of one run, open for writing.

    Parameters
    ----------
    path : Path
        Where it is.
    header : mapping
        What the run is: plain values that go to JSON, `"settings"` among them. A ledger that is there already must have the
        same settings.

    Raises
    ------
    SinkError
        If a ledger is there of a run with other settings, which are listed; or if it is damaged or cannot be written.
    """

    def __init__(self, path: Path, header: Mapping[str, Any]) -> None:
        self.path = path
        self.blocks: dict[tuple[int, int], list[Any]] = {}
        """Records of the finished blocks, one for each output, by image and number of the block."""
        self.finished: set[int] = set()
        """Images that are complete."""
        found, length = _read(path)
        self._note(found)
        if found:
            _check_same(path, found[0].get("settings", {}), header["settings"])
        try:
            self._file: IO[bytes] = path.open("r+b" if found else "w+b")
            self._file.truncate(length)
            self._file.seek(length)
            if not found:
                self._append(header)
                sync_folder(path.parent)
        except OSError as error:
            raise SinkError(f"the ledger {path} cannot be written: {error.strerror}") from error

    def _note(self, lines: Sequence[dict[str, Any]]) -> None:
        for line in lines[1:]:
            if "finished" in line:
                self.finished.add(line["finished"])
            elif "block" in line:
                self.blocks[line["image"], line["block"]] = line["records"]

    def record(self, image: int, block: int, records: Sequence[Any]) -> None:
        """Write down that a block is durable.

        Raises
        ------
        SinkError
            If the ledger cannot be written.
        """
        self._append({"image": image, "block": block, "records": list(records)})
        self.blocks[image, block] = list(records)

    def finish(self, image: int) -> None:
        """Write down that an image is complete.

        Raises
        ------
        SinkError
            If the ledger cannot be written.
        """
        self._append({"finished": image})
        self.finished.add(image)

    def close(self) -> None:
        """Close the file; may be called twice."""
        self._file.close()

    def remove(self) -> None:
        """Close and remove it: the run is complete."""
        self.close()
        self.path.unlink(missing_ok=True)

    def _append(self, line: Mapping[str, Any]) -> None:
        try:
            self._file.write(json.dumps(line).encode() + b"\n")
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise SinkError(f"the ledger {self.path} cannot be written: {error.strerror}") from error


def ledger_path(output: str | Path) -> Path:
    """Where the ledger of an output is, or of all outputs in a folder."""
    path = Path(output).resolve()
    return path.with_name(f"{path.name}.ledger")


def read_header(path: Path) -> dict[str, Any] | None:
    """Read what the run of a ledger is; `None` where there is no ledger.

    Raises
    ------
    SinkError
        If it is damaged.
    """
    lines, _ = _read(path)
    return lines[0] if lines else None


def read_progress(path: Path) -> tuple[dict[str, Any], int, int] | None:
    """Read a ledger without touching it: what the run is, how many blocks and how many images are done.

    Raises
    ------
    SinkError
        If it is damaged.
    """
    lines, _ = _read(path)
    if not lines:
        return None
    return lines[0], sum("block" in line for line in lines[1:]), sum("finished" in line for line in lines[1:])


def _read(path: Path) -> tuple[list[dict[str, Any]], int]:
    """Read all whole lines up to the first that is damaged, and how many bytes they are."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return [], 0
    except OSError as error:
        raise SinkError(f"the ledger {path} cannot be read: {error.strerror}") from error
    lines: list[dict[str, Any]] = []
    length = 0
    for raw in content.splitlines(keepends=True):
        line = _parse(raw)
        if line is None:
            break
        lines.append(line)
        length += len(raw)
    if content and (not lines or "settings" not in lines[0]):
        raise SinkError(
            f"the ledger {path} is damaged, so nobody can say what is done: start afresh with overwrite=True (--overwrite)"
        )
    return lines, length


def _parse(raw: bytes) -> dict[str, Any] | None:
    if not raw.endswith(b"\n"):
        return None
    try:
        line = json.loads(raw)
    except ValueError:
        return None
    return line if isinstance(line, dict) else None


def _check_same(path: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    if before == now:
        return
    changes = [
        f"{name}: {before.get(name)} before, {now.get(name)} now"
        for name in [*now, *(before.keys() - now.keys())]
        if before.get(name) != now.get(name)
    ]
    listed = "\n  ".join(changes)
    raise SinkError(
        f"{path} belongs to an unfinished run of another plan:\n  {listed}\n"
        "run it with the settings it had, choose another output, or start afresh with overwrite=True (--overwrite)"
    )
