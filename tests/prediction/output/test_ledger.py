"""Ledgers that are damaged, of another version or of another program: refused with what to do, or read up to the damage."""

from __future__ import annotations

import json
import os
import shutil
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from patchloom.cli import app
from patchloom.errors import ModelError, SinkError
from patchloom.prediction import predict
from patchloom.prediction.output.ledger import FORMAT, Ledger, ledger_path, read_header, read_progress
from patchloom.prediction.planning import fit
from patchloom.stitching import block_grid

HEADER: dict[str, Any] = {"settings": {"a": 1}, "n_blocks": 4, "n_images": 1, "overwrite": False}


def line(value: Any) -> bytes:
    """Write a line as a ledger has it, by the description in docs/durability.md."""
    content = value if isinstance(value, bytes) else json.dumps(value).encode()
    return b"%08x %s\n" % (zlib.crc32(content), content)


def status(output: Path) -> Any:
    return CliRunner().invoke(app, ["status", str(output), "--json"])


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    """A ledger of three blocks and an image."""
    path = tmp_path / "out.ome.zarr.ledger"
    written = Ledger(path, HEADER)
    for block in range(3):
        written.record(0, block, [block])
    written.finish(0)
    written.close()
    return path


def blocks_of(path: Path) -> dict[tuple[int, int], list[Any]]:
    opened = Ledger(path, HEADER)
    opened.close()
    return opened.blocks


def test_damage(ledger: Path) -> None:
    """A flipped bit or a truncation ends the ledger there; in its first line, the ledger is refused."""
    content = ledger.read_bytes()
    first = content.index(b"\n") + 1
    ends = [place + 1 for place, byte in enumerate(content) if byte == ord("\n")]
    whole = blocks_of(ledger)
    assert len(whole) == 3

    def check(damaged: bytes, place: int) -> None:
        ledger.write_bytes(damaged)
        if place < first:
            with pytest.raises(SinkError, match="--overwrite"):
                read_header(ledger)
        else:
            progress = read_progress(ledger)
            assert progress is not None
            assert progress[1] == n_blocks_before(place)

    def n_blocks_before(place: int) -> int:
        return min(sum(end <= place for end in ends) - 1, 3)

    for place in range(len(content)):
        for bit in range(8):
            check(content[:place] + bytes([content[place] ^ (1 << bit)]) + content[place + 1 :], place)
        if place:
            check(content[:place], place)
    for place in range(1, len(content), 7):
        ledger.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        if place < first:
            damaged = ledger.read_bytes()
            with pytest.raises(SinkError, match="--overwrite"):
                Ledger(ledger, HEADER)
            assert ledger.read_bytes() == damaged, "a ledger that is refused stays as it is"
        else:
            assert blocks_of(ledger) == dict(list(whole.items())[: n_blocks_before(place)])
            assert ledger.read_bytes() == content[: max(end for end in ends if end <= place)]


def test_empty(ledger: Path) -> None:
    """An empty ledger counts as none."""
    ledger.write_bytes(b"")
    assert read_header(ledger) is None
    assert read_progress(ledger) is None


OTHERS: dict[str, bytes] = {
    "of the format before": line({**HEADER}),
    "of the next format": line({**HEADER, "ledger": FORMAT + 1}),
    "of a format that is no number": line({**HEADER, "ledger": [FORMAT]}),
    "without settings": line({"ledger": FORMAT}),
    "with settings that are a list": line({**HEADER, "ledger": FORMAT, "settings": [1]}),
    "without a number of blocks": line({"ledger": FORMAT, "settings": {}}),
    "with a number of blocks that is none": line({**HEADER, "ledger": FORMAT, "n_blocks": "4"}),
    "with a number of blocks below 0": line({**HEADER, "ledger": FORMAT, "n_blocks": -4}),
    "with a truth for a number": line({**HEADER, "ledger": FORMAT, "n_images": True}),
    "with overwrite that is a text": line({**HEADER, "ledger": FORMAT, "overwrite": "no"}),
    "no JSON": line(b"{oops"),
    "deep JSON": line(b"[" * 100_000),
    "deep JSON that is closed": line(b'{"settings": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    "a number of many digits": line(b'{"ledger": ' + b"9" * 10_000 + b"}"),
    "not UTF-8": line(b'{"ledger": "\xff"}'),
    "a list": line([FORMAT]),
    "nothing in JSON": line(None),
    "no checksum": json.dumps({**HEADER, "ledger": FORMAT}).encode() + b"\n",
    "one long line": b"x" * 1_000_000,
    "zeros": bytes(10_000),
}


@pytest.mark.parametrize("other", OTHERS)
def test_foreign(other: str, tmp_path: Path) -> None:
    """A ledger of another version or program is refused, and `overwrite` replaces it."""
    np.save(tmp_path / "a.npy", np.ones((64, 64), "u1"))
    output = tmp_path / "out.ome.zarr"
    ledger_path(output).write_bytes(OTHERS[other])

    def never(batch: np.ndarray) -> np.ndarray:
        pytest.fail("the model ran")

    for resume_anyway in (False, True):
        with pytest.raises(SinkError, match=r"the ledger .*overwrite=True \(--overwrite\)") as caught:
            predict(never, tmp_path / "a.npy", output, axes="YX", patch_size=(32, 32), resume_anyway=resume_anyway)
        assert ("version" in str(caught.value)) == ("format" in other)
    assert ledger_path(output).read_bytes() == OTHERS[other]
    result = status(output)
    assert result.exit_code == 1
    assert "the ledger" in result.stderr
    assert "--overwrite" in result.stderr
    predict(np.negative, tmp_path / "a.npy", output, axes="YX", patch_size=(32, 32), overwrite=True, progress=False)
    assert status(output).exit_code == 0


@pytest.mark.parametrize(
    "settings", [{}, {"normalization": 3}, {"normalization": [3]}, {"normalization": [{"method": "x"}]}], ids=str
)
@pytest.mark.parametrize(
    "identity",
    [
        None,
        [],
        {"patchloom": 3, "model": None, "sources": []},
        {"patchloom": "", "model": {"parts": [], "unknown": 7}, "sources": []},
        {"patchloom": "", "model": {"parts": {}, "unknown": []}, "sources": [1, 2]},
        {"patchloom": "", "model": {"parts": {}, "unknown": []}, "sources": [["a", "b"]]},
    ],
    ids=str,
)
@pytest.mark.parametrize("resume_anyway", [True, False])
def test_field_types(settings: Any, identity: Any, resume_anyway: bool, tmp_path: Path) -> None:
    """Fields of other types end in our error."""
    np.save(tmp_path / "a.npy", np.ones((64, 64), "u1"))
    output = tmp_path / "out.ome.zarr"
    header = {**HEADER, "ledger": FORMAT, "settings": settings}
    ledger_path(output).write_bytes(line(header if identity is None else {**header, "identity": identity}))
    with pytest.raises(SinkError, match="overwrite"):
        predict(
            np.negative, tmp_path / "a.npy", output, axes="YX", patch_size=(32, 32), progress=False,
            resume_anyway=resume_anyway,
        )  # fmt: skip


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 2**70) | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
NAMES = st.sampled_from(["image", "block", "records", "finished", "discarded", "settings", "ledger"])


@given(lines=st.lists(st.dictionaries(NAMES, JSON, max_size=4), max_size=4))
def test_line_types(lines: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> None:
    """A line is progress, or ends the ledger."""
    path = tmp_path_factory.getbasetemp() / "any.ledger"
    path.write_bytes(b"".join(map(line, [{**HEADER, "ledger": FORMAT}, *lines])))
    progress = read_progress(path)
    assert progress is not None
    opened = Ledger(path, HEADER)
    opened.close()
    assert progress[1] == len(opened.blocks) <= len(lines)
    assert all(type(number) is int and number >= 0 for place in opened.blocks for number in place)
    assert all(isinstance(records, list) for records in opened.blocks.values())


def test_discard(ledger: Path) -> None:
    """Discarded blocks do not count."""
    opened = Ledger(ledger, HEADER)
    opened.record(1, 5, ["other"])
    opened.discard(0)
    opened.record(0, 2, ["again"])
    opened.close()
    assert opened.blocks == blocks_of(ledger) == {(1, 5): ["other"], (0, 2): ["again"]}
    progress = read_progress(ledger)
    assert progress is not None
    assert progress[1] == 2


class Root:
    identity = "root"

    def __init__(self, fail_at: int = -1) -> None:
        self.calls, self.fail_at = 0, fail_at

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        self.calls += 1
        if self.calls == self.fail_at:
            raise RuntimeError
        return np.sqrt(batch.astype(np.float32))


def test_run_with_damage(tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run with a damaged ledger gives the same pixels, or is refused."""
    monkeypatch.setattr(block_grid, "CHUNK_SIZE", {2: 40, 3: 16})
    monkeypatch.setattr(fit, "BLOCK_SIZES", [2000])
    image = rng.integers(1, 255, (150, 130), np.uint8)
    output = tmp_path / "out.ome.zarr"
    partial = tmp_path / "out.ome.zarr.partial"
    arguments: dict[str, Any] = {"axes": "YX", "patch_size": (32, 24), "overlaps": (8, 6), "progress": False}
    with pytest.raises(ModelError):
        predict(Root(30), image, output, **arguments)
    content = ledger_path(output).read_bytes()
    first = content.index(b"\n")
    shutil.copytree(partial, tmp_path / "kept")
    refused = 0
    for place in [*rng.integers(0, first, 3), *rng.integers(first, len(content), 12)]:
        damaged = bytearray(content)
        damaged[place] ^= 1 << int(rng.integers(8))
        for ledger in (bytes(damaged), content[:place]):
            shutil.rmtree(output, ignore_errors=True)
            shutil.rmtree(partial, ignore_errors=True)
            shutil.copytree(tmp_path / "kept", partial)
            ledger_path(output).write_bytes(ledger)
            try:
                predict(Root(), image, output, **arguments)
            except SinkError:
                assert not output.exists()
                refused += 1
                continue
            assert np.array_equal(zarr.open_group(output, mode="r")["0"][:], np.sqrt(image.astype(np.float32)))
    assert refused == 6, "where the first line is damaged"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing forks there")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # newer Pythons warn of threads
def test_fork(tmp_path: Path) -> None:
    """A forked child leaves the ledger to its parent."""
    written = Ledger(tmp_path / "ledger", HEADER)
    child = os.fork()
    if child == 0:
        try:
            written.remove()
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    written.record(0, 0, [])
    written.close()
    assert read_progress(tmp_path / "ledger") == (read_header(tmp_path / "ledger"), 1, 0)
    written.remove()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("overwrite", [True, False])
def test_folder(overwrite: bool, tmp_path: Path) -> None:
    """A folder at the path of the ledger is refused and kept."""
    kept = tmp_path / "out.ome.zarr.ledger" / "kept"
    kept.parent.mkdir()
    kept.touch()
    with pytest.raises(SinkError, match=r"the ledger .*out\.ome\.zarr\.ledger cannot be re"):
        predict(
            lambda batch: batch,
            np.zeros((8, 8), np.uint8),
            tmp_path / "out.ome.zarr",
            axes="YX",
            patch_size=(8, 8),
            overwrite=overwrite,
            progress=False,
        )
    assert list(tmp_path.rglob("*")) == [kept.parent, kept]
