"""The record of which blocks of a run are finished, beside the output, so that a killed run can be resumed.

A ledger is a text file. Each line is a checksum, a space, and one JSON value. The first describes the run: all settings that
the bytes of the result depend on, what was found out about the images and the model, and the blocks of the plan. Each further
line records that the bytes of one block are durable, that an image is complete, or that no block of an image counts any more. A
line is on disk (fsync) when `record` returns, so the ledger is true whenever the process is killed. A line that was cut off or
does not have its checksum is ignored, and so are all lines after it: their blocks are computed again. No line contains a time,
so a wrong clock does no harm.
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
from patchloom.sinks.publishing.destination import name_beside, sync_folder
from patchloom.sinks.write_errors import explain

FORMAT = 3
"""Of ledgers. One of another format is refused, never guessed at."""

_LONGEST_LINE = 1 << 28


class Ledger:
    """The ledger of one run, open for writing.

    Parameters
    ----------
    path : Path
        Where it is.
    header : mapping
        What the run is: plain values that go to JSON, `"settings"` among them. A ledger that is there already keeps its own;
        `check_same` compares it with another run.

    Raises
    ------
    SinkError
        If a ledger that is there is damaged, or it cannot be written.
    """

    def __init__(self, path: Path, header: Mapping[str, Any]) -> None:
        self.path = path
        self._process = os.getpid()
        self.blocks: dict[tuple[int, int], list[Any]] = {}
        """Records of the finished blocks, one for each output, by image and number of the block."""
        self.finished: set[int] = set()
        """Images that are complete."""
        found, self._length = _read(path)
        self._note(found)
        try:
            # Without a buffer, which would try again to write what a full disk had no room for.
            self._file: IO[bytes] = path.open("r+b" if found else "w+b", buffering=0)
            self._file.truncate(self._length)
            self._file.seek(self._length)
        except OSError as error:
            raise SinkError(f"the ledger {path} cannot be written: {explain(error)}") from error
        if not found:
            self._begin(header)

    def _begin(self, header: Mapping[str, Any]) -> None:
        try:
            self._append({"ledger": FORMAT, **header})
            sync_folder(self.path.parent)
        except BaseException:
            self.remove()
            raise

    def _note(self, lines: Sequence[dict[str, Any]]) -> None:
        for line in lines[1:]:
            if "finished" in line:
                self.finished.add(line["finished"])
            elif "discarded" in line:
                self._forget(line["discarded"])
            else:
                self.blocks[line["image"], line["block"]] = line["records"]

    def _forget(self, image: int) -> None:
        self.blocks = {place: records for place, records in self.blocks.items() if place[0] != image}

    def record(self, image: int, block: int, records: Sequence[Any]) -> None:
        """Record that a block is durable.

        Raises
        ------
        SinkError
            If the ledger cannot be written.
        """
        self._append({"image": image, "block": block, "records": list(records)})
        self.blocks[image, block] = list(records)

    def finish(self, image: int) -> None:
        """Record that an image is complete.

        Raises
        ------
        SinkError
            If the ledger cannot be written.
        """
        self._append({"finished": image})
        self.finished.add(image)

    def discard(self, image: int) -> None:
        """Record that no block of an image counts any more, as its source changed while they were computed.

        Raises
        ------
        SinkError
            If the ledger cannot be written.
        """
        self._append({"discarded": image})
        self._forget(image)

    def close(self) -> None:
        """Close the file; may be called twice."""
        self._file.close()

    def remove(self) -> None:
        """Close and remove it: the run is complete. A forked child leaves the ledger to its parent."""
        self.close()
        if os.getpid() == self._process:
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
            raise SinkError(f"the ledger {self.path} cannot be written: {explain(error)}") from error
        self._length += len(content)


def ledger_path(output: str | Path) -> Path:
    """Where the ledger of an output is, or of all outputs in a folder."""
    return name_beside(output, ".ledger")


def read_header(path: Path) -> dict[str, Any] | None:
    """Read what the run of a ledger is; `None` where there is no ledger.

    Raises
    ------
    SinkError
        If it is damaged, or of another format.
    """
    lines, _ = _read(path)
    return _checked_header(path, lines[0]) if lines else None


def read_progress(path: Path) -> tuple[dict[str, Any], int, int] | None:
    """Read the header of a ledger and the numbers of finished blocks and images, without touching it.

    Raises
    ------
    SinkError
        If it is damaged, or of another format.
    """
    lines, _ = _read(path)
    if not lines:
        return None
    done: dict[tuple[int, int], bool] = {}
    for line in lines[1:]:
        if "discarded" in line:
            done = {place: True for place in done if place[0] != line["discarded"]}
        elif "block" in line:
            done[line["image"], line["block"]] = True
    return _checked_header(path, lines[0]), len(done), sum("finished" in line for line in lines[1:])


def _read(path: Path) -> tuple[list[dict[str, Any]], int]:
    """Read all whole lines up to the first that is damaged; return them and their length in bytes."""
    lines: list[dict[str, Any]] = []
    length = 0
    try:
        with path.open("rb") as file:
            while raw := file.readline(_LONGEST_LINE):
                line = _parse(raw)
                if line is None or (lines and not _is_progress(line)):
                    break
                lines.append(line)
                length += len(raw)
            is_empty = not lines and not raw
    except FileNotFoundError:
        return [], 0
    except OSError as error:
        raise SinkError(f"the ledger {path} cannot be read: {explain(error)}") from error
    if not is_empty:
        _check_format(path, lines[0] if lines else {})
    return lines, length


def _check_format(path: Path, first: Mapping[str, Any]) -> None:
    """Check that a ledger begins with what a run is, in a way that is understood."""
    found = first.get("ledger")
    if first and found != FORMAT:
        raise SinkError(
            f"the ledger {path} is of another version of Patchloom (format {found!r}, not {FORMAT}): finish that run with "
            "that version, or start afresh with overwrite=True (--overwrite)"
        )
    if not isinstance(first.get("settings"), dict):
        raise damaged(path)


def _checked_header(path: Path, header: dict[str, Any]) -> dict[str, Any]:
    sizes = [header.get(name) for name in ("n_blocks", "n_images")]
    if not all(map(_is_number, sizes)) or not isinstance(header.get("overwrite"), bool):
        raise damaged(path)
    return header


def damaged(path: Path) -> SinkError:
    """Return the error of a ledger that does not contain what its format demands."""
    return SinkError(
        f"the ledger {path} is damaged, so the finished blocks are not known: start afresh with overwrite=True (--overwrite)"
    )


def _is_progress(line: Mapping[str, Any]) -> bool:
    if line.keys() == {"image", "block", "records"}:
        return _is_number(line["image"]) and _is_number(line["block"]) and isinstance(line["records"], list)
    return line.keys() in ({"finished"}, {"discarded"}) and all(map(_is_number, line.values()))


def _is_number(value: object) -> bool:
    return type(value) is int and value >= 0


def _parse(raw: bytes) -> dict[str, Any] | None:
    checksum, _, value = raw.removesuffix(b"\n").partition(b" ")
    if not raw.endswith(b"\n") or checksum != _checksum(value):
        return None
    try:
        line = json.loads(value)
    except (ValueError, RecursionError):  # a line of another program's, with a sound checksum
        return None
    return line if isinstance(line, dict) else None


def _checksum(value: bytes) -> bytes:
    return b"%08x" % zlib.crc32(value)


def _write_whole(file: IO[bytes], content: bytes) -> None:
    rest = memoryview(content)
    while rest:
        rest = rest[file.write(rest) :]


def check_same(path: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Check that a run which is resumed is the one that was begun.

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
