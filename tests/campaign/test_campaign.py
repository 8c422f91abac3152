"""A wrong argument of any public function raises our error, which names it: some calls here, all by `make campaign`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any

import pytest

import patchloom
import patchloom.figures
import patchloom.filters

from .runner import cases, run

if not all(find_spec(package) for package in ("torch", "lightning", "onnx", "onnxruntime", "matplotlib", "pylibCZIrw")):
    pytest.skip("the extras torch, lightning, onnx, plot and czi are needed", allow_module_level=True)

import patchloom.torch

from .everything import ENTRIES
from .judge import succeeds

SHARE = 12
"""One out of this number of wrong values of each argument is tried here."""


def public_callables() -> Iterator[tuple[str, Callable[..., Any]]]:
    """Give each public function, class and method that takes arguments, by the name of its entry."""
    for module in (patchloom, patchloom.torch, patchloom.filters, patchloom.figures):
        for name in module.__all__:
            public = getattr(module, name)
            if inspect.ismodule(public):
                continue
            if not inspect.isclass(public):
                yield name, public
            elif not _is_exempt(public):
                yield name, public
                yield from _methods(public)


def _is_exempt(kind: type) -> bool:
    """Whether a class is not called: an error, a protocol, a dictionary, a named tuple, or the plan that `plan` returns."""
    made = kind is patchloom.PredictionPlan
    return getattr(kind, "_is_protocol", False) or issubclass(kind, (Exception, dict, tuple)) or made


def _methods(kind: type) -> Iterator[tuple[str, Callable[..., Any]]]:
    for name, member in inspect.getmembers(kind):
        ours = inspect.isroutine(member) and str(getattr(member, "__module__", "")).startswith("patchloom")
        if ours and (not name.startswith("_") or name in {"__getitem__", "__call__"}):
            yield member.__qualname__, member


def _parameters(public: Callable[..., Any]) -> set[str]:
    return {name for name in inspect.signature(public).parameters if name != "self" and not name.startswith("_")}


LIGHTNING = {
    "on_fit_start",
    "on_train_epoch_end",
    "on_train_end",
    "on_predict_start",
    "on_predict_batch_end",
    "on_predict_end",
    "on_exception",
    "teardown",
}
"""Called by a trainer."""


def test_complete():
    """Every argument of every public callable is in the campaign."""
    missing = []
    for name, public in public_callables():
        if name.rpartition(".")[2] in LIGHTNING or not _parameters(public):
            continue
        entries = [ENTRIES[known] for known in ENTRIES if known.partition(" (")[0] == name]
        covered = {argument for entry in entries for argument in (*entry.kinds, *entry.free)}
        missing += [f"{name}({argument})" for argument in sorted(_parameters(public) - covered)]
    assert not missing, f"give these an entry in tests/campaign: {missing}"


def test_valid_calls(tmp_path, monkeypatch):
    """The calls of the campaign succeed with valid arguments."""
    failed = {}
    for number, (name, entry) in enumerate(ENTRIES.items()):
        (tmp_path / str(number)).mkdir()
        monkeypatch.chdir(tmp_path / str(number))
        failed[name] = succeeds(entry) if entry.kinds else None
    assert not {name: fault for name, fault in failed.items() if fault}


def test_wrong_arguments():
    """A wrong argument raises one of our errors, whose message names it, and leaves no files behind."""
    outcome = run(list(cases(SHARE)))
    assert outcome.calls > 500
    assert not [f"{name}({argument}={label}): {fault}" for (name, argument, label), fault in outcome.findings]
