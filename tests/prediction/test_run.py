"""A call of `predict` looks at everything once: arguments, sources, files, outputs, and the plan."""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from patchloom import Percentiles, SkipDark
from patchloom.errors import ModelError, SinkError
from patchloom.prediction import api, plan, predict, request, run
from patchloom.prediction.normalization import measuring
from patchloom.prediction.planning import fit
from patchloom.stitching import block_grid

FINGERPRINT = importlib.import_module("patchloom.image_stacks.fingerprint")
OPTIONS: dict[str, Any] = {
    "axes": "YX",
    "patch_size": 32,
    "overlaps": (8, 8),
    "halo": 2,
    "channels": [0],
    "region": "y=0:150",
    "voxel_size": 0.5,
    "pixel_size": 0.5,
    "denormalize": False,
    "n_draws": None,
    "blend": "hann",
    "seams": None,
    "origin_multiple": 2,
    "padding": "edge",
    "batch_size": 3,
    "normalize": Percentiles(1, 99),
    "skip": SkipDark(0),
    "postprocess": "channels:0",
    "memory_limit": 10**9,
}
"""A value for each argument that a request has."""


class Copy:
    """An identity model that may fail, and counts how often something was called before it ran."""

    identity = "copy"

    def __init__(self, counts: Counter[str], fail_at: int = -1) -> None:
        self.counts, self.before, self.calls, self.fail_at = counts, Counter[str](), 0, fail_at

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        self.before = self.before or Counter(self.counts)
        self.calls += 1
        if self.calls == self.fail_at:
            raise RuntimeError
        return batch


@pytest.fixture
def sources(tmp_path: Path, rng: np.random.Generator) -> list[Path]:
    for name in "ab":
        np.save(tmp_path / f"{name}.npy", rng.integers(1, 2**16, (150, 130), np.uint16))
    return [tmp_path / "a.npy", tmp_path / "b.npy"]


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Number of calls of the functions that are to be called once."""
    calls: Counter[str] = Counter()

    def counted(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def count(*args: Any, **kwargs: Any) -> Any:
            calls[name] += 1
            return function(*args, **kwargs)

        return count

    for module, name in [
        *((api, name) for name in ("open_stacks", "is_series", "make_plan")),
        *((run, name) for name in ("survey_images", "infer_outputs", "make_plan")),
        (measuring, "measure_parts"),
        (FINGERPRINT, "fingerprint"),
    ]:
        monkeypatch.setattr(module, name, counted(name, getattr(module, name)))
    for name, parse in request.PARSERS.items():
        monkeypatch.setitem(request.PARSERS, name, counted(f"parse {name}", parse))
    monkeypatch.setattr(block_grid, "CHUNK_SIZE", {2: 40, 3: 16})
    monkeypatch.setattr(fit, "BLOCK_SIZES", [2000])
    return calls


def test_once(sources: list[Path], tmp_path: Path, counts: Counter[str]) -> None:
    """A run parses each argument, opens and identifies each source, infers and plans once."""
    assert OPTIONS.keys() - {"axes"} == request.PARSERS.keys()
    model = Copy(counts)
    predict(model, sources, tmp_path / "out", progress=False, **OPTIONS)
    once = ["open_stacks", "is_series", "survey_images", "infer_outputs", "make_plan"]
    assert {name: counts[name] for name in [*once, "measure_parts"]} == {
        **dict.fromkeys(once, 1),
        "measure_parts": len(sources),
    }
    assert {name: counts[f"parse {name}"] for name in request.PARSERS} == dict.fromkeys(request.PARSERS, 1)
    assert model.before["fingerprint"] == 2 * len(sources)


def test_resume(sources: list[Path], tmp_path: Path, counts: Counter[str]) -> None:
    """A resumed run measures, infers and plans nothing."""
    with pytest.raises(ModelError):
        predict(Copy(counts, fail_at=25), sources, tmp_path / "out", progress=False, **OPTIONS)
    counts.clear()
    model = Copy(counts)
    predict(model, sources, tmp_path / "out", progress=False, **OPTIONS)
    assert counts["open_stacks"] == counts["survey_images"] == 1
    assert counts["measure_parts"] == counts["infer_outputs"] == counts["make_plan"] == 0
    assert model.before["fingerprint"] == 2 * len(sources)


def test_plan(sources: list[Path], counts: Counter[str]) -> None:
    """A plan opens each source once, and measures and infers nothing."""
    plan(sources, **OPTIONS)
    assert counts["open_stacks"] == counts["is_series"] == counts["make_plan"] == 1
    assert counts["measure_parts"] == counts["infer_outputs"] == 0


@pytest.mark.parametrize(
    "change",
    [
        {"patch_size": 48},
        {"overlaps": 16},
        {"blend": "linear"},
        {"origin_multiple": 1},
        {"padding": "wrap"},
        {"batch_size": 2},
        {"normalize": Percentiles(2, 99)},
        {"skip": SkipDark(0, fill=1)},
        {"postprocess": "channels:0|float64"},
        {"seams": "grid"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_another_request(change: dict[str, Any], sources: list[Path], tmp_path: Path, counts: Counter[str]) -> None:
    """Another request is refused with what differs, before an image is measured and the model runs."""
    with pytest.raises(ModelError):
        predict(Copy(counts, fail_at=25), sources, tmp_path / "out", progress=False, **OPTIONS)
    counts.clear()
    (name,) = change
    model = Copy(counts)
    with pytest.raises(SinkError, match=f"unfinished run of another plan:\n  {name}: .* before, .* now\nrun it"):
        predict(model, sources, tmp_path / "out", progress=False, **OPTIONS | change)
    assert model.calls == counts["measure_parts"] == 0
