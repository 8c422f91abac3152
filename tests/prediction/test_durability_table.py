"""The tables of `docs/durability.md`: every state of an output's names, made on disk, and what comes of it.

Each row is a test for one image, with and without `overwrite`, for a series and for a model with named outputs; there is no
row without a test, as the tests are read from the tables.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from patchloom.errors import SinkError
from patchloom.prediction import predict
from patchloom.prediction.output.ledger import Ledger, ledger_path
from patchloom.prediction.planning import fit
from patchloom.sinks import NpySink, OmeZarrSink, OutputLock, TiffSink
from patchloom.sinks.files.file_sink import FileSink
from patchloom.sinks.publishing.destination import lock_path
from patchloom.stitching import block_grid

DOCUMENT = Path(__file__).parents[2] / "docs" / "durability.md"
NAMES = ("out", ".partial", ".replaced", ".ledger", ".lock")
N_BLOCKS = 6


def rows(heading: str) -> list[tuple[str, ...]]:
    """Cells of the rows of the table below a heading."""
    section = DOCUMENT.read_text().split(f"### {heading}\n", 1)[1]
    lines = section[section.index("|") :].split("\n\n", 1)[0].splitlines()[2:]
    return [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in lines]


def per_row(heading: str) -> Any:
    return pytest.mark.parametrize("row", rows(heading), ids=lambda row: " ".join(row[: len(NAMES)]))


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(block_grid, "CHUNK_SIZE", {2: 32, 3: 16})
    monkeypatch.setattr(fit, "BLOCK_SIZES", [1024])


def model(batch: np.ndarray) -> np.ndarray:
    return batch + 1


def named_model(batch: np.ndarray) -> dict[str, np.ndarray]:
    return {"a": batch + 1}


def zeros(batch: np.ndarray) -> np.ndarray:
    return batch * 0


def named_zeros(batch: np.ndarray) -> dict[str, np.ndarray]:
    return {"a": batch * 0}


@dataclass(frozen=True)
class Run:
    """A run whose output is one file or folder in a folder that has nothing else in it."""

    folder: Path
    source: Path
    kind: str = "image"
    suffix: str = ".ome.zarr"

    @property
    def output(self) -> Path:
        """What `predict` is given."""
        return self.folder / ("out" if self.kind == "series" else f"out{self.suffix}")

    @property
    def place(self) -> Path:
        """Where the image is written."""
        if self.kind == "series":
            return self.output / "image.ome.zarr"
        return self.folder / (f"out-a{self.suffix}" if self.kind == "named" else f"out{self.suffix}")

    def beside(self, ending: str) -> Path:
        if ending == ".ledger":
            return ledger_path(self.output)
        return self.place.with_name(self.place.name + ending)

    def __call__(self, *, old: bool = False, overwrite: bool = False) -> None:
        named = self.kind == "named"
        predict(
            (named_zeros if named else zeros) if old else (named_model if named else model),
            [self.source] if self.kind == "series" else self.source,
            self.output,
            axes="YX",
            patch_size=(32, 32),
            overlaps=(0, 0),
            overwrite=overwrite,
            progress=False,
        )

    def contents(self) -> dict[str, bytes]:
        """All files, but for locks that nobody holds."""
        files = (path for path in self.folder.rglob("*") if path.is_file() and path.suffix != ".lock")
        return {str(path.relative_to(self.folder)): path.read_bytes() for path in files}


def killed(*_arguments: Any, **_options: Any) -> None:
    raise SinkError("killed")


@contextmanager
def fail(
    monkeypatch: pytest.MonkeyPatch, of_class: type, method: str, replacement: Callable[..., Any]
) -> Iterator[None]:
    with monkeypatch.context() as patch, suppress(SinkError):
        patch.setattr(of_class, method, replacement)
        yield


def leave(sink: FileSink) -> None:
    """Leave a file as a kill would."""
    sink._close_file()
    sink._output.close()


def pixels(path: Path) -> np.ndarray:
    return np.load(path) if path.suffix == ".npy" else tifffile.imread(path)


class Writes:
    """Counts the blocks that are written, and may let the next one fail."""

    def __init__(self, sink_class: type, fail_after: int = 10**6) -> None:
        self.count, self.fail_after, self.write = 0, fail_after, sink_class.write

    def method(self) -> Callable[..., None]:
        def write(sink: Any, *arguments: Any) -> None:
            if self.count == self.fail_after:
                killed()
            self.count += 1
            self.write(sink, *arguments)

        return write


def make_state(run: Run, state: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Bring the names of an output into a state."""
    old = run.folder.with_name("old")
    is_replacing = "old" in state.values()
    if is_replacing:
        run(old=True)
        shutil.copytree(run.place, old)
    begun = state[".ledger"] if state[".ledger"] in ("some", "all") else state[".partial"]
    if state["out"] == "new":
        with fail(monkeypatch, Ledger, "finish", killed):
            run(overwrite=is_replacing)
    elif begun == "all":
        with fail(monkeypatch, OmeZarrSink, "finalize", killed):
            run(overwrite=is_replacing)
    elif begun == "some" or state[".ledger"] in ("begun", "damaged"):
        with fail(monkeypatch, OmeZarrSink, "write", Writes(OmeZarrSink, fail_after=3).method()):
            run(overwrite=is_replacing)
    take_away(run, state, old)


def take_away(run: Run, state: dict[str, str], old: Path) -> None:
    """Remove and add what a kill at another moment, or somebody, would have."""
    if state[".replaced"] == "old":
        shutil.copytree(old, run.beside(".replaced"))
    if state["out"] == "–":
        shutil.rmtree(run.place, ignore_errors=True)
    if state[".partial"] in ("–", "other"):
        shutil.rmtree(run.beside(".partial"), ignore_errors=True)
    if state[".partial"] == "other":
        (run.beside(".partial") / "0" / "c").mkdir(parents=True)
        (run.beside(".partial") / "0" / ".zarray").write_text('{"shape": [9, 9]}')
    ledger = run.beside(".ledger")
    if state[".ledger"] == "–":
        ledger.unlink(missing_ok=True)
    elif state[".ledger"] == "begun":
        ledger.write_bytes(ledger.read_bytes().split(b"\n")[0] + b"\n")
    elif state[".ledger"] == "damaged":
        ledger.write_bytes(b"?" + ledger.read_bytes())
    if state[".lock"] == "left":
        run.place.parent.mkdir(exist_ok=True)
        for place in {lock_path(run.place), lock_path(run.output)}:
            place.touch()


def assert_state(run: Run, state: dict[str, str]) -> None:
    """Check that the state is the one that the row describes."""
    exist = {name: run.beside("" if name == "out" else name).exists() for name in NAMES}
    assert exist == {name: cell != "–" for name, cell in state.items()}


def call(run: Run, outcome: str, monkeypatch: pytest.MonkeyPatch, expected: dict[str, bytes], **options: Any) -> None:
    """Run, and check what comes of it."""
    before = run.contents()
    written = Writes(OmeZarrSink)
    with monkeypatch.context() as patch:
        patch.setattr(OmeZarrSink, "write", written.method())
        if outcome == "refused":
            with pytest.raises(SinkError):
                run(**options)
            assert run.contents() == before
            return
        run(**options)
    assert run.contents() == expected
    assert list(run.folder.rglob("*.lock")) == []
    counts = {"all written": {N_BLOCKS}, "rest written": {N_BLOCKS - 3}, "nothing written": {0}}
    assert written.count in counts[outcome]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("source") / "image.npy"
    np.save(path, np.random.default_rng(0).integers(1, 2**15, (64, 96), np.uint16))
    return path


@pytest.fixture(scope="module")
def undisturbed() -> dict[str, dict[str, bytes]]:
    """Files of a run that nothing happened to, by the kind of run: made when they are first needed."""
    return {}


def new_run(folder: Path, **options: Any) -> Run:
    folder.mkdir()
    return Run(folder, **options)


@per_row("An OME-Zarr")
@pytest.mark.parametrize(
    ("kind", "overwrite"),
    [("image", False), ("image", True), ("series", False), ("named", False)],
    ids=["image", "image, overwrite", "series", "named"],
)
def test_ome_zarr(
    row: tuple[str, ...],
    kind: str,
    overwrite: bool,
    source: Path,
    undisturbed: dict[str, dict[str, bytes]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each row of the table for OME-Zarr holds, with and without `overwrite`."""
    if kind not in undisturbed:
        whole = new_run(tmp_path / "whole", source=source, kind=kind)
        whole()
        undisturbed[kind] = whole.contents()
    run = new_run(tmp_path / "state", source=source, kind=kind)
    state = dict(zip(NAMES, row, strict=False))
    make_state(run, state, monkeypatch)
    with ExitStack() as held:
        if state[".lock"] == "held":
            if kind == "series":
                run.output.mkdir(exist_ok=True)
            held.enter_context(OutputLock(run.output))
            if kind != "image":
                held.enter_context(OutputLock(run.place))
        assert_state(run, state)
        outcome = row[-1] if overwrite else row[-2]
        call(run, outcome, monkeypatch, undisturbed[kind], overwrite=overwrite)


@per_row("A TIFF or NumPy file")
@pytest.mark.parametrize(("suffix", "sink"), [(".npy", NpySink), (".ome.tif", TiffSink)], ids=["npy", "tiff"])
@pytest.mark.parametrize("overwrite", [False, True], ids=["again", "overwrite"])
def test_file(
    row: tuple[str, ...],
    suffix: str,
    sink: type,
    overwrite: bool,
    source: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each row of the table for single files holds, with and without `overwrite`."""
    run = new_run(tmp_path / "state", source=source, suffix=suffix)
    state = dict(zip(NAMES, row, strict=False))
    if state["out"] == "old":
        run(old=True)
    if state[".partial"] == "some":
        with monkeypatch.context() as patch, suppress(SinkError):
            patch.setattr(sink, "write", Writes(sink, fail_after=3).method())
            patch.setattr(sink, "abort", leave)
            run(overwrite=True)
    if state[".lock"] == "left":
        lock_path(run.place).touch()
    else:
        lock_path(run.place).unlink(missing_ok=True)
    with OutputLock(run.place) if state[".lock"] == "held" else ExitStack():
        assert_state(run, state)
        outcome, before = (row[-1] if overwrite else row[-2]), run.contents()
        if outcome == "refused":
            with pytest.raises(SinkError):
                run(overwrite=overwrite)
            assert run.contents() == before
        else:
            run(overwrite=overwrite)
            assert np.array_equal(pixels(run.place), np.load(source) + 1)
            assert list(run.folder.iterdir()) == [run.place]
