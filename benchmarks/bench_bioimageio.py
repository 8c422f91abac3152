"""Memory of one package of bioimage.io on an image and on one 64 times larger: here, and in bioimageio.core.

`python benchmarks/bench_bioimageio.py [--side 1024] [--times 8]`. Patchloom also predicts an image four times larger than that. Each prediction runs in a process of its own, from a file to a file:
here from a Zarr to an OME-Zarr; in bioimageio.core from a `.npy` to a `.npy`, block by block, which is its way to save memory. Without
bioimageio.core, only Patchloom is measured. The target: the largest image takes at most `memory_limit` (128 MiB) more than the
smallest, which needs little of it, and 64 MiB that allocators keep.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore as ts
from onnx import parser

import patchloom as pl

MEMORY_LIMIT = 128 * 2**20
ALLOCATOR = 64
"""MiB that the allocators of Python, onnxruntime and TensorStore keep."""
WEIGHTS = ", ".join(f"{0.002 * (index % 11 - 4):.3f}" for index in range(8 * 25))
NETWORK = f"""
<ir_version: 8, opset_import: ["": 17]> network (float[N, 1, H, W] x) => (float[N, 1, H, W] y)
<float[8, 1, 5, 5] a = {{{WEIGHTS}}}, float[1, 8, 5, 5] b = {{{WEIGHTS}}}>
{{
    c = Conv <pads = [2, 2, 2, 2]> (x, a)
    d = Relu (c)
    y = Conv <pads = [2, 2, 2, 2]> (d, b)
}}
"""


def make_package(folder: Path) -> Path:
    """Write a package of a network of two convolutions, whose input is normalized by statistics of the image."""
    path = folder / "network.onnx"
    path.write_bytes(parser.parse_model(NETWORK).SerializeToString())
    example = np.random.default_rng(0).normal(1000, 200, (300, 300)).astype(np.uint16)
    return pl.export_bioimageio(
        folder / "package", path, example, axes="YX", normalize="mean_std", overlaps=8, name="two convolutions"
    )


def make_image(folder: Path, side: int) -> None:
    """Write noise as a Zarr and as a `.npy`."""
    pixels = np.lib.format.open_memmap(folder / f"{side}.npy", mode="w+", dtype=np.uint16, shape=(1, 1, side, side))
    rng = np.random.default_rng(0)
    for start in range(0, side, 256):
        pixels[0, 0, start : start + 256] = rng.normal(1000 + start % 300, 200, (min(256, side - start), side))
    store = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(folder / f"{side}.zarr")}}
    domain = ts.IndexDomain(labels=["y", "x"], shape=[side, side])
    layout = ts.ChunkLayout(chunk_shape=[512, 512])
    written = ts.open(store, create=True, dtype=ts.uint16, domain=domain, chunk_layout=layout).result()
    for start in range(0, side, 512):
        written[start : start + 512].write(np.asarray(pixels[0, 0, start : start + 512])).result()


def predict_here(folder: Path, side: int) -> None:
    output = pl.OmeZarr(folder / f"{side}.ome.zarr", pyramid=None)
    source = folder / f"{side}.zarr"
    pl.predict(pl.load_model(folder / "package"), source, output, memory_limit=MEMORY_LIMIT, progress=False)


def predict_by_core(folder: Path, side: int) -> None:
    from bioimageio import core  # noqa: PLC0415  # need not be installed

    described = core.load_description(folder / "package", format_version="discover")
    pipeline = core.create_prediction_pipeline(described)
    sample = core.digest_spec.create_sample_for_model(described, inputs={"input": np.load(folder / f"{side}.npy")})
    with pipeline:
        predicted = pipeline.predict_sample_with_fixed_blocking(
            sample, input_block_shape={"input": {"batch": 1, "channel": 1, "y": 512, "x": 512}}
        )
    np.save(folder / f"{side}.core.npy", predicted.members["output"].to_numpy())


WAYS = {"patchloom": predict_here, "bioimageio.core": predict_by_core}


def run(way: str, folder: Path, side: int) -> dict[str, float]:
    """Predict in this process, and return its peak of memory and the seconds it took."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        started = time.perf_counter()
        WAYS[way](folder, side)
        seconds = time.perf_counter() - started
    lines = Path("/proc/self/status").read_text().splitlines()
    peak = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    return {"mebibytes": peak / 1024, "seconds": seconds}


def measure(way: str, folder: Path, side: int) -> dict[str, float]:
    """Run a prediction in a process of its own."""
    command = [sys.executable, __file__, "--run", way, "--folder", str(folder), "--side", str(side)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    if ran.returncode:
        raise SystemExit(f"{way} failed: {ran.stderr[-2000:]}")
    found: dict[str, float] = json.loads(ran.stdout.splitlines()[-1])
    return found


def largest_difference(folder: Path, side: int) -> float:
    """Compare both results, without the border, where bioimageio.core mirrors and Patchloom lets the network pad."""
    found = pl.open_stacks(folder / f"{side}.ome.zarr")[0]
    expected = np.load(folder / f"{side}.core.npy", mmap_mode="r")
    worst = 0.0
    for start in range(8, side - 8, 1024):
        size = (min(1024, side - 8 - start), side - 16)
        here = found.extract_patch(0, None, (start, 8), size)[0]
        worst = max(worst, float(np.abs(here - expected[0, 0, start : start + size[0], 8 : side - 8]).max()))
    return worst


def _has_core() -> bool:
    return find_spec("bioimageio") is not None and find_spec("bioimageio.core") is not None


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--side", type=int, default=1024)
    options.add_argument("--times", type=int, default=8)
    options.add_argument("--folder", type=Path)
    options.add_argument("--run", choices=WAYS)
    given: Any = options.parse_args()
    if given.run:
        print(json.dumps(run(given.run, given.folder, given.side)))
        return
    ways = [way for way in WAYS if way == "patchloom" or _has_core()]
    sides = (given.side, given.side * given.times)
    largest = 2 * sides[1]
    with tempfile.TemporaryDirectory(dir=given.folder) as temporary:
        folder = Path(temporary)
        make_package(folder)
        peaks = {}
        for side in (*sides, largest):
            make_image(folder, side)
            for way in ways if side != largest else ["patchloom"]:
                found = measure(way, folder, side)
                peaks[way, side] = found["mebibytes"]
                print(f"{way:<16} {side:>6}²  {found['mebibytes']:8.0f} MiB  {found['seconds']:7.1f} s", flush=True)
        growth = {way: peaks[way, sides[1]] - peaks[way, sides[0]] for way in ways}
        for way in ways:
            print(f"{way:<16} the image {given.times**2} times larger takes {growth[way]:.0f} MiB more")
        if len(ways) > 1:
            print(f"largest difference of the results: {max(largest_difference(folder, side) for side in sides):.2g}")
    growth["patchloom"] = peaks["patchloom", largest] - peaks["patchloom", sides[0]]
    print(f"{'patchloom':<16} the image {4 * given.times**2} times larger takes {growth['patchloom']:.0f} MiB more")
    limit = MEMORY_LIMIT / 2**20 + ALLOCATOR
    print(f"target: at most {limit:.0f} MiB more: {'met' if growth['patchloom'] <= limit else 'missed'}")


if __name__ == "__main__":
    main()
