"""Extraction against floors and peers, side by side in one process; medians of ratios, round by round.

`python benchmarks/bench_extraction.py [--quick]`. The compiled loop is measured where numba is installed.
"""

from __future__ import annotations

import argparse
import importlib
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore as ts

from patchloom.extraction import ChunkCache, PatchExtractor, extract_lateral_context
from patchloom.extraction.lateral_context import context_windows
from patchloom.image_stacks import ArrayStack, ZarrStack
from patchloom.patching import RandomPatching, TiledPatching
from patchloom.patching.storage_order import storage_order
from patchloom.specs.spec_table import SpecTable

IN_A_ROW = 5
gathering: Any = importlib.import_module("patchloom.extraction.gather")


def compare(title: str, runs: dict[str, Callable[[int], object]], rounds: int, note: str = "") -> None:
    """Run each a few times, in turn, round after round, and print each as a multiple of the first."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for start in range(-IN_A_ROW, rounds - IN_A_ROW + 1, IN_A_ROW):  # the first ones to warm up
        for name, run in runs.items():
            started = time.perf_counter()
            for number in range(start, start + IN_A_ROW):
                run(number % rounds)
            if start >= 0:
                times[name].append((time.perf_counter() - started) / IN_A_ROW)
    print(f"\n{title}{note and '  ' + note}")
    first = next(iter(times.values()))
    for name, own in times.items():
        ratio = statistics.median(a / b for a, b in zip(own, first, strict=True))
        print(
            f"  {name:<44}{statistics.median(own) * 1e3:9.3f} ms {ratio:8.2f} ×   at best {min(own) / min(first):8.2f} ×"
        )


def without_numba(run: Callable[[int], object]) -> Callable[[int], object]:
    def by_numpy(number: int) -> None:
        compiled, gathering.compiled_loop = gathering.compiled_loop, lambda _: None
        try:
            run(number)
        finally:
            gathering.compiled_loop = compiled

    return by_numpy


def from_memory(shape: tuple[int, ...], size: tuple[int, ...], batch_size: int, rounds: int) -> None:
    """A batch of an image in memory, uint16 to normalized float32, against the same done to as many pixels side by side."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 2**16, shape, np.uint16)
    stack = ArrayStack(image, "YX" if len(shape) == 2 else "ZYX")
    plan = RandomPatching([stack.data_shape], size, n_patches=batch_size * rounds)
    batches = [plan[batch_size * number : batch_size * (number + 1)] for number in range(rounds)]
    sources = [rng.integers(0, 2**16, (batch_size, 1, *size), np.uint16) for _ in range(min(rounds, 32))]
    out = np.empty((batch_size, 1, *size), np.float32)
    extractor = PatchExtractor([stack])

    def extract(number: int) -> None:
        extractor.extract_batch(batches[number], out=out, scale=1 / 300, offset=-0.5)

    def convert(number: int) -> None:
        out[...] = sources[number % len(sources)]

    def convert_and_normalize(number: int) -> None:
        convert(number)
        np.multiply(out, np.float32(1 / 300), out=out)
        np.add(out, np.float32(-0.5), out=out)

    def in_passes(number: int) -> None:
        patches = [
            image[tuple(slice(at, at + n) for at, n in zip(first, size, strict=True))]
            for first in batches[number].columns["coords"].tolist()
        ]
        batch = np.stack(patches).astype(np.float32)
        batch *= 1 / 300
        batch -= 0.5

    runs: dict[str, Callable[[int], object]] = {
        "convert and normalize as many pixels": convert_and_normalize,
        "convert them only": convert,
    }
    if gathering.compiled_loop(gathering.gather_rows) is not None:
        runs["extract_batch, compiled"] = extract
    runs |= {"extract_batch, NumPy": without_numba(extract), "slices, np.stack, astype, normalize": in_passes}
    compare(f"{batch_size} × {size} of {shape} in memory", runs, rounds, "wanted: compiled at most 1.5 ×")


def written(folder: str, shape: tuple[int, ...], chunk: tuple[int, ...]) -> Path:
    path = Path(folder, f"{len(shape)}d.zarr")
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(path)}}
    metadata = {
        "codecs": [{"name": "bytes"}, {"name": "zstd", "configuration": {"level": 3}}],
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(chunk)}},
    }
    store = ts.open({**spec, "metadata": metadata}, create=True, dtype=ts.uint16, shape=shape).result()
    rng = np.random.default_rng(0)
    for start in range(0, shape[0], chunk[0]):
        slab = rng.poisson(100, (min(chunk[0], shape[0] - start), *shape[1:])).astype(np.uint16)
        store[start : start + chunk[0]].write(slab).result()
    return path


def tiled_pass(folder: str, *, quick: bool) -> None:
    """How often a chunk is decoded when tiles that overlap are read in storage order."""
    shape, chunk, size = ((256, 256, 256) if quick else (256, 512, 512)), (64, 64, 64), (64, 64, 64)
    stack = ZarrStack(written(folder, shape, chunk), axes="ZYX")
    tiling = TiledPatching([stack.data_shape], size, (16, 16, 16))
    order = storage_order(tiling[:], stack.chunk_shape)
    n_chunks = int(np.prod([-(-side // step) for side, step in zip(shape, chunk, strict=True)]))
    plane = int(np.prod(sorted(-(-side // 64) for side in shape)[:2])) + 12
    print(
        f"\nTiled pass: {len(tiling)} tiles {size}, overlap 16, {n_chunks} chunks; decodes a chunk  wanted: at most 1.1"
    )
    chunk_bytes = 2 * 64**3
    for name, n_slots in [
        ("memory for all chunks", n_chunks),
        (f"memory for {plane} chunks", plane),
        (f"memory for {plane // 2} chunks", plane // 2),
    ]:
        with ChunkCache(n_slots * chunk_bytes) as cache:
            extractor = PatchExtractor([stack], cache=cache)
            table = tiling.specs(order)
            started = time.perf_counter()
            for start in range(0, len(table), 8):
                extractor.extract_batch(table[start : start + 8])
            seconds = time.perf_counter() - started
            print(f"  {name:<44}{cache.n_decodes / n_chunks:9.2f}      {seconds:6.2f} s")


def raw_futures(path: Path, batches: Sequence[SpecTable], cache_bytes: int) -> Callable[[int], object]:
    """TensorStore by hand, all futures of a batch issued together."""
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(path)}}
    context = ts.Context({"cache_pool": {"total_bytes_limit": cache_bytes}})
    store = ts.open({**spec, "recheck_cached_data": "open"}, context=context).result()
    size = batches[0][0]["patch_size"]
    out = np.empty((len(batches[0]), *size), np.float32)

    def read(number: int) -> None:
        windows = [
            tuple(slice(at, at + n) for at, n in zip(first, size, strict=True))
            for first in batches[number].columns["coords"].tolist()
        ]
        for target, future in zip(out, [store[window].read() for window in windows], strict=True):
            target[...] = future.result()
        out.__imul__(1 / 300)

    return read


def warm_patches(folder: str, shape: tuple[int, ...], size: tuple[int, ...], batch_size: int, rounds: int) -> None:
    """Random patches of an image whose chunks are all decoded already, against TensorStore's own cache."""
    chunk = (256, 256) if len(shape) == 2 else (64, 64, 64)
    path = written(folder, shape, chunk)
    stack = ZarrStack(path, axes="YX" if len(shape) == 2 else "ZYX")
    plan = RandomPatching([stack.data_shape], size, n_patches=batch_size * rounds)
    batches = [plan[batch_size * number : batch_size * (number + 1)] for number in range(rounds)]
    memory = 4 * int(np.prod(shape))
    with ChunkCache(memory) as cache:
        extractor = PatchExtractor([stack], cache=cache)
        extractor.extract_patch(0, 0, (0,) * len(shape), shape)
        out = np.empty((batch_size, 1, *size), np.float32)

        def extract(number: int) -> None:
            extractor.extract_batch(batches[number], out=out, scale=1 / 300, offset=0)

        runs: dict[str, Callable[[int], object]] = {"extract_batch from a warm cache": extract}
        runs["the same, NumPy"] = without_numba(extract)
        runs["TensorStore futures, warm cache"] = raw_futures(path, batches, memory)
        compare(
            f"{batch_size} × {size} at random from {shape}, chunks {chunk}",
            runs,
            rounds,
            "wanted: futures at least 5 × in 2D",
        )


def lateral_context(shape: tuple[int, ...], size: tuple[int, ...], n_scales: int, wanted: str, rounds: int) -> None:
    """Random patches with their surroundings, most of which pass the image's end, against padding and resizing by hand."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 2**16, shape, np.uint16)
    stack = ArrayStack(image, "YX" if len(shape) == 2 else "ZYX")
    plan = RandomPatching([stack.data_shape], size, n_patches=8 * rounds)
    extractor = PatchExtractor([stack], "reflect")
    batches = [plan[8 * number : 8 * (number + 1)] for number in range(rounds)]
    wide = [context_windows(batch, n_scales) for batch in batches]
    out = np.empty((8, 1, *wide[0][0]["patch_size"]), np.uint16)

    runs: dict[str, Callable[[int], object]] = {
        "read the widest windows": lambda number: extractor.extract_batch(wide[number], out=out),
        "all scales, mean": lambda number: extract_lateral_context(extractor, batches[number], n_scales),
        "all scales, resize": lambda number: extract_lateral_context(
            extractor, batches[number], n_scales, downscale="resize"
        ),
    }
    runs["all scales, mean, NumPy"] = without_numba(runs["all scales, mean"])
    compare(f"8 × {size}, {n_scales} scales, of {shape} in memory", runs, rounds, f"wanted: mean under {wanted} for 8")


def by_skimage(size: tuple[int, ...], n_scales: int) -> None:
    """What resizing every scale of a window costs with scikit-image, where it is installed."""
    try:
        transform = importlib.import_module("skimage.transform")
    except ImportError:
        return
    widest = [side << (n_scales - 1) for side in size]
    window = np.random.default_rng(0).random(widest, np.float32)
    started = time.perf_counter()
    for scale in range(n_scales):
        inner = tuple(
            slice((whole - (side << scale)) // 2, (whole + (side << scale)) // 2)
            for whole, side in zip(widest, size, strict=True)
        )
        transform.resize(window[inner], size)
    print(f"  {'one patch by skimage.transform.resize':<44} {(time.perf_counter() - started) * 1e3:9.3f} ms")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="smaller images, fewer rounds")
    quick = parser.parse_args().quick
    rounds = 20 if quick else 100
    for side in (1024, 2048) if quick else (600, 1024, 2048, 8192):
        from_memory((side, side), (64, 64), 256, rounds)
    from_memory((128, 256, 256), (64, 64, 64), 16, rounds // 2)
    for shape, size, n_scales, wanted in (
        ((2048, 2048), (64, 64), 4, "4 ms"),
        ((64, 512, 512), (16, 64, 64), 3, "80 ms"),
    ):
        lateral_context(shape, size, n_scales, wanted, 10 if quick else 40)
        by_skimage(size, n_scales)
    with tempfile.TemporaryDirectory() as folder:
        tiled_pass(folder, quick=quick)
    with tempfile.TemporaryDirectory() as folder:
        warm_patches(folder, (2048, 2048), (64, 64), 256, rounds)
        warm_patches(folder, (128, 256, 256), (64, 64, 64), 16, rounds // 2)


if __name__ == "__main__":
    main()
