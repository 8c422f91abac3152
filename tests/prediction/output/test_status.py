"""How much of an output is written: finished is said of nothing but a complete output."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from typer.testing import CliRunner

import patchloom as pl
from patchloom.cli import app
from patchloom.errors import ArgumentError, PatchloomError, SinkError, SourceError, SourceNotFoundError
from patchloom.prediction.output.status import read_output_status

NAMES = ("out.ome.zarr", "out.zarr", "out.ome.tif", "out.npy")


@pytest.fixture
def image(rng: np.random.Generator) -> np.ndarray:
    return rng.integers(0, 2**16, (60, 70), np.uint16)


def predict_into(output: Path, sources: object) -> None:
    pl.predict(lambda batch: batch, sources, output, axes="YX", patch_size=(32, 32), progress=False)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", NAMES)
def test_finished(tmp_path: Path, image: np.ndarray, name: str) -> None:
    """A complete output is finished unless a run has left a ledger or `.partial` beside it."""
    output = tmp_path / name
    predict_into(output, image)
    assert read_output_status(output).finished
    assert read_output_status(f"{output}/").finished
    partial = tmp_path / f"{name}.partial"
    output.rename(partial)
    assert not read_output_status(output).finished
    predict_into(tmp_path / f"other-{name}", image)
    (tmp_path / f"other-{name}").rename(output)  # killed while the output was replaced
    assert not read_output_status(output).finished


@pytest.mark.parametrize("name", NAMES)
def test_damaged(tmp_path: Path, image: np.ndarray, name: str) -> None:
    """A damaged output, and another thing of its name, are not finished."""
    output = tmp_path / name
    output.mkdir()
    (output / "notes.txt").write_text("mine")
    with pytest.raises(PatchloomError):
        read_output_status(output)
    other = tmp_path / f"other-{name}"
    predict_into(other, image)
    if other.is_dir():
        (other / "zarr.json").unlink()
    else:
        other.write_bytes(other.read_bytes()[:-2000])
    with pytest.raises(SourceError):
        read_output_status(other)


def test_folder(tmp_path: Path, image: np.ndarray) -> None:
    """A folder is finished if it contains outputs and all of them are."""
    folder = tmp_path / "series"
    folder.mkdir()
    sources = [tmp_path / "a.tif", tmp_path / "b.tif"]
    for source in sources:
        tifffile.imwrite(source, image)
    with pytest.raises(SourceNotFoundError, match="is not an output and contains none"):
        read_output_status(folder)
    predict_into(folder, sources)
    assert read_output_status(folder).finished
    (folder / "b.ome.zarr").rename(folder / "b.ome.zarr.partial")
    assert not read_output_status(folder).finished


def test_named_outputs(tmp_path: Path, image: np.ndarray) -> None:
    """Each of several outputs is finished; the error for the name of the run lists theirs."""
    paths = pl.predict(
        lambda batch: {"a": batch, "b": batch},
        image,
        tmp_path / "out.ome.zarr",
        axes="YX",
        patch_size=(32, 32),
        progress=False,
    )
    assert all(read_output_status(path).finished for path in paths.values())
    with pytest.raises(SourceNotFoundError, match=r"if the model has several outputs: out-NAME\.ome\.zarr"):
        read_output_status(tmp_path / "out.ome.zarr")


@pytest.mark.parametrize(
    ("name", "error"),
    [
        (lambda folder: "", ArgumentError),
        (lambda folder: "/", SinkError),
        (lambda folder: folder / "notes.txt", SourceNotFoundError),
        (lambda folder: folder / "none", SourceNotFoundError),
        (lambda folder: folder / "none.ome.zarr", SourceNotFoundError),
        (lambda folder: folder / "out.ome.zarr.partial", SourceNotFoundError),
    ],
)
def test_not_an_output(tmp_path: Path, name: Callable[[Path], Path | str], error: type[PatchloomError]) -> None:
    """A path without an output is refused."""
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "out.ome.zarr.partial").mkdir()
    with pytest.raises(error):
        read_output_status(name(tmp_path))


def test_empty_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command refuses an empty name."""
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["status", ""])
    assert (result.exit_code, result.stdout) == (2, "")
    assert "output is ''" in result.stderr
