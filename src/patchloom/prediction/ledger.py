"""What of a run is done, written down beside the output so that a killed run can go on.

A ledger is a text file. Each line is a checksum, a space, and one JSON value. The first says what the run is: all settings
that the bytes of the result depend on. Each further line says of one block that its bytes are durable, or of one image that
it is complete. A line is on disk (fsync) when `record` returns, so whatever the ledger says is true, whenever the process is
killed. A line that was cut off or does not have its checksum says nothing, nor does any after it: their blocks are computed
again. Times have no part in it, so it does not matter what a clock says.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from patchloom.errors import SinkError
from patchloom.local_paths import normalize_path
from patchloom.sinks.destination import sync_folder
from patchloom.sinks.write_failure import why


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
        found, self._length = _read(path)
        self._note(found)
        if found:
            check_same(path, found[0]["settings"], header["settings"])
        try:
            # Without a buffer, which would try again to write what a full disk had no room for.
            self._file: IO[bytes] = path.open("r+b" if found else "w+b", buffering=0)
            self._file.truncate(self._length)
            self._file.seek(self._length)
        except OSError as error:
            raise SinkError(f"the ledger {path} cannot be written: {why(error)}") from error
        if not found:
            self._begin(header)

    def _begin(self, header: Mapping[str, Any]) -> None:
        try:
            self._append(header)
            sync_folder(self.path.parent)
        except BaseException:
            self.remove()
            raise

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
        value = json.dumps(line).encode()
        content = b"%s %s\n" % (_checksum(value), value)
        try:
            _write_whole(self._file, content)
            os.fsync(self._file.fileno())
        except OSError as error:
            with suppress(OSError):  # what was cut off would hide the lines after it
                self._file.truncate(self._length)
                self._file.seek(self._length)
            raise SinkError(f"the ledger {self.path} cannot be written: {why(error)}") from error
        self._length += len(content)


def ledger_path(output: str | Path) -> Path:
    """Where the ledger of an output is, or of all outputs in a folder."""
    path = Path(normalize_path(output)).resolve()
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
        raise SinkError(f"the ledger {path} cannot be read: {why(error)}") from error
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
    checksum, _, value = raw.removesuffix(b"\n").partition(b" ")
    if not raw.endswith(b"\n") or checksum != _checksum(value):
        return None
    line = json.loads(value)
    return line if isinstance(line, dict) else None


def _checksum(value: bytes) -> bytes:
    return b"%08x" % zlib.crc32(value)


def _write_whole(file: IO[bytes], content: bytes) -> None:
    rest = memoryview(content)
    while rest:
        rest = rest[file.write(rest) :]


def check_same(path: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Check that a run that goes on is the one that was begun.

    Parameters
    ----------
    path : Path
        The ledger.
    before, now : mapping
        Settings by name, as plain values.

    Raises
    ------
    SinkError
        If they differ; the message lists in what.
    """
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
