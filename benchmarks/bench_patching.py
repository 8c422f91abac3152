"""How much plans of patches cost: to build, to keep, and to ask.

Prints what `python benchmarks/bench_patching.py` measures beside what is wanted. Where CAREamics is installed its
strategies are measured in the same run (`--all`: with a million cells too, which takes it minutes).
"""

from __future__ import annotations

import argparse
import importlib
import pickle
import timeit
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np

from patchloom.patching import (
    FixedRandomPatching,
    RandomPatching,
    StratifiedPatching,
    TiledPatching,
    UncorrelatedPatching,
    WeightedPatching,
    split_training_validation,
)

MILLION = [(1, 1, 16_000, 16_000)]  # a million patches of 16²
CELLS = {10**5: [(1, 1, 5056, 5072)], 10**6: MILLION}  # 316 × 317 and 1000 × 1000
PATCH = (16, 16)


def seconds(action: Callable[[], object], repeat: int = 5, number: int = 1) -> float:
    """Time of one call, the best of some."""
    return min(timeit.repeat(action, number=number, repeat=repeat)) / number


def build(make: Callable[[], Any]) -> tuple[float, int]:
    """Time to make a plan and ask for its length, and the most memory held meanwhile."""
    duration = seconds(lambda: make().n_patches, repeat=3)
    tracemalloc.start()
    plan = make()
    assert plan.n_patches
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return duration, peak


def one_spec(plan: Any) -> float:
    """Time of one specification amid the plan."""
    return seconds(lambda: plan.get_patch_spec(plan.n_patches // 2), repeat=50, number=100)


def per_second(plan: Any, count: int = 10**6) -> float:
    """Specifications a second, asked for together and in no order."""
    indices = np.random.default_rng(0).integers(0, plan.n_patches, count)
    return count / seconds(lambda: plan.specs(indices))


def grid_cells(cells: int, share: int = 10) -> list[tuple[int, ...]]:
    """A share of the cells of a plan of that many, at random."""
    grid = tuple(size // side for size, side in zip(CELLS[cells][0][2:], PATCH, strict=True))
    chosen = np.random.default_rng(0).permutation(np.prod(grid))[: cells // share]
    return list(zip(*(column.tolist() for column in np.unravel_index(chosen, grid)), strict=True))


def excluding(plan: Any, cells: int) -> Any:
    """The plan without a tenth of its cells."""
    plan.exclude_patches(0, 0, grid_cells(cells))
    return plan


def row(name: str, wanted: str, ours: str, theirs: str = "") -> None:
    print(f"{name:<58} {wanted:>22} {ours:>22} {theirs:>22}".rstrip())


def time_and_memory(measured: tuple[float, int]) -> str:
    duration, peak = measured
    return f"{duration * 1e3:.2f} ms, {peak / 2**20:.2f} MiB"


def careamics(module: str, name: str) -> Any:
    """A strategy of CAREamics, where it is installed."""
    try:
        return getattr(importlib.import_module(f"careamics.dataset.patching.{module}"), name)
    except ImportError:
        return None


def bench_trillion_tiles() -> None:
    """A petavoxel image: a plan of it is made at once, and answers anywhere."""
    shapes = [(1, 1, 10**6, 10**6, 10**6)]
    made = build(lambda: TiledPatching(shapes, (128,) * 3, (32,) * 3))
    row("tiled, 1.1·10¹²: build", "< 1 ms, < 1 MiB", time_and_memory(made))
    plan = TiledPatching(shapes, (128,) * 3, (32,) * 3)
    row("tiled, 1.1·10¹²: one spec", "< 10 µs", f"{one_spec(plan) * 1e6:.1f} µs")
    row("tiled, 1.1·10¹²: specs(range(10⁶))", "< 0.5 s", f"{10**6 / per_second(plan):.2f} s")


def bench_arithmetic_plans() -> None:
    theirs = careamics("tiled_patching", "TiledPatching")
    row(
        "tiled, 10⁶: build",
        "≤ 1 ms, ≤ 1 MiB",
        time_and_memory(build(lambda: TiledPatching(MILLION, PATCH, (0, 0)))),
        (theirs and time_and_memory(build(lambda: theirs(MILLION, PATCH, (0, 0))))) or "",
    )
    fixed = careamics("random_patching", "FixedRandomPatching")
    row(
        "fixed random, 10⁶: build",
        "≤ 1 ms, ≤ 1 MiB",
        time_and_memory(build(lambda: FixedRandomPatching(MILLION, PATCH, 1))),
        (fixed and time_and_memory(build(lambda: fixed(MILLION, PATCH, 1)))) or "",
    )


def bench_stratified(cells: int, *, compare: bool) -> None:
    theirs = careamics("stratified_patching", "StratifiedPatching") if compare else None
    shapes, wanted = CELLS[cells], "0.2 s" if cells == 10**5 else "2 s"
    names = {
        "": lambda make: make(shapes, PATCH, 1),
        ", a tenth excluded": lambda make: excluding(make(shapes, PATCH, 1), cells),
    }
    for name, plan_of in names.items():
        row(
            f"stratified, {cells:.0e} cells{name}: build",
            f"≤ {wanted}, ≤ {cells * 100 / 2**20:.1f} MiB",
            time_and_memory(build(lambda plan_of=plan_of: plan_of(StratifiedPatching))),
            (theirs and not name and time_and_memory(build(lambda plan_of=plan_of: plan_of(theirs)))) or "",
        )
        plan = plan_of(StratifiedPatching)
        row(
            f"stratified, {cells:.0e} cells{name}: one spec",
            "≤ 20 µs, flat",
            f"{one_spec(plan) * 1e6:.1f} µs",
            (theirs and not name and f"{one_spec(plan_of(theirs)) * 1e6:.0f} µs") or "",
        )
        row(
            f"stratified, {cells:.0e} cells{name}: pickled",
            "≤ 100 B a cell",
            f"{len(pickle.dumps(plan)) / cells:.1f} B a cell",
        )
    excluded = grid_cells(cells)

    def exclude(plan: Any) -> int:
        plan.exclude_patches(0, 0, excluded)
        return int(plan.n_patches)

    row(
        f"stratified, {cells:.0e} cells: exclude a tenth",
        "≤ 0.3 s" if cells == 10**5 else "",
        f"{seconds(lambda: exclude(StratifiedPatching(shapes, PATCH, 1))) * 1e3:.1f} ms",
        (theirs and f"{seconds(lambda: exclude(theirs(shapes, PATCH, 1)), repeat=1):.1f} s (built too)") or "",
    )


def bench_random() -> None:
    theirs = careamics("random_patching", "RandomPatching")
    volume = [(1, 1, 512, 2048, 2048)]
    many = [(1, 1, 64 + i % 97, 64 + i % 89) for i in range(10_000)]
    plans: dict[str, tuple[Any, tuple[int, ...]]] = {
        "2D": (MILLION, PATCH),
        "3D": (volume, (16, 16, 16)),
        "2D, ten thousand stacks": (many, PATCH),
    }
    for name, (shapes, patch) in plans.items():
        plan = RandomPatching(shapes, patch, 1)
        row(
            f"random, {name}: one spec",
            "≤ 10 µs",
            f"{one_spec(plan) * 1e6:.1f} µs",
            (theirs and f"{one_spec(theirs(shapes, patch, 1)) * 1e6:.0f} µs") or "",
        )
        row(f"random, {name}: specs()", "≥ 5 M a second", f"{per_second(plan) / 1e6:.1f} M a second")
        row(
            f"random, {name}: at_epoch()",
            "",
            f"{seconds(lambda plan=plan: len(plan.at_epoch(3)), number=20) * 1e6:.0f} µs",
        )
    plan = RandomPatching(MILLION, PATCH, 1)
    row(
        "random, 10⁶: get_patch_indices(0)",
        "a range",
        f"{seconds(lambda: plan.get_patch_indices(0), number=1000) * 1e6:.1f} µs",
        (theirs and f"{seconds(lambda: theirs(MILLION, PATCH, 1).get_patch_indices(0), repeat=1) * 1e6:.0f} µs") or "",
    )


def bench_other_plans() -> None:
    tiled, random = TiledPatching(MILLION, PATCH, (4, 4)), RandomPatching(MILLION, PATCH, 1)
    stratified = StratifiedPatching(MILLION, PATCH, 1)
    weights = [np.random.default_rng(0).random((1, 1000, 1000))]
    plans = {
        "tiled": tiled,
        "stratified, 10⁶ cells": stratified,
        "stratified, 10⁶ cells, a tenth excluded": excluding(StratifiedPatching(MILLION, PATCH, 1), 10**6),
        "weighted, 10⁶ cells": WeightedPatching(MILLION, PATCH, weights, PATCH, 1),
        "uncorrelated, 2 channels": UncorrelatedPatching(random, 2),
    }
    for name, plan in plans.items():
        row(f"{name}: one spec", "", f"{one_spec(plan) * 1e6:.1f} µs")
        row(f"{name}: specs()", "", f"{per_second(plan) / 1e6:.1f} M a second")
    row("tiled, 10⁶: storage_order()", "", f"{seconds(lambda: tiled.storage_order((1, 1, 64, 64)), repeat=1):.2f} s")
    split = seconds(lambda: split_training_validation(stratified, 0.1, margin=8), repeat=1)
    row("stratified, 10⁶ cells: a tenth held out", "", f"{split:.2f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--all", action="store_true", help="compare with CAREamics at a million cells too")
    options = parser.parse_args()
    peer = "CAREamics" if careamics("random_patching", "RandomPatching") else ""
    row("", "wanted", "Patchloom", peer)
    bench_trillion_tiles()
    bench_arithmetic_plans()
    bench_stratified(10**5, compare=True)
    bench_stratified(10**6, compare=options.all)
    bench_random()
    bench_other_plans()


if __name__ == "__main__":
    main()
