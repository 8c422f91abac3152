"""`patchloom check`, and `predict --certify`, in a shell."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
from typer.testing import CliRunner

from patchloom.cli import app

MODEL = """
import numpy as np

def blur(batch):
    padded = np.pad(batch, [(0, 0)] * 3 + [(5, 5)])
    return sum(padded[..., at : at + batch.shape[-1]] for at in range(11)) / 11
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sys.modules.pop("net", None)
    (tmp_path / "net.py").write_text(MODEL)
    np.save(tmp_path / "image.npy", np.random.default_rng(0).random((90, 100), np.float32))
    return tmp_path


def run(*arguments):
    return CliRunner().invoke(app, [*map(str, arguments)], env={"COLUMNS": "200", "TERM": "dumb", "NO_COLOR": "1"})


PREDICT = ("predict", "image.npy", "--model", "net.py:blur", "--axes", "YX", "--patch-size", "32")


def test_certify_and_check(folder):
    """`--certify` writes the certificate, and `check` finds the plan in it; its exit code is the verdict."""
    made = run(*PREDICT, "-o", "out.ome.zarr", "--overlaps", "12", "--certify")
    assert made.exit_code == 0, made.stderr
    assert "equal" in made.stderr
    assert json.loads((folder / "out.ome.zarr.certificate.json").read_text())["certificate"]["passed"]
    checked = run("check", "out.ome.zarr", "--model", "net.py:blur", "--seed", "1")
    assert checked.exit_code == 0, checked.stderr
    assert "equal" in checked.stdout


def test_check_with_a_plan(folder):
    """A run without a certificate is checked with its plan; too small an overlap fails."""
    assert run(*PREDICT, "-o", "out.npy", "--overlaps", "0", "-q").exit_code == 0
    assert run("plan", *PREDICT[1:], "--overlaps", "0", "--export", "plan.json").exit_code == 0
    checked = run("check", "out.npy", "--model", "net.py:blur", "--plan", "plan.json", "--json")
    assert checked.exit_code == 1, checked.stderr
    found = json.loads(checked.stdout)
    assert not found["passed"]
    assert found["outputs"][0]["worst"]["coords"]


def test_no_plan_is_refused(folder):
    """Without certificate and plan, one sentence says what to give."""
    run(*PREDICT, "-o", "out.npy", "--overlaps", "0", "-q")
    checked = run("check", "out.npy", "--model", "net.py:blur")
    assert checked.exit_code == 2
    assert "--plan" in checked.stderr
