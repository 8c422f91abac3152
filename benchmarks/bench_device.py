"""Prediction on a GPU against the best loop that a user would write, in one process; medians of ratios.

`python benchmarks/bench_device.py [--quick] [--device cpu]`. The loop keeps the whole image and the whole result on the GPU: it copies
the image there once, cuts tiles with slices, blends them there, and copies the result back once. Patchloom needs memory for a
few blocks only. "Busy" is the time of the network alone, on batches that are on the GPU already, as a share of the whole run.
"""

from __future__ import annotations

import argparse
import itertools
import shutil
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

import patchloom as pl
from patchloom.patching import TiledPatching


class UNet(nn.Module):
    """A plain U-Net in 2D or 3D: two convolutions a level, pooling, nearest upsampling."""

    def __init__(self, n_dims: int, width: int, depth: int, n_out: int = 1) -> None:
        super().__init__()
        conv = nn.Conv2d if n_dims == 2 else nn.Conv3d
        widths = [width * 2**level for level in range(depth)]

        def block(n_in: int, n: int) -> nn.Sequential:
            return nn.Sequential(conv(n_in, n, 3, padding=1), nn.ReLU(), conv(n, n, 3, padding=1), nn.ReLU())

        self.down = nn.ModuleList(map(block, [1, *widths[:-1]], widths))
        self.up = nn.ModuleList(block(below + own, own) for own, below in itertools.pairwise(widths))
        self.last = conv(width, n_out, 1)
        self.pool = nn.MaxPool2d(2) if n_dims == 2 else nn.MaxPool3d(2)

    def forward(self, x: Any) -> Any:
        levels = []
        for number, block in enumerate(self.down):
            x = block(x if not number else self.pool(x))
            levels.append(x)
        for block, level in zip(reversed(self.up), reversed(levels[:-1]), strict=True):
            x = block(torch.cat([nn.functional.interpolate(x, scale_factor=2), level], dim=1))
        return self.last(x)


class Case(NamedTuple):
    """One image and one network."""

    title: str
    n_dims: int
    size: int
    patch: int
    overlap: int
    batch: int
    width: int
    depth: int


def hann(size: int) -> Any:
    profile = torch.from_numpy(np.sin(np.pi * (np.arange(size) + 0.5) / size) ** 2).float()
    return profile.clamp_min(1e-3)


def hand_written(case: Case, network: nn.Module, image: np.ndarray, device: Any, precision: str) -> np.ndarray:
    """The best loop that a user would write: everything on the device."""
    spaces = (case.size,) * case.n_dims
    tiling = TiledPatching([(1, 1, *spaces)], (case.patch,) * case.n_dims, (case.overlap,) * case.n_dims)
    weights = torch.ones((), device=device)
    for _ in range(case.n_dims):
        weights = weights[..., None] * hann(case.patch).to(device)
    on_device = torch.from_numpy(image).to(device)
    total, weight = torch.zeros(spaces, device=device), torch.zeros(spaces, device=device)
    boxes = [tuple(slice(at, at + case.patch) for at in spec["coords"]) for spec in tiling]
    autocast = nullcontext() if precision == "float32" else torch.autocast(device.type, getattr(torch, precision))
    with torch.inference_mode(), autocast:
        for start in range(0, len(boxes), case.batch):
            part = boxes[start : start + case.batch]
            batch = torch.stack([on_device[box] for box in part])[:, None]
            if case.n_dims == 2 and precision != "float32":
                batch = batch.contiguous(memory_format=torch.channels_last)
            predicted = network(batch)[:, 0].float()
            for box, tile in zip(part, predicted, strict=True):
                total[box] += tile * weights
                weight[box] += weights
        return (total / weight).cpu().numpy()


def network_alone(case: Case, network: nn.Module, n_tiles: int, device: Any, precision: str) -> float:
    """Seconds of the network on all batches, which are on the device already."""
    model = pl.TorchModel(network).on(str(device), None if precision == "float32" else precision)
    batch = torch.rand((case.batch, 1, *(case.patch,) * case.n_dims), device=device)
    model(batch)
    n_batches = 3
    return seconds_of(lambda: [model(batch) for _ in range(n_batches)]) / n_batches * n_tiles / case.batch


def seconds_of(run: Callable[[], Any]) -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    began = time.perf_counter()
    run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began


def measure(case: Case, device: Any, precision: str, repeats: int, folder: Path) -> None:
    torch.manual_seed(0)
    network = UNet(case.n_dims, case.width, case.depth).eval().to(device)
    image = np.random.default_rng(0).random((case.size,) * case.n_dims, dtype=np.float32)
    options: dict[str, Any] = {
        "axes": "ZYX"[-case.n_dims :],
        "patch_size": case.patch,
        "overlaps": case.overlap,
        "batch_size": case.batch,
        "blend": "hann",
        "progress": False,
        "device": str(device),
    }
    if precision != "float32":
        options["precision"] = precision

    def to_zarr() -> None:
        output = pl.OmeZarr(folder / "out.ome.zarr", pyramid=None)
        pl.predict(network, image, output, overwrite=True, **options)

    runs: dict[str, Callable[[], Any]] = {
        "hand-written": lambda: hand_written(case, network, image, device, precision),
        "into an array": lambda: pl.predict(network, image, **options),
        "cropped": lambda: pl.predict(network, image, **options | {"blend": None}),
        "into OME-Zarr": to_zarr,
    }
    found = {name: run() for name, run in list(runs.items())[:2]}
    largest = float(np.abs(found["hand-written"] - found["into an array"]).max())
    n_tiles = pl.plan(image, **{name: value for name, value in options.items() if name not in _OF_RUNS}).n_tiles
    times: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(repeats):
        for name, run in runs.items():
            if name != "into OME-Zarr" or not number:  # the storage is slower than all else
                times[name].append(seconds_of(run))
    alone = network_alone(case, network, n_tiles, device, precision)
    first = statistics.median(times["hand-written"])
    print(
        f"\n{case.title}, {precision}: {n_tiles} tiles of {case.patch}, batch {case.batch}; network alone {alone:.3f} s"
    )
    for name, seconds in times.items():
        median = statistics.median(seconds)
        print(f"  {name:<16} {median:7.3f} s  {median / first:5.2f} × hand-written, busy {alone / median:4.0%}")
    print(f"  largest difference to hand-written: {largest:.1e}", flush=True)
    shutil.rmtree(folder / "out.ome.zarr", ignore_errors=True)


_OF_RUNS = {"device", "precision", "progress"}


def out_of_memory(device: Any) -> None:
    """A batch that does not fit into a sixteenth of the memory of the GPU."""
    if device.type != "cuda":
        return
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(1 / 16)
    network = UNet(2, 32, 4).eval().to(device)
    image = np.random.default_rng(0).random((4096, 4096), dtype=np.float32)
    options: dict[str, Any] = {"axes": "YX", "patch_size": 1024, "overlaps": 64, "progress": False, "device": "cuda:0"}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        seconds = seconds_of(lambda: pl.predict(network, image, batch_size=64, **options))
    print(f"\nout of memory: {seconds:.2f} s, {len(caught)} warnings")
    for warning in caught:
        print(f"  {warning.message}")
    torch.cuda.set_per_process_memory_fraction(1.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small images, once")
    parser.add_argument("--device", default="cuda:0" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    if arguments.quick or device.type == "cpu":
        cases = [
            Case("2D U-Net, 512²", 2, 512, 128, 32, 4, 4, 3),
            Case("3D U-Net, 48³", 3, 48, 24, 8, 2, 4, 2),
        ]
        precisions, repeats = ["float32", "bfloat16"], 1
    else:
        cases = [
            Case("2D U-Net, 8192²", 2, 8192, 512, 64, 16, 32, 4),
            Case("3D U-Net, 384³", 3, 384, 96, 24, 4, 32, 3),
        ]
        precisions, repeats = ["float32", "bfloat16", "float16"], 3
        print(torch.cuda.get_device_name(device), "PyTorch", torch.__version__)
    with tempfile.TemporaryDirectory() as name:
        for case in cases:
            for precision in precisions:
                measure(case, device, precision, repeats, Path(name))
    out_of_memory(device)


if __name__ == "__main__":
    main()
