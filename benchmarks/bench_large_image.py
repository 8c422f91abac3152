"""An image that does not fit into memory, predicted within 2 GiB of address space, and compared with itself.

`python benchmarks/bench_large_image.py [--side 65536] [--folder DIR]`. The full size takes some ten minutes and 25 GB of disk.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore as ts

from patchloom.prediction import predict
from patchloom.sinks import OmeZarr

CHUNK, TILE, OVERLAP = 1024, 512, 128
ADDRESS_SPACE = 2 * 2**30


def to_float(batch: np.ndarray) -> np.ndarray:
    return batch.astype(np.float32)


def opened(path: Path, **options: Any) -> Any:
    return ts.open({"driver": "zarr3", "kvstore": {"driver": "file", "path": str(path)}}, **options).result()


def make_source(path: Path, side: int) -> None:
    """Noise that compresses about as well as a camera's."""
    source = opened(
        path,
        create=True,
        dtype=ts.uint16,
        domain=ts.IndexDomain(labels=["y", "x"], shape=[side, side]),
        chunk_layout=ts.ChunkLayout(chunk_shape=[CHUNK, CHUNK]),
        codec=ts.CodecSpec({"driver": "zarr3", "codecs": [{"name": "zstd", "configuration": {"level": 1}}]}),
    )
    band = np.random.default_rng(0).integers(100, 116, (CHUNK, side), np.uint16)
    for start in range(0, side, CHUNK):
        source[start : start + CHUNK].write(np.roll(band, start, axis=1)[: side - start]).result()


def run_within_limit(source: Path, output: Path, blend: str | None) -> None:
    """Predict in this process, which may not take more, and print how it went."""
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    started = time.perf_counter()
    predict(
        to_float,
        source,
        OmeZarr(output, pyramid=None),
        patch_size=(TILE, TILE),
        overlaps=(OVERLAP, OVERLAP),
        batch_size=8,
        blend=blend,  # type: ignore[arg-type]  # one of two
    )
    lines = Path("/proc/self/status").read_text().splitlines()
    memory = {
        line.split(":")[0]: int(line.split()[1]) / 2**20 for line in lines if line.startswith(("VmHWM", "VmPeak"))
    }
    print(json.dumps({"seconds": time.perf_counter() - started, **memory}))


def largest_difference(source: Path, output: Path) -> float:
    """In units in the last place of float32."""
    before, after = opened(source), opened(output / "0")
    worst = 0.0
    for start in range(0, before.shape[0], 2 * CHUNK):
        expected = before[start : start + 2 * CHUNK].read().result().astype(np.float32)
        found = after[start : start + 2 * CHUNK].read().result()
        worst = max(worst, float((np.abs(found - expected) / np.spacing(expected)).max()))
    return worst


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=8192)
    parser.add_argument("--folder", type=Path, help="Where there is room; a temporary folder by default.")
    parser.add_argument("--quick", action="store_true", help="the same as it is: for `make bench ARGS=--quick`")
    parser.add_argument("--run", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run:
        source, output, blend = arguments.run
        run_within_limit(Path(source), Path(output), None if blend == "crop" else blend)
        return
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        source = Path(name, "in.zarr")
        make_source(source, arguments.side)
        print(f"\n{arguments.side}² uint16 → float32, tile {TILE}, overlap {OVERLAP}, within 2 GiB of address space")
        for blend in ("crop", "hann"):
            output = Path(name, f"{blend}.ome.zarr")
            command = [sys.executable, __file__, "--run", str(source), str(output), blend]
            run = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
            print(
                f"  {blend}: {run['seconds']:.0f} s, {run['VmHWM']:.2f} GiB resident, {run['VmPeak']:.2f} GiB of addresses, "
                f"off by {largest_difference(source, output):g} units in the last place"
            )


if __name__ == "__main__":
    main()
