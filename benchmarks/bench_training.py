"""Feeding a network: every claim of speed as a line of one table, what is wanted beside what is seen.

`python benchmarks/bench_training.py [--quick]`. Needs the extra `torch`. What the extra `speed` compiles is measured where numba is
installed, beside NumPy; CAREamics 0.3 where it is installed. Ratios are of runs that take turns in one process, and medians
over rounds; so they hold on a busy machine too, where no absolute time does.

Floors. *Convert*: `numpy.copyto(out, pixels)` from `uint16` to an array of `float32` that is there already, of as many pixels of
the same image, side by side in memory. *Convert and normalize*: the same and `out *= scale; out += offset`. *TensorStore*: a loop
that issues the reads of a batch together, without a cache.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore as ts
from torch.utils.data import DataLoader, default_collate

from patchloom.extraction import ChunkCache, PatchExtractor, extract_lateral_context
from patchloom.image_stacks import ArrayStack, ZarrStack
from patchloom.patching import RandomPatching
from patchloom.torch import EpochSampler, LocalitySampler, PatchDataset, PatchLoader, collate
from patchloom.torch.tensor_memory import RecycledMemory

STEP = 0.03
BATCHES_A_ROUND = 64
CONVERTS_A_BATCH = 2
SHAPES_2D = ((2048, 2048), (64, 64), 256)
SHAPES_3D = ((256, 256, 256), (64, 64, 64), 16)
gathering: Any = import_module("patchloom.extraction.gather")

Times = dict[str, list[float]]


@dataclass
class Normalization:
    scale: float = 1 / 300
    offset: float = -0.5


@dataclass
class Line:
    """One row of the table."""

    what: str
    seen: str
    wanted: str = ""


def in_turns(runs: dict[str, Callable[[], object]], rounds: int) -> Times:
    """Time runs, one after the other, round after round; the first round warms up."""
    times: Times = {name: [] for name in runs}
    for number in range(rounds + 1):
        print(f"  round {number} of {rounds}: {', '.join(runs)}"[:110], file=sys.stderr)
        for name, run in runs.items():
            started = time.perf_counter()
            run()
            if number:
                times[name].append(time.perf_counter() - started)
    return times


def ratio(times: Times, name: str, floor: str) -> float:
    return statistics.median(own / other for own, other in zip(times[name], times[floor], strict=True))


def without_numba(run: Callable[[], object]) -> None:
    compiled, gathering.compiled_loop = gathering.compiled_loop, lambda _: None
    try:
        run()
    finally:
        gathering.compiled_loop = compiled


def dataset_in_memory(shape: tuple[int, ...], size: tuple[int, ...], n_patches: int) -> PatchDataset:
    image = np.random.default_rng(0).integers(0, 2**16, shape, np.uint16)
    stack = ArrayStack(image, "ZYX"[-len(shape) :])
    plan = RandomPatching([stack.data_shape], size, n_patches=n_patches, seed=1)
    return PatchDataset([stack], plan, normalization=Normalization())


def batches_from_memory(shape: tuple[int, ...], size: tuple[int, ...], batch_size: int, rounds: int) -> Iterator[Line]:
    """Batches with specifications, collated, against converting as many pixels."""
    dataset = dataset_in_memory(shape, size, batch_size * BATCHES_A_ROUND * (rounds + 1))
    loader = PatchLoader(dataset, batch_size, shuffle=True)
    batches = {name: read_batches(dataset, batch_size) for name in ("dataset, NumPy", "dataset, compiled")}

    def take(some: Iterator[object]) -> None:
        for _ in itertools.islice(some, BATCHES_A_ROUND):
            pass

    runs = converts(dataset.image_stacks[0].array, batch_size * int(np.prod(size)))  # type: ignore[attr-defined]  # an ArrayStack
    runs["dataset, NumPy"] = lambda: without_numba(partial(take, batches["dataset, NumPy"]))
    if find_spec("numba"):
        runs["dataset, compiled"] = partial(take, batches["dataset, compiled"])
        runs["PatchLoader, compiled"] = partial(take, iter(loader))
    with loader:
        times = in_turns(runs, rounds)
    floors = list(runs)[:2]
    times |= {name: [own / CONVERTS_A_BATCH for own in times[name]] for name in floors}
    what = f"{batch_size} × {'×'.join(map(str, size))} of {shape[-1]}{'²³'[len(shape) - 2]} in memory: "
    for name in list(runs)[2:]:
        seen = " / ".join(f"{ratio(times, name, floor):.2f}" for floor in floors)
        wanted = "1.5 at most" if name == "dataset, compiled" and len(shape) == 2 else ""
        yield Line(f"{what}{name}, × convert / × convert and normalize", seen, wanted)
    milliseconds = [f"{statistics.median(own) / BATCHES_A_ROUND * 1e3:.3f}" for own in times.values()]
    yield Line(f"{what}the floors, and a batch in the order above", " / ".join(milliseconds) + " ms")


def read_batches(dataset: PatchDataset, batch_size: int) -> Iterator[object]:
    memory = RecycledMemory(keep=2)
    for keys in EpochSampler(dataset).key_runs(batch_size, drop_last=True):
        yield from dataset.read_batches(keys, batch_size, memory)


def converts(image: np.ndarray, voxels: int) -> dict[str, Callable[[], object]]:
    """Give the two floors; each takes about as long as the batches, so that other work on the machine delays both alike."""
    pixels = image.reshape(-1)
    parts = [pixels[start : start + voxels] for start in range(0, len(pixels), voxels)]
    out = np.empty(voxels, np.float32)

    def run(*, normalize: bool) -> None:
        for part in itertools.islice(itertools.cycle(parts), BATCHES_A_ROUND * CONVERTS_A_BATCH):
            np.copyto(out, part)
            if normalize:
                np.multiply(out, np.float32(1 / 300), out=out)
                np.add(out, np.float32(-0.5), out=out)

    return {"convert": partial(run, normalize=False), "convert and normalize": partial(run, normalize=True)}


def stalls(shape: tuple[int, ...], size: tuple[int, ...], batch_size: int, n_batches: int) -> Iterator[Line]:
    """How long a network that takes 30 ms a batch waits for the next one."""
    dataset = dataset_in_memory(shape, size, batch_size * n_batches)
    sampler = EpochSampler(dataset)
    what = f"stall a batch, {batch_size} × {'×'.join(map(str, size))}, step of {STEP * 1e3:.0f} ms: "
    with PatchLoader(dataset, batch_size, sampler=sampler) as loader:
        yield Line(f"{what}PatchLoader, median / mean", waiting(loader), "1 ms at most")
    for n_workers in (0, 2):
        options = {"multiprocessing_context": "forkserver"} if n_workers else {}
        by_batch = DataLoader(
            dataset, batch_size, sampler=sampler, collate_fn=collate, num_workers=n_workers, **options
        )
        yield Line(f"{what}DataLoader, {n_workers} workers", waiting(by_batch))


def waiting(loader: Iterable[object]) -> str:
    waits, batches = [], iter(loader)
    for number in itertools.count():
        started = time.perf_counter()
        if next(batches, None) is None:
            break
        if number:  # the first one is not prepared while the network computes
            waits.append(time.perf_counter() - started)
        time.sleep(STEP)
    return f"{statistics.median(waits) * 1e3:.2f} / {statistics.mean(waits) * 1e3:.2f} ms"


def lateral_context(
    shape: tuple[int, ...], size: tuple[int, ...], n_scales: int, wanted: str, rounds: int
) -> Iterator[Line]:
    stack = ArrayStack(np.random.default_rng(0).integers(0, 2**16, shape, np.uint16), "ZYX"[-len(shape) :])
    plan = RandomPatching([stack.data_shape], size, n_patches=8 * (rounds + 1), seed=1)
    extractor = PatchExtractor([stack], "reflect")
    starts = {name: itertools.count(0, 8) for name in ("mean", "resize")}

    def extract(downscale: Any) -> None:
        start = next(starts[downscale])
        extract_lateral_context(extractor, plan[start : start + 8], n_scales, downscale=downscale)

    times = in_turns({name: partial(extract, name) for name in starts}, rounds)
    seen = " / ".join(f"{statistics.median(own) / 8 * 1e3:.2f}" for own in times.values())
    yield Line(f"{'×'.join(map(str, size))} at {n_scales} scales: a patch, mean / resize", f"{seen} ms", wanted)


def from_zarr(side: int, n_patches: int, rounds: int) -> Iterator[Line]:
    """Random 64³ patches of a compressed Zarr in batches of 32; patches a second.

    All caches, and the caches of the loops that we are compared with, are empty at the start of a round. What the stack itself
    keeps in TensorStore's cache, where nothing else does, stays.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "volume.zarr", "image")
        write_volume(path, side)
        stack = ZarrStack(path, "ZYX")
        plan = RandomPatching([stack.data_shape], (64, 64, 64), n_patches=n_patches, seed=1)
        anywhere, local = EpochSampler(plan, seed=2), LocalitySampler(plan, [stack.chunk_shape], seed=2)
        load = partial(load_patches, stack, plan)
        few, many = n_patches // 40 // 32 * 32, n_patches // rounds // 32 * 32  # few of what takes long
        counts: dict[str, tuple[Callable[..., None], int]] = {
            "TensorStore": (raw_loop(path, plan, cache=0), few),
            "TensorStore, its cache as large": (raw_loop(path, plan, cache=ChunkCache().max_bytes), many),
            "PatchLoader": (partial(load, anywhere, None), many),
            "PatchLoader, LocalitySampler": (partial(load, local, None), many),
            "PatchLoader, cache for half of the image": (partial(load, anywhere, ChunkCache(side**3)), few),
            "PatchLoader, cache for half of the image, LocalitySampler": (
                partial(load, local, ChunkCache(side**3)),
                many,
            ),
            "PatchLoader, cache for an eighth of the image": (partial(load, anywhere, ChunkCache(side**3 // 4)), few),
            "PatchLoader without a cache": (partial(load, anywhere, ChunkCache(1)), few),
            "PatchLoader without a cache, LocalitySampler": (partial(load, local, ChunkCache(1)), many),
        }
        if find_spec("careamics"):
            for n_workers in (0, 2):
                one_epoch = (side // 64) ** 3
                counts[f"CAREamics, {n_workers} workers"] = (careamics_epoch(path, n_workers), one_epoch)
        times = in_turns({name: partial(run, count) for name, (run, count) in counts.items()}, rounds)
        a_patch = {name: [own / counts[name][1] for own in times[name]] for name in times}
    wanted = {"PatchLoader": "1 at least", "PatchLoader, LocalitySampler": "5 at least"}
    floors = [name for name in a_patch if name.startswith(("TensorStore", "CAREamics"))]
    for name in a_patch:
        if name not in floors:
            seen = " / ".join(f"{1 / ratio(a_patch, name, floor):.2f}" for floor in floors)
            against = " / ".join(f"× {floor}" for floor in floors)
            aim = wanted.get(name, "") + (" / / 10 / 10 at least" if len(floors) > 2 and name in wanted else "")
            yield Line(f"64³ of {side}³ in Zarr, random: {name}, {against}", seen, aim)
    seen = " / ".join(f"{1 / statistics.median(own):.0f}" for own in a_patch.values())
    yield Line("patches a second, in the order above, TensorStore twice and first", seen)


def write_volume(path: Path, side: int) -> None:
    """Write smooth structures under noise, which compress about as images do, in a group."""
    path.parent.mkdir()
    (path.parent / "zarr.json").write_text('{"zarr_format": 3, "node_type": "group", "attributes": {}}')
    store = ts.open(
        {
            "driver": "zarr3",
            "kvstore": {"driver": "file", "path": str(path)},
            "metadata": {
                "shape": [side] * 3,
                "data_type": "uint16",
                "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [64] * 3}},
                "codecs": [
                    {"name": "bytes", "configuration": {"endian": "little"}},
                    {"name": "zstd", "configuration": {"level": 3}},
                ],
            },
        },
        create=True,
    ).result()
    rng = np.random.default_rng(0)
    z, y, x = (np.sin(np.arange(side) / 17 + phase) for phase in range(3))
    for start in range(0, side, 64):
        smooth = 900 + 400 * z[start : start + 64, None, None] * y[:, None] * x
        store[start : start + 64] = rng.poisson(smooth).astype(np.uint16)


def raw_loop(path: Path, plan: RandomPatching, cache: int) -> Callable[[int], None]:
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(path)}}
    batch = np.empty((32, 64, 64, 64), np.float32)

    def run(n_patches: int) -> None:
        context = ts.Context({"cache_pool": {"total_bytes_limit": cache}})
        store = ts.open(spec, open=True, context=context).result()
        for start in range(0, n_patches, 32):
            coords = plan.specs(range(start, start + 32)).columns["coords"].tolist()
            reads = [store[z : z + 64, y : y + 64, x : x + 64].read() for z, y, x in coords]
            for patch, read in zip(batch, reads, strict=True):
                patch[...] = read.result()

    return run


def load_patches(
    stack: ZarrStack, plan: RandomPatching, sampler: EpochSampler, cache: ChunkCache | None, n_patches: int
) -> None:
    dataset = PatchDataset([stack], plan, cache=copy.copy(cache))  # a copy is empty
    with PatchLoader(dataset, 32, sampler=sampler) as loader:
        for _ in itertools.islice(loader, n_patches // 32):
            pass


def careamics_epoch(path: Path, n_workers: int) -> Callable[[int], None]:
    """One epoch of CAREamics 0.3, which counts its patches itself."""
    factory = import_module("careamics.dataset.factory.factory")
    config = import_module("careamics.config.data.data_config").DataConfig(
        mode="training",
        data_type="zarr",
        axes="ZYX",
        patching={"name": "random", "patch_size": [64, 64, 64]},
        normalization={"name": "mean_std", "input_means": [900.0], "input_stds": [300.0]},
        augmentations=[],
        in_memory=False,
    )
    data = factory.TrainValData(train_data=[path.as_uri()], val_data=[path.as_uri()])
    dataset = factory.create_train_dataset(config, data, None)
    loader = DataLoader(dataset, 32, num_workers=n_workers, collate_fn=default_collate)

    def run(n_patches: int) -> None:
        assert len(dataset) == n_patches
        for _ in loader:
            pass

    return run


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--quick", action="store_true", help="fewer rounds and a smaller volume, for a glance")
    quick = arguments.parse_args().quick
    rounds = 4 if quick else 15
    lines = [
        *batches_from_memory(*SHAPES_2D, rounds),
        *batches_from_memory(*SHAPES_3D, rounds),
        *stalls(*SHAPES_2D, 10 if quick else 60),
        *stalls(*SHAPES_3D, 10 if quick else 60),
        *lateral_context((64, 512, 512), (16, 64, 64), 3, "10 ms at most", rounds),
        *lateral_context((2048, 2048), (64, 64), 4, "0.5 ms at most", rounds),
        *from_zarr(*(192, 1280, 2) if quick else (512, 20_000, 5)),
    ]
    print(f"\n{'seen':>34}   {'wanted':<28} what")
    for line in lines:
        print(f"{line.seen:>34}   {line.wanted:<28} {line.what}")


if __name__ == "__main__":
    main()
