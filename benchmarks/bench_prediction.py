"""Prediction against floors and peers, side by side in one process; medians of ratios.

`python benchmarks/bench_prediction.py [--quick]`. MONAI is measured beside where it is installed.
"""

from __future__ import annotations

import argparse
import importlib
import shutil
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore as ts

from patchloom.patching import TiledPatching
from patchloom.prediction import predict
from patchloom.sinks import OmeZarr
from patchloom.stitching import paste_tile


def identity(batch: np.ndarray) -> np.ndarray:
    return batch


def resident() -> int:
    """Bytes of this process that are in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def seconds_of(run: Callable[[], Any]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def memory_of(run: Callable[[], Any]) -> int:
    """Return the peak increase in memory in bytes; measured separately, because it disturbs the measurement of time."""
    before, peak, stop = resident(), 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not stop.wait(0.002):
            peak = max(peak, resident())

    watcher = threading.Thread(target=watch)
    watcher.start()
    result = run()
    stop.set()
    watcher.join()
    del result
    return max(peak - before, 0)


def compare(title: str, runs: dict[str, Callable[[], Any]], output_bytes: int, repeats: int) -> None:
    """Run all in turn, several times, and print the medians against the first."""
    for run in runs.values():
        run()  # brings in what every later run has: libraries, threads, compiled loops
    memory = {name: memory_of(run) / output_bytes for name, run in runs.items()}
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            times[name].append(seconds_of(run))
    print(f"\n{title}")
    first = next(iter(runs))
    for name in runs:
        ratio = statistics.median(a / b for a, b in zip(times[name], times[first], strict=True))
        print(
            f"  {name:<28} {statistics.median(times[name]):7.2f} s  {ratio:5.2f} × {first}; "
            f"memory {memory[name]:.2f} × the output"
        )


def numpy_crop(image: np.ndarray, tiling: TiledPatching, batch_size: int) -> np.ndarray:
    """The same copies in a plain loop: tiles into a batch, the batch's crops into the image."""
    out = np.empty_like(image)
    whole = tuple(slice(0, size) for size in image.shape)
    for start in range(0, len(tiling), batch_size):
        specs = list(tiling[start : start + batch_size])
        batch = np.stack(
            [
                image[tuple(slice(c, c + p) for c, p in zip(s["coords"], s["patch_size"], strict=True))][None]
                for s in specs
            ]
        )
        for tile, spec in zip(batch, specs, strict=True):
            paste_tile(tile, spec, out[None], whole)
    return out


def monai_runs(image: np.ndarray, patch: int, overlap: int, batch_size: int) -> dict[str, Callable[[], Any]]:
    try:
        torch = importlib.import_module("torch")
        sliding_window_inference = importlib.import_module("monai.inferers").sliding_window_inference
    except ImportError:
        return {}
    tensor = torch.from_numpy(image)[None, None]
    dims = image.ndim

    def run() -> Any:
        with torch.inference_mode():
            return sliding_window_inference(
                tensor, (patch,) * dims, batch_size, lambda x: x, overlap=overlap / patch, mode="gaussian"
            )

    return {"MONAI gaussian": run}


def in_memory(dims: int, size: int, patch: int, overlap: int, repeats: int) -> None:
    rng = np.random.default_rng(0)
    image = rng.random((size,) * dims, dtype=np.float32)
    axes = "ZYX"[-dims:]
    tiling = TiledPatching([(1, 1, *image.shape)], (patch,) * dims, (overlap,) * dims)
    options: dict[str, Any] = {
        "axes": axes,
        "patch_size": (patch,) * dims,
        "overlaps": (overlap,) * dims,
        "batch_size": 8,
        "progress": False,
    }
    runs: dict[str, Callable[[], Any]] = {
        "NumPy crop loop": lambda: numpy_crop(image, tiling, 8),
        "patchloom crop": lambda: predict(identity, image, seams="centered", **options),
        "patchloom hann": lambda: predict(identity, image, blend="hann", seams="centered", **options),
    }
    runs |= monai_runs(image, patch, overlap, 8)
    compare(
        f"{dims}D, {size}{'²³'[dims - 2]} float32 in memory, tile {patch}, overlap {overlap}, batch 8",
        runs,
        image.nbytes,
        repeats,
    )


def open_zarr(path: Path, shape: tuple[int, ...], chunk: int, *, create: bool) -> Any:
    spec: dict[str, Any] = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(path)}}
    if not create:
        return ts.open(spec).result()
    return ts.open(
        spec,
        create=True,
        dtype=ts.uint16,
        domain=ts.IndexDomain(labels=list("zyx"), shape=list(shape)),
        chunk_layout=ts.ChunkLayout(chunk_shape=[chunk] * 3),
        codec=ts.CodecSpec({"driver": "zarr3", "codecs": [{"name": "zstd", "configuration": {"level": 3}}]}),
    ).result()


def through_zarr(size: int, repeats: int) -> None:
    """64³ chunks to 64³ chunks, against decoding each chunk once and encoding each once."""
    rng = np.random.default_rng(0)
    smooth = np.add.outer(np.add.outer(np.arange(size), np.arange(size)), np.arange(size))
    volume = (smooth + rng.integers(0, 64, (size,) * 3)).astype(np.uint16)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        open_zarr(folder / "in.zarr", volume.shape, 64, create=True).write(volume).result()

        def floor() -> None:
            source = open_zarr(folder / "in.zarr", volume.shape, 64, create=False)
            shutil.rmtree(folder / "floor.zarr", ignore_errors=True)
            target = open_zarr(folder / "floor.zarr", volume.shape, 64, create=True)
            for z in range(0, size, 64):
                target[z : z + 64].write(source[z : z + 64].read().result()).result()

        def patchloom(blend: Any) -> None:
            predict(
                identity,
                folder / "in.zarr",
                OmeZarr(folder / "out.ome.zarr", pyramid=None),
                patch_size=(64,) * 3,
                overlaps=(16,) * 3,
                batch_size=8,
                blend=blend,
                overwrite=True,
                progress=False,
            )

        compare(
            f"Zarr {size}³ uint16, 64³ zstd chunks, tile 64, overlap 16",
            {
                "decode and encode once": floor,
                "patchloom crop": lambda: patchloom(None),
                "patchloom hann": lambda: patchloom("hann"),
            },
            volume.nbytes,
            repeats,
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small images, once")
    quick = parser.parse_args().quick
    in_memory(2, 2048 if quick else 8192, 256, 64, 1 if quick else 7)
    in_memory(3, 160 if quick else 384, 64 if quick else 128, 32 if quick else 64, 1 if quick else 7)
    through_zarr(128 if quick else 384, 1 if quick else 7)
