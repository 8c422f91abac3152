"""`predict`, `plan`, `PredictionPlan.run` and both commands take the same arguments: names, defaults and choices."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import fields
from typing import Any, get_args

import pytest

from patchloom import PredictionPlan, plan, predict
from patchloom.cli.plan import plan_command
from patchloom.cli.predict import predict_command
from patchloom.geometry.blend_weights import BlendWindow
from patchloom.geometry.padding import Padding
from patchloom.geometry.tile_rule import Seams
from patchloom.prediction.request import PARSERS, PredictionRequest, RunOptions
from patchloom.sinks import OmeZarr, OmeZarrVersion, Pyramid

OF_MODEL = {"device", "precision"}
"""Parameters that belong to the model, not to the request."""
CHOICES = {"blend": BlendWindow, "seams": Seams, "padding": Padding}


def parameters(function: Callable[..., Any]) -> dict[str, Any]:
    """Return the default of each parameter."""
    return {name: parameter.default for name, parameter in inspect.signature(function).parameters.items()}


def described(function: Callable[..., Any], section: str = "Parameters") -> dict[str, str]:
    """Return the description of each parameter in a docstring."""
    text = inspect.getdoc(function) or ""
    body = text.split(f"{section}\n{'-' * len(section)}\n", 1)[1]
    body = re.split(r"\n\n[A-Z][a-z]+\n-+\n", body, maxsplit=1)[0]
    parts = re.split(r"^(\S.*)\n", body, flags=re.MULTILINE)[1:]
    return {
        name: " ".join(text.split())
        for head, text in zip(parts[::2], parts[1::2], strict=True)
        for name in head.split(" : ")[0].split(", ")
    }


def test_predict() -> None:
    """`predict` has at most 32 parameters, and describes each in full."""
    assert len(parameters(predict)) <= 32
    assert list(described(predict)) == list(parameters(predict))
    assert all(len(text) > 40 and "As in" not in text for text in described(predict).values())


@pytest.mark.parametrize("function", [plan, PredictionPlan.run], ids=["plan", "run"])
def test_docstrings(function: Callable[..., Any]) -> None:
    """The docstrings of the others list all parameters."""
    assert set(described(function)) == set(parameters(function)) - {"self"}


def test_request() -> None:
    """A request and its options are the parameters of `predict`, with the same defaults."""
    ours = parameters(predict)
    asked = {field.name: field.default for field in fields(PredictionRequest) if field.name != "declined"}
    assert asked.keys() == PARSERS.keys()
    assert {name: ours[name] for name in asked} == asked
    options = {field.name: field.default for field in fields(RunOptions)}
    written = {field.name for field in fields(OmeZarr)}
    assert {name: ours[name] for name in options.keys() - written} == {
        name: default for name, default in options.items() if name not in written
    }
    assert ours.keys() == {"model", "sources", "output", "axes"} | OF_MODEL | asked.keys() | (options.keys() - written)
    zarr = parameters(OmeZarr)
    assert {name: options[name] for name in written - {"path"}} == {name: zarr[name] for name in written - {"path"}}


def test_plan() -> None:
    """`plan` takes what `predict` computes, and `measure`."""
    ours, theirs = parameters(plan), parameters(predict)
    assert ours.keys() - theirs.keys() == {"measure"}
    same = ours.keys() & theirs.keys() - {"model"}
    assert {name: ours[name] for name in same} == {name: theirs[name] for name in same}


def test_run() -> None:
    """Running a plan takes what `predict` writes, with the same defaults."""
    ours, theirs = parameters(PredictionPlan.run), parameters(predict)
    same = ours.keys() - {"self", "sources", "model"}
    assert (
        same
        == {field.name for field in fields(RunOptions)} - {field.name for field in fields(OmeZarr)}
        | {"output"}
        | OF_MODEL
    )
    assert {name: ours[name] for name in same} == {name: theirs[name] for name in same}


@pytest.mark.parametrize(
    ("command", "function"), [(predict_command, predict), (plan_command, plan)], ids=["predict", "plan"]
)
def test_commands(command: Callable[..., Any], function: Callable[..., Any]) -> None:
    """A command takes what its function takes, with the same defaults."""
    ours, theirs = parameters(command), parameters(function)
    of_commands = {
        "layout",
        "inputs",
        "model_output",
        "bgr",
        "weights",
        "network",
        "argument",
        "trust",
        "augment",
        "as_json",
        "debug",
        "quiet",
        "pyramid",
        "ome_zarr",
        "export",
    }
    assert ours.keys() - theirs.keys() <= of_commands | OF_MODEL
    assert theirs.keys() - ours.keys() <= {"progress", "report", "stop"}  # --quiet and --json
    same = ours.keys() & theirs.keys() - {"sources", "model", "output", "device"}  # a file is on no device yet
    assert {name: ours[name] for name in same} == {name: theirs[name] for name in same}


@pytest.mark.parametrize("command", [predict_command, plan_command])
def test_choices(command: Callable[..., Any]) -> None:
    """A command has the choices of its function."""
    hints = inspect.get_annotations(command, eval_str=True)
    for name, choices in {**CHOICES, "pyramid": Pyramid, "ome_zarr": OmeZarrVersion}.items():
        if name in hints:
            literal, *_ = get_args(hints[name])
            words = [word for part in (literal, *get_args(literal)) for word in get_args(part) if isinstance(word, str)]
            assert set(words or get_args(literal)) - {"none"} == set(get_args(choices))
