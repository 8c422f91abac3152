"""How much memory a run takes: what the plan says, whatever the size of the image."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorstore as ts

from patchloom.errors import GeometryError
from patchloom.prediction import plan

TILES = {"patch_size": (256, 256), "overlaps": (64, 64), "batch_size": 4, "seams": "grid"}

RUN = """
import json, sys
from pathlib import Path
import numpy as np
from patchloom.prediction import plan, predict
from patchloom.prediction.engine import learn_forms

source, small, output, options = sys.argv[1], sys.argv[2], sys.argv[3], json.loads(sys.argv[4])
options["seams"] = None if options["blend"] else options["seams"]

def model(batch):
    return batch.astype(np.float32)

def resident(what):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(what))

def run(source, name):
    predict(model, source, Path(output, name), progress=False, pyramid=None, **options)

run(small, "warm.ome.zarr")  # brings in what every run has: libraries, threads
before = resident("VmRSS")
Path("/proc/self/clear_refs").write_text("5")
run(source, "out.ome.zarr")
peak = resident("VmHWM")
forms = learn_forms(plan(source, **options), model)
print(json.dumps({"peak": peak, "taken": peak - before, "planned": plan(source, forms=forms, **options).memory.total}))
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


@pytest.mark.parametrize("blend", [None, "hann"])
def test_an_image_eight_times_as_large_takes_no_more_memory(blend: Any, tmp_path: Path) -> None:
    options = {"blend": blend, "memory_limit": 40_000_000}
    small = measured(tmp_path, (2048, 4096), **options)
    large = measured(tmp_path, (8192, 8192), **options)
    assert large["peak"] < 1.1 * small["peak"]
    for run in (small, large):
        # What the storage library and the allocator take on top does not grow with the image, nor with the limit.
        assert 0.5 * run["planned"] < run["taken"] < 1.25 * run["planned"] + 2**24, run
        assert run["planned"] <= 40_000_000


def test_a_plan_that_may_take_less_memory_plans_for_less(tmp_path: Path) -> None:
    source = write_zarr(tmp_path / "in.zarr", (2048, 4096))
    needs = []
    for limit in (10**9, 10**8, 3 * 10**7):
        prepared = plan(source, memory_limit=limit, **TILES)
        assert prepared.memory.total <= limit
        needs.append(prepared.memory.total)
    assert needs == sorted(needs, reverse=True)
    with pytest.raises(GeometryError, match="memory_limit"):
        plan(source, memory_limit=10**6, **TILES)
