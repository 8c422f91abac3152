"""How much memory a run takes: what the plan says, whatever the size of the image."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorstore as ts
from hypothesis import given, settings
from hypothesis import strategies as st

from patchloom.errors import GeometryError
from patchloom.image_stacks import ArrayStack
from patchloom.prediction import plan, predict
from patchloom.prediction.normalization import measuring

TILES = {"patch_size": (256, 256), "overlaps": (64, 64), "batch_size": 4, "seams": "grid"}

RUN = """
import json, sys
from pathlib import Path
import numpy as np
from patchloom import OmeZarr, plan, predict

source, small, output, options = sys.argv[1], sys.argv[2], sys.argv[3], json.loads(sys.argv[4])
options["seams"] = None if options["blend"] else options["seams"]

def model(batch):
    return batch.astype(np.float32)

def resident(what):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(what))

def run(source, name):
    predict(model, source, OmeZarr(Path(output, name), pyramid=None), progress=False, **options)

run(small, "warm.ome.zarr")  # brings in what every run has: libraries, threads
before = resident("VmRSS")
Path("/proc/self/clear_refs").write_text("5")
run(source, "out.ome.zarr")
peak = resident("VmHWM")
planned = plan(source, model=model, measure=True, **options).memory.total
print(json.dumps({"peak": peak, "taken": peak - before, "planned": planned}))
"""

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="the peak of a run is read where Linux tells it"
)


def write_zarr(path: Path, shape: tuple[int, int]) -> Path:
    spec = {
        "driver": "zarr3",
        "kvstore": {"driver": "file", "path": str(path)},
        "metadata": {"dimension_names": ["y", "x"]},
    }
    layout = ts.ChunkLayout(chunk_shape=[512, 512])
    store = ts.open(spec, create=True, dtype=ts.uint16, shape=shape, chunk_layout=layout).result()
    band = np.random.default_rng(0).integers(0, 2**12, (512, shape[1]), np.uint16)
    for start in range(0, shape[0], 512):
        store[start : start + 512].write(band[: shape[0] - start]).result()
    return path


def measured(tmp_path: Path, shape: tuple[int, int], **options: Any) -> dict[str, int]:
    folder = tmp_path / "x".join(map(str, shape))
    folder.mkdir()
    source, small = write_zarr(folder / "in.zarr", shape), write_zarr(folder / "small.zarr", (1536, 1024))
    command = [sys.executable, "-c", RUN, source, small, folder, json.dumps({**TILES, **options})]
    printed = subprocess.run(list(map(str, command)), check=True, capture_output=True, text=True).stdout
    numbers: dict[str, int] = json.loads(printed)
    return numbers


@pytest.mark.parametrize(("blend", "normalize"), [(None, None), ("hann", None), (None, "percentiles")])
def test_large_image(blend: Any, normalize: Any, tmp_path: Path) -> None:
    """An image eight times as large takes no more memory, and as much as planned."""
    options = {"blend": blend, "normalize": normalize, "memory_limit": 40_000_000}
    small = measured(tmp_path, (2048, 4096), **options)
    large = measured(tmp_path, (8192, 8192), **options)
    assert large["peak"] < 1.1 * small["peak"]
    for run in (small, large):
        # What the storage library and the allocator take on top does not grow with the image, nor with the limit.
        assert 0.5 * run["planned"] < run["taken"] < 1.25 * run["planned"] + 2**24, run
        assert run["planned"] <= 40_000_000


def test_smaller_limit(tmp_path: Path) -> None:
    """A smaller limit gives a plan that takes less."""
    source = write_zarr(tmp_path / "in.zarr", (2048, 4096))
    needs = []
    for limit in (10**9, 10**8, 3 * 10**7):
        prepared = plan(source, memory_limit=limit, **TILES)
        assert prepared.memory.total <= limit
        needs.append(prepared.memory.total)
    assert needs == sorted(needs, reverse=True)
    with pytest.raises(GeometryError, match="memory_limit"):
        plan(source, memory_limit=10**6, **TILES)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_zarr(tmp_path_factory.mktemp("limits") / "in.zarr", (1024, 900))


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_limit_of_refused_plan(source: Path, data: st.DataObject) -> None:
    """The limit in the error of a plan is the smallest one that is enough."""
    options: dict[str, Any] = {
        "patch_size": (data.draw(st.integers(8, 300)), 64),
        "batch_size": data.draw(st.integers(1, 9)),
        "blend": data.draw(st.sampled_from([None, "hann"])),
        "normalize": data.draw(st.sampled_from([None, "mean_std"])),
    }
    with pytest.raises(GeometryError, match="this plan needs") as caught:
        plan(source, memory_limit=1, **options)
    needed = int(str(caught.value).split("needs ")[1].split(" ")[0])
    assert plan(source, memory_limit=needed, **options).memory.total <= needed
    with pytest.raises(GeometryError, match=f"needs {needed} at least"):
        plan(source, memory_limit=needed - 1, **options)


@settings(deadline=None, max_examples=25)
@given(
    n_channels=st.integers(1, 6),
    dtype=st.sampled_from(["uint8", "float32", "float64"]),
    factor=st.integers(1, 2),
    margin=st.integers(0, 3),
    keep_going=st.booleans(),
)
def test_limit_of_refused_run(n_channels: int, dtype: str, factor: int, margin: int, keep_going: bool) -> None:
    """The limit in the error of a run is the smallest one that is enough, for all models."""

    def model(batch: np.ndarray) -> np.ndarray:
        kept = batch[..., margin : batch.shape[2] - margin, margin : batch.shape[3] - margin]
        return kept.repeat(n_channels, 1).repeat(factor, 2).repeat(factor, 3).astype(dtype)

    image = np.random.default_rng(0).integers(0, 200, (90, 70), np.uint8)
    run = partial(predict, model, [image], axes="YX", patch_size=(16, 16), keep_going=keep_going, progress=False)
    with pytest.raises(GeometryError, match="this plan needs") as caught:
        run(memory_limit=1)
    needed = int(str(caught.value).split("needs ")[1].split(" ")[0])
    with pytest.raises(GeometryError, match=f"needs {needed} at least"):
        run(memory_limit=needed - 1)
    np.testing.assert_array_equal(run(memory_limit=needed)[0], run()[0])


def test_refused_before_measuring(monkeypatch: pytest.MonkeyPatch) -> None:
    """No image is measured if the run does not fit anyway."""
    monkeypatch.setattr(measuring, "measure_normalization", lambda *_, **__: pytest.fail("measured"))
    with pytest.raises(GeometryError, match="memory_limit is 1000 bytes"):
        predict(np.abs, np.zeros((200, 200)), axes="YX", normalize="mean_std", patch_size=64, memory_limit=1000)


@pytest.mark.parametrize("limit", ["2GB", "1000000000", 0, -1, 1e9, True, float("nan"), [2**30], b"1"])
def test_wrong_limit(limit: Any) -> None:
    """A limit is a positive whole number of bytes."""
    for run in (plan, partial(predict, lambda batch: batch)):
        with pytest.raises(GeometryError, match=r"memory_limit is .*: it must be a positive whole number of bytes"):
            run(np.zeros((20, 20)), axes="YX", patch_size=(8, 8), memory_limit=limit)


def test_chunks_are_measured_whole() -> None:
    """An image is measured in whole chunks if memory allows it."""

    class Chunks(ArrayStack):
        chunk_shape = shard_shape = (1, 1, 100, 100)

    stack = Chunks(np.zeros((1, 1, 500, 500), np.float32), axes="SCYX")
    assert measuring.pixel_bytes(stack, 10**5) == 10**5 // 8
    assert measuring.pixel_bytes(stack, 5 * 10**5) == 40_000  # a chunk
    assert measuring.pixel_bytes(stack, 2 * 10**6) == 2 * 10**6 // 24
    assert measuring.pixel_bytes(stack, 2**40) == 2**25
