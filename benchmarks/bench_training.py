"""Feeding a network, against floors and PyTorch's own loader, side by side in one process; medians of ratios.

`python benchmarks/bench_training.py [--quick]`. Needs the extra `torch`; the extra `speed` is measured where it is installed.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import tensorstore as ts
from torch.utils.data import DataLoader, default_collate

from patchloom.extraction import ChunkPool
from patchloom.image_stacks import ArrayStack, ZarrStack
from patchloom.patching import RandomPatching
from patchloom.torch import EpochSampler, LocalitySampler, PatchDataset, PatchLoader, collate
from patchloom.torch.recycled_memory import RecycledMemory

STEP = 0.03


@dataclass
class Normalisation:
    scale: float = 1 / 300
    offset: float = -0.5


def say(name: str, *columns: str) -> None:
    print(f"  {name:<58}" + "".join(f"{column:>16}" for column in columns), flush=True)


def spent(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def dataset_in_memory(shape: tuple[int, ...], size: tuple[int, ...], n_patches: int) -> PatchDataset:
    image = np.random.default_rng(0).integers(0, 2**16, shape, np.uint16)
    stack = ArrayStack(image, "ZYX"[-len(shape) :])
    plan = RandomPatching([stack.data_shape], size, n_patches=n_patches, seed=1)
    return PatchDataset([stack], plan, normalisation=Normalisation())


def whole_batches(rounds: int) -> None:
    """64² and 64³ uint16 → float32, normalised: a batch with its specifications, against converting as many pixels."""
    print(
        "\nA batch from memory, uint16 → float32 normalised, specifications and collation included (× a contiguous convert)"
    )
    for shape, size, batch_size in (((2048, 2048), (64, 64), 256), ((256, 256, 256), (64, 64, 64), 16)):
        dataset = dataset_in_memory(shape, size, batch_size * rounds)
        rng = np.random.default_rng(1)
        side_by_side = [rng.integers(0, 2**16, (batch_size, 1, *size), np.uint16) for _ in range(32)]
        out = np.empty((batch_size, 1, *size), np.float32)
        runs = EpochSampler(dataset).key_runs(batch_size, drop_last=True)
        memory = RecycledMemory(keep=2)
        batches = itertools.chain.from_iterable(dataset.read_batches(run, batch_size, memory) for run in runs)
        next(batches)
        ratios, times = [], []
        for pixels in itertools.islice(itertools.cycle(side_by_side), rounds - 1):
            times.append(spent(partial(next, batches)))
            ratios.append(times[-1] / spent(partial(np.copyto, out, pixels)))
        milliseconds = statistics.median(times) * 1e3
        say(f"{batch_size} × {size}", f"{milliseconds:.3f} ms", f"{statistics.median(ratios):.2f} ×")


def stalls(rounds: int) -> None:
    """How long a network that takes 30 ms a batch waits for the next one."""
    print(f"\nStall per batch with a step of {STEP * 1e3:.0f} ms (median, mean), from memory")
    for shape, size, batch_size in (((2048, 2048), (64, 64), 256), ((256, 256, 256), (64, 64, 64), 16)):
        dataset = dataset_in_memory(shape, size, batch_size * rounds)
        sampler = EpochSampler(dataset)
        with PatchLoader(dataset, batch_size, sampler=sampler) as loader:
            waits = waiting(loader)
        say(f"{batch_size} × {size}: PatchLoader", *waits)
        for n_workers in (0, 2):
            options = {"multiprocessing_context": "forkserver"} if n_workers else {}
            by_batch = DataLoader(
                dataset, batch_size, sampler=sampler, collate_fn=collate, num_workers=n_workers, **options
            )
            say(f"{batch_size} × {size}: DataLoader, {n_workers} workers", *waiting(by_batch))


def waiting(loader: Iterable[object]) -> tuple[str, str]:
    waits, batches = [], iter(loader)
    for number in itertools.count():
        started = time.perf_counter()
        if next(batches, None) is None:
            break
        if number:  # the first one is not prepared while the network computes
            waits.append(time.perf_counter() - started)
        time.sleep(STEP)
    return f"{statistics.median(waits) * 1e3:.2f} ms", f"{statistics.mean(waits) * 1e3:.2f} ms"


def from_zarr(side: int, n_patches: int, rounds: int) -> None:
    """Random 64³ patches of a compressed Zarr in batches of 32, against TensorStore with each batch's futures together."""
    cache = 128 << 20
    print(f"\nRandom 64³ patches of a {side}³ uint16 Zarr (64³ chunks, zstd), batch 32 (patches/s, × the first)")
    with tempfile.TemporaryDirectory() as folder, ChunkPool(cache) as pool:
        path = Path(folder, "volume.zarr", "image")
        write_volume(path, side)
        stack = ZarrStack(path, "ZYX")
        plan = RandomPatching([stack.data_shape], (64, 64, 64), n_patches=n_patches, seed=1)
        plain, pooled = PatchDataset([stack], plan), PatchDataset([stack], plan, pool=pool)
        anywhere, local = EpochSampler(plan, seed=2), LocalitySampler(plan, [stack.chunk_shape], seed=2)
        few = n_patches // 10  # of what takes long and is the same all along
        runs = {
            "TensorStore, futures of a batch together": raw_loop(path, plan, few, cache=0),
            "TensorStore, the same, a cache of 128 MiB": raw_loop(path, plan, few, cache=cache),
            "PatchLoader": partial(loader_rate, plain, anywhere, few),
            "PatchLoader, a pool of 128 MiB": partial(loader_rate, pooled, anywhere, few),
            "PatchLoader, LocalitySampler": partial(loader_rate, plain, local, n_patches),
            "PatchLoader, LocalitySampler, a pool of 128 MiB": partial(loader_rate, pooled, local, n_patches),
        }
        if find_spec("careamics"):
            for n_workers in (0, 2):
                runs[f"CAREamics' dataset, DataLoader, {n_workers} workers"] = partial(careamics_rate, path, n_workers)
        rates: dict[str, list[float]] = {name: [] for name in runs}
        for _ in range(rounds):
            for name, run in runs.items():
                rates[name].append(run())
        floor = rates[next(iter(rates))]
        for name, own in rates.items():
            ratio = statistics.median(one / other for one, other in zip(own, floor, strict=True))
            say(name, f"{statistics.median(own):.0f} /s", f"{ratio:.2f} ×")


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


def raw_loop(path: Path, plan: RandomPatching, n_patches: int, cache: int) -> Callable[[], float]:
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(path)}}
    context = ts.Context({"cache_pool": {"total_bytes_limit": cache}})
    store = ts.open(spec, open=True, context=context).result()
    batch = np.empty((32, 64, 64, 64), np.float32)

    def run() -> None:
        for start in range(0, n_patches, 32):
            coords = plan.specs(range(start, min(start + 32, n_patches))).columns["coords"].tolist()
            reads = [store[z : z + 64, y : y + 64, x : x + 64].read() for z, y, x in coords]
            for patch, read in zip(batch, reads, strict=False):
                patch[...] = read.result()

    return lambda: n_patches / spent(run)


def loader_rate(dataset: PatchDataset, sampler: EpochSampler, n_patches: int) -> float:
    def run() -> None:
        with PatchLoader(dataset, 32, sampler=sampler) as loader:
            for _ in itertools.islice(loader, n_patches // 32):
                pass

    return n_patches // 32 * 32 / spent(run)


def careamics_rate(path: Path, n_workers: int) -> float:
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
    return len(dataset) / spent(lambda: [None for _ in loader])


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--quick", action="store_true", help="fewer rounds, for a glance")
    quick = arguments.parse_args().quick
    whole_batches(20 if quick else 200)
    stalls(10 if quick else 60)
    from_zarr(*(192, 640, 1) if quick else (512, 20_000, 5))


if __name__ == "__main__":
    main()
