"""One model on several devices: the same bytes, in any order of completion, and errors that name their tile."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import patchloom as pl
from patchloom.prediction.models.replicas import ReplicatedModel, replicas_of
from patchloom.prediction.planning import fit
from patchloom.stitching import block_grid

OPTIONS: dict[str, Any] = {"axes": "YX", "patch_size": 16, "overlaps": 6, "batch_size": 3, "progress": False}


class Slow:
    """A model that takes its time, and notes its threads and the first voxel of each batch."""

    identity = "root"

    def __init__(self, seconds: float, notes: list[tuple[int, int]], device: int) -> None:
        self.seconds, self.notes, self.device = seconds, notes, device
        self.threads: set[int] = set()

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        self.threads.add(threading.get_ident())
        time.sleep(self.seconds)
        self.notes.append((self.device, int(batch[0, 0, 0, 0])))
        batch += 1  # a model may change its batch
        return np.sqrt(batch)


def expected_of(image: np.ndarray, **options: Any) -> np.ndarray:
    return pl.predict(lambda batch: np.sqrt(batch + 1), image, **OPTIONS | options)


@pytest.fixture
def image() -> np.ndarray:
    return np.arange(90 * 80, dtype=np.float32).reshape(90, 80)


@pytest.mark.parametrize("n_devices", [1, 2, 3])
@pytest.mark.parametrize("stored", [False, True])
@pytest.mark.parametrize("blend", [None, "hann"])
def test_same_bytes(n_devices: int, stored: bool, blend: Any, image: np.ndarray, tmp_path: Path) -> None:
    """Batches are dealt out in turn, and results are those of one device, also if the first one is the slowest."""
    source: Any = image
    if stored:
        source = tmp_path / "image.npy"
        np.save(source, image)
    notes: list[tuple[int, int]] = []
    replicas = [Slow(0.02 if not device else 0.001, notes, device) for device in range(n_devices)]
    result = pl.predict(ReplicatedModel(replicas), source, blend=blend, **OPTIONS)
    assert result.tobytes() == expected_of(image, blend=blend).tobytes()
    if n_devices > 1:
        assert [voxel for _, voxel in notes] != sorted(voxel for _, voxel in notes)  # completed out of order
        assert all(threading.get_ident() not in replica.threads for replica in replicas[1:])
        in_plan_order = [device for device, _ in sorted(notes[1:], key=lambda note: note[1])]
        counts = [in_plan_order.count(device) for device in range(n_devices)]
        assert max(counts) - min(counts) <= 2


def test_failing_device(image: np.ndarray) -> None:
    """If a device fails, the run ends with an error that names the tile, and no thread is left."""

    class Failing(Slow):
        def __call__(self, batch: np.ndarray) -> np.ndarray:
            if len(self.notes) > 3:
                raise RuntimeError("device lost")
            return super().__call__(batch)

    before = threading.active_count()
    model = ReplicatedModel([Slow(0.001, [], 0), Failing(0.001, [], 1)])
    with pytest.raises(pl.ModelError, match=r"failed on the tiles at \(.*RuntimeError: device lost"):
        pl.predict(model, image, **OPTIONS)
    assert threading.active_count() == before


def test_series(image: np.ndarray) -> None:
    """If one image of a series fails on a device, the others are finished."""
    bad = image.copy()
    bad[50, 50] = -9

    def model(batch: np.ndarray) -> np.ndarray:
        if batch.min() < 0:
            raise ValueError("negative")
        return np.sqrt(batch + 1)

    with pytest.raises(pl.SeriesError, match="negative") as caught:
        pl.predict(ReplicatedModel([model, model]), [image, bad, image], keep_going=True, **OPTIONS)
    first, none, last = caught.value.results
    assert none is None
    assert first.tobytes() == last.tobytes() == expected_of(image).tobytes()


def test_skipped_tiles(image: np.ndarray) -> None:
    """Tiles that are skipped are not dealt out."""
    image[:60] = 0
    replicas = ReplicatedModel([Slow(0, [], 0), Slow(0, [], 1)])
    found = pl.predict(replicas, image, skip="dark:0,fill=3", **OPTIONS)
    assert found.tobytes() == expected_of(image, skip="dark:0,fill=3").tobytes()


def test_resume_on_other_devices(image: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run on two devices that failed is resumed on one, to the bytes of a run that did not fail."""
    monkeypatch.setattr(block_grid, "CHUNK_SIZE", {2: 20, 3: 8})
    monkeypatch.setattr(fit, "BLOCK_SIZES", [2000])
    source = tmp_path / "image.npy"
    np.save(source, image)
    calls: list[int] = []

    class Root:
        identity = "root"
        fails_at = 0

        def __call__(self, batch: np.ndarray) -> np.ndarray:
            calls.append(1)
            if len(calls) == self.fails_at:
                raise RuntimeError("device lost")
            return np.sqrt(batch + 1)

    model = Root()
    model.fails_at = 18
    with pytest.raises(pl.ModelError, match="device lost") as caught:
        pl.predict(ReplicatedModel([model, model]), source, tmp_path / "out.ome.zarr", **OPTIONS)
    assert "blocks are finished and kept" in "".join(caught.value.__notes__)
    model.fails_at = 0
    pl.predict(model, source, tmp_path / "out.ome.zarr", **OPTIONS)
    n_resumed = len(calls) - 18
    pl.predict(model, source, tmp_path / "whole.ome.zarr", **OPTIONS)
    assert n_resumed < len(calls) - 18 - n_resumed
    found, expected = (
        {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("c/**/*") if path.is_file()}
        for folder in (tmp_path / "out.ome.zarr", tmp_path / "whole.ome.zarr")
    )
    assert found == expected


def test_arguments() -> None:
    """Replicas are callables, at least one; any other model is one replica."""
    with pytest.raises(pl.GeometryError, match="replicas is empty"):
        ReplicatedModel(())
    with pytest.raises(pl.ArgumentTypeError, match=r"replicas\[1\]"):
        ReplicatedModel((np.negative, 3))  # type: ignore[arg-type]
    assert replicas_of(np.negative) == (np.negative,)
    described = pl.ModelDescription(patch_size=(8, 8))

    class Described:
        description = described

        def __call__(self, batch: Any) -> Any:
            return batch

    assert ReplicatedModel((Described(), Described())).description is described


def test_device_argument(image: np.ndarray) -> None:
    """`device="cpu,cpu"` runs two copies of a network, which are not shared, as each of them sets the mode of its own."""
    torch = pytest.importorskip("torch")
    network = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3, padding=1), torch.nn.Dropout(0.5)).train()
    one = pl.predict(network, image, device="cpu", **OPTIONS)
    two = pl.predict(network, image, device="cpu,cpu", **OPTIONS)
    assert one.tobytes() == two.tobytes()
    assert network.training
    with pytest.raises(pl.ArgumentError, match="chooses its device itself"):
        pl.predict(np.negative, image, device="cpu,cpu", **OPTIONS)
