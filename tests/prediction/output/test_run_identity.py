"""A run is resumed with the model, the images and the version that it was begun with, or at the user's word; never in silence."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask.array as da
import h5py
import numpy as np
import pytest
import tifffile
import xarray as xr
import zarr

import patchloom
from patchloom.errors import ModelError, SinkError, SourceChangedError, SourceError
from patchloom.image_stacks import ZarrStack, open_stacks
from patchloom.prediction import predict
from patchloom.prediction.output.ledger import ledger_path, read_header
from patchloom.prediction.planning import fit
from patchloom.prediction.skip_rules import SkipOutside
from patchloom.stitching import block_grid

TILES: dict[str, Any] = {"axes": "YX", "patch_size": (32, 24), "overlaps": (8, 6), "batch_size": 3, "progress": False}
SHAPE = (150, 130)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(block_grid, "CHUNK_SIZE", {2: 40, 3: 16})
    monkeypatch.setattr(fit, "BLOCK_SIZES", [2000])


@pytest.fixture
def image(rng: np.random.Generator) -> np.ndarray:
    return rng.integers(1, 2**16, SHAPE, np.uint16)


class Copy:
    """The same model as any other of this class, though it may fail."""

    identity = "copy"

    def __init__(self, fail_at: int = -1, meanwhile: Callable[[], Any] | None = None) -> None:
        self.calls = 0
        self.fail_at = fail_at
        self.meanwhile = meanwhile

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        self.calls += 1
        if self.calls == self.fail_at:
            if self.meanwhile is None:
                raise RuntimeError("out of cheese")
            self.meanwhile()
        return batch


def begin(source: Any, output: Path, **changes: Any) -> None:
    with pytest.raises(ModelError, match="out of cheese"):
        predict(Copy(fail_at=12), source, output, **TILES | changes)
    assert ledger_path(output).exists()


def written(output: Path) -> np.ndarray:
    return np.asarray(zarr.open_group(output, mode="r")["0"][:])


# Images that change between two runs.


def npy(path: Path, image: np.ndarray) -> Any:
    np.save(path / "image.npy", image)
    return path / "image.npy"


def mapped(path: Path, image: np.ndarray) -> Any:
    return np.load(npy(path, image), mmap_mode="r")


def tiff(path: Path, image: np.ndarray) -> Any:
    tifffile.imwrite(path / "image.tif", image, tile=(64, 64))
    return path / "image.tif"


def zarr_path(path: Path, image: np.ndarray) -> Any:
    zarr.create_array(path / "image.zarr", data=image, chunks=(64, 64), overwrite=True)
    return path / "image.zarr"


def zarr_array(path: Path, image: np.ndarray) -> Any:
    return zarr.open_array(zarr_path(path, image), mode="r")


def hdf5(path: Path, image: np.ndarray) -> Any:
    with h5py.File(path / "image.h5", "w") as file:
        file["image"] = image
    return h5py.File(path / "image.h5")["image"]


def dask_array(_path: Path, image: np.ndarray) -> Any:
    return da.from_array(image, chunks=(64, 64)) + 0


def dask_of_files(path: Path, image: np.ndarray) -> Any:
    return da.from_zarr(str(zarr_path(path, image)))


def data_array(path: Path, image: np.ndarray) -> Any:
    return xr.DataArray(dask_of_files(path, image), dims=("y", "x"))


def in_memory(_path: Path, image: np.ndarray) -> Any:
    return image


SOURCES = [npy, mapped, tiff, zarr_path, zarr_array, hdf5, dask_array, dask_of_files, data_array, in_memory]


@pytest.mark.parametrize("write", SOURCES)
def test_changed_image(
    write: Callable[[Path, np.ndarray], Any], tmp_path: Path, image: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An image with other pixels is refused, for all kinds of sources, even with the old times."""
    monkeypatch.chdir(tmp_path)
    Path("array").touch()
    folder = tmp_path / "sources"
    folder.mkdir()
    output = tmp_path / "out.ome.zarr"
    source = write(folder, image)
    begin(source, output)
    if isinstance(source, h5py.Dataset):
        source.file.close()
    times = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    changed = write(folder, image[::-1].copy())
    for path, when in times.items():
        os.utime(path, ns=(when, when))
    with pytest.raises(SinkError, match=r"contents of the sources: .* has changed(.|\n)*--resume-anyway"):
        predict(Copy(), changed, output, **TILES)
    predict(Copy(), changed, output, overwrite=True, **TILES)
    assert np.array_equal(written(output), image[::-1])


@pytest.mark.parametrize("write", [mapped, zarr_array, dask_array, dask_of_files, data_array, in_memory])
def test_same_image(write: Callable[[Path, np.ndarray], Any], tmp_path: Path, image: np.ndarray) -> None:
    """A run is resumed with the same image, opened again."""
    begin(write(tmp_path, image), tmp_path / "out.ome.zarr")
    again = {
        mapped: lambda: np.load(tmp_path / "image.npy", mmap_mode="r"),
        zarr_array: lambda: zarr.open_array(tmp_path / "image.zarr", mode="r"),
        dask_array: lambda: dask_array(tmp_path, image.copy()),
        dask_of_files: lambda: da.from_zarr(str(tmp_path / "image.zarr")),
        data_array: lambda: xr.DataArray(da.from_zarr(str(tmp_path / "image.zarr")), dims=("y", "x")),
        in_memory: image.copy,
    }
    model = Copy()
    predict(model, again[write](), tmp_path / "out.ome.zarr", **TILES)
    assert model.calls < 20, "it went on where it was"
    assert np.array_equal(written(tmp_path / "out.ome.zarr"), image)


class ArrayOfTheUsers:
    """An array-like that says nothing of itself."""

    def __init__(self, image: np.ndarray) -> None:
        self.image = image
        self.shape, self.dtype = image.shape, image.dtype

    def __getitem__(self, index: Any) -> np.ndarray:
        return self.image[index]


def test_unknown_image(tmp_path: Path, image: np.ndarray) -> None:
    """An image that cannot be identified is resumed with `resume_anyway` only."""
    output = tmp_path / "out.ome.zarr"
    begin(ArrayOfTheUsers(image), output)
    header = read_header(ledger_path(output))
    assert header is not None
    ((_, digest, unknown),) = header["identity"]["sources"]
    assert digest == ""
    assert "ArrayOfTheUsers names neither its files nor its pixels" in unknown
    with pytest.raises(SinkError, match=r"source array: .*ArrayOfTheUsers names neither(.|\n)*resume_anyway=True"):
        predict(Copy(), ArrayOfTheUsers(image), output, **TILES)
    predict(Copy(), ArrayOfTheUsers(image), output, resume_anyway=True, **TILES)
    assert np.array_equal(written(output), image)


def test_first_run(tmp_path: Path, image: np.ndarray) -> None:
    """A first run needs no identities."""
    handle = (tmp_path / "log").open("wb")
    predict(lambda batch, _log=handle: batch, ArrayOfTheUsers(image), tmp_path / "out.ome.zarr", **TILES)
    assert np.array_equal(written(tmp_path / "out.ome.zarr"), image)
    handle.close()


# Models that change between two runs.


def scaled(factor: Any, fail_at: int = -1) -> Callable[[np.ndarray], Any]:
    calls = iter(range(10**6)) if fail_at >= 0 else None

    def model(batch: np.ndarray) -> Any:
        if calls is not None and next(calls) == fail_at:
            raise RuntimeError("out of cheese")
        return batch * np.asarray(factor, batch.dtype)

    return model


def test_another_model(tmp_path: Path, image: np.ndarray) -> None:
    """Another model is refused with the part that differs, and accepted with `resume_anyway`."""
    output = tmp_path / "out.ome.zarr"
    with pytest.raises(ModelError, match="out of cheese"):
        predict(scaled(2, fail_at=12), image, output, **TILES)
    for factor, differs in [
        (3, "closure variable 'factor' of 'model' differs"),
        (2, "closure variable 'calls' of 'model'"),
    ]:
        with pytest.raises(SinkError, match=rf"another model, image or version:(.|\n)*model: {differs}"):
            predict(scaled(factor), image, output, **TILES)
    predict(scaled(2), image, output, resume_anyway=True, **TILES)
    assert np.array_equal(written(output), image * np.uint16(2))


def test_unknown_part(tmp_path: Path, image: np.ndarray) -> None:
    """A part of a model that cannot be identified is named if all else is the same."""
    log = (tmp_path / "log").open("ab")

    class Logs(Copy):
        identity = ""

        def __init__(self) -> None:
            self.log = log

        def __call__(self, batch: np.ndarray) -> np.ndarray:
            if not (tmp_path / "go").exists():
                FAILED.append(1)
                if len(FAILED) == 12:
                    raise RuntimeError("out of cheese")
            return batch

    output = tmp_path / "out.ome.zarr"
    with pytest.raises(ModelError, match="out of cheese"):
        predict(Logs(), image, output, **TILES)
    FAILED.clear()
    (tmp_path / "go").touch()
    with pytest.raises(SinkError) as caught:
        predict(Logs(), image, output, **TILES)
    assert "nothing shows whether model and images are still the same" in str(caught.value)
    assert "model: closure variable 'log' of" in str(caught.value)
    assert "is a _io.BufferedWriter, which cannot be inspected" in str(caught.value)
    assert "`identity`" in str(caught.value)
    predict(Logs(), image, output, resume_anyway=True, **TILES)
    assert np.array_equal(written(output), image)
    log.close()


FAILED: list[int] = []


def test_order_of_checks(tmp_path: Path, image: np.ndarray) -> None:
    """The model is identified before it runs and before an image is measured."""
    output = tmp_path / "out.ome.zarr"
    begin(image, output, normalize="mean_std")

    def never(batch: np.ndarray) -> np.ndarray:
        pytest.fail("the model ran")

    with pytest.raises(SinkError, match="another model"):
        predict(never, image, output, **TILES, normalize="mean_std")


def test_another_version(tmp_path: Path, image: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another version of Patchloom is refused."""
    output = tmp_path / "out.ome.zarr"
    begin(image, output)
    monkeypatch.setattr(patchloom, "__version__", "77.1")
    with pytest.raises(SinkError, match=r"Patchloom: .* before, 77\.1 now"):
        predict(Copy(), image, output, **TILES)
    predict(Copy(), image, output, resume_anyway=True, **TILES)
    assert np.array_equal(written(output), image)


def test_resume_anyway(tmp_path: Path, image: np.ndarray) -> None:
    """`resume_anyway` covers model, images and version, not settings."""
    output = tmp_path / "out.ome.zarr"
    begin(image, output)
    with pytest.raises(SinkError, match=r"another plan:\n  overlaps"):
        predict(Copy(), image, output, resume_anyway=True, **TILES | {"overlaps": (4, 4)})
    with pytest.raises(SinkError, match=r"another plan:\n  sources"):
        predict(Copy(), image.astype(np.uint32), output, resume_anyway=True, **TILES)


# Images that change during a run.


def replaced(path: Path, image: np.ndarray) -> None:
    newer = path.with_name(f"newer{path.suffix}")
    np.save(newer, image) if path.suffix == ".npy" else tifffile.imwrite(newer, image, tile=(64, 64))
    newer.replace(path)


def rewritten(path: Path, image: np.ndarray) -> None:
    np.save(path, image) if path.suffix == ".npy" else tifffile.imwrite(path, image, tile=(64, 64))


@pytest.mark.parametrize("change", [replaced, rewritten])
@pytest.mark.parametrize("write", [npy, tiff])
@pytest.mark.parametrize("moment", [2, 20, 10_000])
def test_file_changes_meanwhile(
    change: Callable[[Path, np.ndarray], None],
    write: Callable[[Path, np.ndarray], Any],
    moment: int,
    tmp_path: Path,
    image: np.ndarray,
) -> None:
    """A file that changes ends the run, and recorded blocks are of the image as it was."""
    source, output = write(tmp_path, image), tmp_path / "out.ome.zarr"
    before = source.read_bytes()
    probe = Copy()
    predict(probe, image, **TILES)
    model = Copy(min(moment, probe.calls), lambda: change(source, np.zeros_like(image)))
    # Whoever reads ahead while the file is written again may find it cut before it is known to have changed.
    with pytest.raises(SourceError, match=r"image\.(npy|tif) (has changed on disk|is truncated)"):
        predict(model, source, output, **TILES)
    assert not output.exists()
    if not ledger_path(output).exists():
        assert moment == 2
        return
    with pytest.raises(SinkError, match="has changed"):
        predict(Copy(), source, output, **TILES)
    source.write_bytes(before)
    predict(Copy(), source, output, resume_anyway=True, **TILES)
    assert np.array_equal(written(output), image)


def replaced_folder(path: Path) -> None:
    path.rename(path.with_name("old.zarr"))
    zarr.create_array(path, data=np.full(SHAPE, 7, np.uint16), chunks=(64, 64))


def rewritten_metadata(path: Path) -> None:
    (path / "zarr.json").write_text((path / "zarr.json").read_text() + " ")


@pytest.mark.parametrize("change", [replaced_folder, rewritten_metadata])
@pytest.mark.parametrize("to", ["out.ome.zarr", "out.npy", None])
def test_zarr_replaced_meanwhile(
    change: Callable[[Path], None], to: str | None, tmp_path: Path, image: np.ndarray
) -> None:
    """A Zarr that is replaced ends the run, for every kind of output."""
    source, output = zarr_path(tmp_path, image), None if to is None else tmp_path / to
    with pytest.raises(SourceChangedError, match="has changed on disk"):
        predict(Copy(8, lambda: change(source)), source, output, **TILES)
    assert output is None or not output.exists()


def test_chunk_rewritten_meanwhile(tmp_path: Path, image: np.ndarray) -> None:
    """A chunk that is rewritten in place ends the run before the image is complete, and its blocks are discarded."""
    source, output = zarr_path(tmp_path, image), tmp_path / "out.ome.zarr"

    def change() -> None:
        zarr.open_array(source, mode="r+")[:64, :64] = 0

    with pytest.raises(SourceChangedError, match="has changed on disk"):
        predict(Copy(8, change), source, output, **TILES)
    assert {path.name for path in tmp_path.iterdir()} <= {"image.zarr", "out.ome.zarr.lock"}
    predict(Copy(), source, output, **TILES)
    assert np.array_equal(written(output), np.where(np.indices(SHAPE).max(axis=0) < 64, 0, image))


def test_series_changes_meanwhile(tmp_path: Path, image: np.ndarray) -> None:
    """Only the image that changed fails."""
    sources = [npy(tmp_path, image), tmp_path / "second.npy"]
    np.save(sources[1], image[::-1])
    with pytest.raises(patchloom.SeriesError, match=r"1 of 2 images failed(.|\n)*image\.npy has changed on disk"):
        predict(Copy(12, lambda: replaced(sources[0], image)), sources, tmp_path / "out", keep_going=True, **TILES)
    assert np.array_equal(written(tmp_path / "out" / "second.ome.zarr"), image[::-1])
    assert not (tmp_path / "out" / "image.ome.zarr").exists()


def test_labels_beside_level(tmp_path: Path, image: np.ndarray) -> None:
    """Labels that are written beside an image do not change it."""
    path = tmp_path / "image.ome.zarr"
    predict(Copy(), image, path, **TILES)

    def change() -> None:
        zarr.open_group(path, mode="r+").create_array("labels/cells", data=image)

    found = predict(Copy(8, change), ZarrStack(path), **TILES | {"axes": None})
    assert np.array_equal(found, image)


def test_mask_changes(tmp_path: Path, image: np.ndarray) -> None:
    """A mask that changes is noticed as an image is."""
    np.save(tmp_path / "mask.npy", np.ones(SHAPE, np.uint8))

    def masked(model: Copy, output: Path) -> Any:
        skip = SkipOutside(open_stacks(tmp_path / "mask.npy", "YX"))
        return predict(model, image, output, skip=skip, **TILES)

    when = (tmp_path / "mask.npy").stat().st_mtime_ns
    with pytest.raises(ModelError, match="out of cheese"):
        masked(Copy(fail_at=12), tmp_path / "out.ome.zarr")
    np.save(tmp_path / "mask.npy", np.eye(*SHAPE, dtype=np.uint8))
    os.utime(tmp_path / "mask.npy", ns=(when, when))
    with pytest.raises(SinkError, match=r"contents of the sources: .*mask\.npy has changed"):
        masked(Copy(), tmp_path / "out.ome.zarr")
    with pytest.raises(SourceChangedError, match=r"mask\.npy has changed on disk"):
        masked(Copy(3, lambda: replaced(tmp_path / "mask.npy", np.ones(SHAPE))), tmp_path / "other.ome.zarr")


SCRIPT = """
import sys
import numpy as np
from patchloom.cli import main
from patchloom.prediction.planning import fit
from patchloom.stitching import block_grid
block_grid.CHUNK_SIZE = {2: 40, 3: 16}
fit.BLOCK_SIZES = [2000]
sys.argv = ["patchloom", *sys.argv[1:]]
main()
"""
NET = """
import numpy as np, pathlib
HERE = pathlib.Path(__file__).parent
WEIGHTS = np.load(HERE / "w.npy")
class Net:
    def __init__(self):
        self.weights = {"layer": WEIGHTS}
    def __call__(self, batch):
        if not (HERE / "go").exists() and (batch == 65535).any():
            raise RuntimeError("out of cheese")
        return batch * self.weights["layer"]
net = Net()
"""


def test_weights_change(tmp_path: Path, image: np.ndarray) -> None:
    """Weights that changed between two commands are refused."""

    def run(*options: str) -> subprocess.CompletedProcess[str]:
        command = ["predict", "image.npy", "--axes", "YX", "--model", "net.py:net", "--patch-size", "32,24", "-q"]
        return subprocess.run(
            [sys.executable, "-c", SCRIPT, *command, "--overlaps", "8,6", "-o", "out.ome.zarr", *options],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )

    image = np.minimum(image, 65534)
    image[-1, -1] = 65535
    npy(tmp_path, image)
    (tmp_path / "net.py").write_text(NET)
    np.save(tmp_path / "w.npy", np.uint16(2))
    failed = run()
    assert "out of cheese" in failed.stderr
    assert ledger_path(tmp_path / "out.ome.zarr").exists()
    (tmp_path / "go").touch()
    np.save(tmp_path / "w.npy", np.uint16(3))
    refused = run()
    assert refused.returncode == 1
    assert "model: global 'WEIGHTS' of net differs" in refused.stderr
    assert "--resume-anyway" in refused.stderr
    np.save(tmp_path / "w.npy", np.uint16(2))
    gone_on = run()
    assert gone_on.returncode == 0, gone_on.stderr
    assert np.array_equal(written(tmp_path / "out.ome.zarr"), image * np.uint16(2))


def test_json(tmp_path: Path, image: np.ndarray) -> None:
    """An identity goes to JSON and back."""
    output = tmp_path / "out.ome.zarr"
    begin(image, output)
    header = read_header(ledger_path(output))
    assert header is not None
    assert header["identity"]["patchloom"] == patchloom.__version__
    assert json.loads(json.dumps(header)) == header
    assert list(header["identity"]["model"]["parts"]) == ["what it declares to be"]
