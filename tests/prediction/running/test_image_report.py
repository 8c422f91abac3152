"""The report on each image after a run: true, and the same for programs and for readers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from patchloom.errors import SeriesError
from patchloom.prediction import plan, predict
from patchloom.prediction.planning import fit
from patchloom.prediction.running.image_report import ImageReport
from patchloom.prediction.skip_rules import SkipDark
from patchloom.stitching import block_grid

TILES: dict[str, Any] = {"axes": "YX", "patch_size": (12, 10), "overlaps": (4, 3)}


@pytest.fixture
def images(tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Three images of several blocks each; most of the second is dark."""
    monkeypatch.setattr(fit, "BLOCK_SIZES", [300])
    monkeypatch.setattr(block_grid, "CHUNK_SIZE", {2: 10, 3: 4})
    paths = [tmp_path / f"image{number}.npy" for number in range(3)]
    for number, path in enumerate(paths):
        pixels = rng.integers(100, 200, (40, 50 + number), np.uint8)
        if number == 1:
            pixels[:, :40] = 3
        np.save(path, pixels)
    return paths


def reports_of(model: Any, *arguments: Any, **settings: Any) -> list[ImageReport]:
    reports: list[ImageReport] = []
    predict(model, *arguments, report=reports.extend, **TILES | settings)
    return reports


def test_counts(images: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Tiles, blocks and skipped tiles are counted image by image, in the reports and in the table."""
    reports = reports_of(lambda batch: batch, images, tmp_path / "out", skip=SkipDark(threshold=20))
    prepared = plan(images, **TILES)
    assert [report.source for report in reports] == list(map(str, images))
    assert [report.outputs for report in reports] == [(str(tmp_path / f"out/image{i}.ome.zarr"),) for i in range(3)]
    assert [(report.axes, report.shape) for report in reports] == [("YX", (40, 50 + i)) for i in range(3)]
    assert sum(report.tiles for report in reports) == prepared.n_tiles
    assert [report.blocks for report in reports] == [len(grid) for grid in prepared.blocks]
    assert reports[0].tiles_skipped == reports[2].tiles_skipped == 0
    assert 0 < reports[1].tiles_skipped < reports[1].tiles
    for report in reports:
        assert (report.blocks_resumed, report.error) == (0, None)
        assert report.seconds is not None
        assert report.seconds > 0
    lines = capsys.readouterr().err.splitlines()[-4:]
    assert lines[0].split() == ["image", "output", "shape", "tiles", "blocks", "resumed", "skipped", "seconds"]
    for report, line in zip(reports, lines[1:], strict=True):
        numbers = [report.tiles, report.blocks, 0, report.tiles_skipped, f"{report.seconds:.1f}"]
        shape = ["YX", *" × ".join(map(str, report.shape)).split()]
        assert line.split() == [report.source, *report.outputs, *shape, *map(str, numbers)]


def test_resumed(images: list[Path], tmp_path: Path) -> None:
    """Blocks of an earlier run count as resumed, and an image that it completed has no time."""
    calls = iter(range(10_000))

    def fails_once(batch: np.ndarray) -> np.ndarray:
        if next(calls) == 60:
            raise RuntimeError
        return batch

    with pytest.raises(RuntimeError):
        reports_of(fails_once, images, tmp_path / "out")
    first, second, third = reports_of(fails_once, images, tmp_path / "out", resume_anyway=True)
    assert first.blocks_resumed == first.blocks
    assert first.seconds is None, "nothing was done for it now"
    assert 0 < second.blocks_resumed < second.blocks
    assert second.seconds is not None
    assert third.blocks_resumed == 0
    for report, path in zip((first, second, third), images, strict=True):
        assert np.array_equal(
            predict(lambda b: b, report.outputs[0], patch_size=(64, 64), progress=False), np.load(path)
        )


def test_failed(images: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An image that failed is reported with the error, and has neither output nor time."""

    def fails_in_the_dark(batch: np.ndarray) -> np.ndarray:
        if batch.max() < 50:
            raise RuntimeError("[too] dark")
        return batch

    reports: list[ImageReport] = []
    with pytest.raises(SeriesError):
        predict(fails_in_the_dark, images, tmp_path / "out", keep_going=True, report=reports.extend, **TILES)
    good, failed, also_good = reports
    assert (good.error, also_good.error) == (None, None)
    assert failed.error is not None
    assert "RuntimeError: [too] dark" in failed.error
    assert (failed.outputs, failed.seconds) == ((), None)
    table = capsys.readouterr().err
    assert f"{failed.source}  failed: {failed.error}" in table


def test_outputs(images: list[Path], tmp_path: Path) -> None:
    """All outputs of a model are named; arrays have no name."""

    def model(batch: np.ndarray) -> dict[str, np.ndarray]:
        return {"same": batch, "more": batch + 1}

    (report,) = reports_of(model, images[0], tmp_path / "out.ome.zarr")
    assert report.outputs == (str(tmp_path / "out-same.ome.zarr"), str(tmp_path / "out-more.ome.zarr"))
    (report,) = reports_of(model, images[0])
    assert report.outputs == ()


def test_no_table(images: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    """Neither a single image nor a run without progress prints a table."""
    reports_of(lambda batch: batch, images[0])
    assert "resumed" not in capsys.readouterr().err
    reports_of(lambda batch: batch, images, progress=False)
    assert capsys.readouterr().err == ""
