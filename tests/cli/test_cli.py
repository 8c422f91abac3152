"""The command line: files that it writes, text that it prints, and exit codes."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr
from typer.testing import CliRunner, Result

from patchloom import __version__
from patchloom.cli import app
from patchloom.prediction import predict
from patchloom.prediction.planning import fit
from patchloom.stitching import block_grid

MODEL = """
import numpy as np

def invert(batch):
    return 255 - batch

def same(batch):
    return batch

def broken(batch):
    raise RuntimeError("out of cheese")

def interrupted(batch):
    raise KeyboardInterrupt

def noisy(batch, rng):
    return batch + rng.normal(0, 3, batch.shape)

def half(batch):
    return batch / 2

calls = 0

def interrupted_once(batch):
    global calls
    calls += 1
    if calls == 12:
        raise KeyboardInterrupt
    return batch

def fails_once(batch):
    global calls
    calls += 1
    if calls == 12:
        raise RuntimeError("out of cheese")
    return batch

def superstitious(batch):
    if (batch == 13).all():
        raise RuntimeError("out of cheese")
    return batch
"""


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator) -> Path:
    """Make a folder with two images and a model, and work in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "my_model", raising=False)
    (tmp_path / "my_model.py").write_text(MODEL)
    for name in ("img2.tif", "img10.tif"):
        image = rng.integers(0, 255, (60, 40), np.uint8)
        tifffile.imwrite(
            tmp_path / name, image, metadata={"axes": "YX"}, resolution=(4e4, 4e4), resolutionunit="CENTIMETER"
        )
    return tmp_path


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments)


TILES = ("--patch-size", "16,16", "--overlaps", "4,4")


def test_predict(workplace: Path) -> None:
    """The image is written, and its path is all that is printed."""
    result = run("predict", "img2.tif", "--model", "my_model:invert", "--output", "out.ome.zarr", *TILES)
    assert result.exit_code == 0, result.output
    assert result.stdout == "out.ome.zarr\n"
    expected = 255 - tifffile.imread(workplace / "img2.tif")
    assert np.array_equal(zarr.open_group(workplace / "out.ome.zarr", mode="r")["0"][:], expected)


def test_predict_series(workplace: Path) -> None:
    """A pattern is a series in natural order, and a folder gets its outputs."""
    result = run("predict", "*.tif", "--model", "my_model:invert", "-o", "out", "--json", "--quiet", *TILES)
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    assert json.loads(result.stdout)["written"] == ["out/img2.ome.zarr", "out/img10.ome.zarr"]
    for name in ("img2", "img10"):
        expected = 255 - tifffile.imread(workplace / f"{name}.tif")
        assert np.array_equal(zarr.open_group(workplace / f"out/{name}.ome.zarr", mode="r")["0"][:], expected)


def test_path_spellings(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`~`, `..` and `file://` name the same image, model and output."""
    monkeypatch.setenv("HOME", str(workplace))
    image = tifffile.imread(workplace / "img2.tif")
    for number, source in enumerate(
        ["~/img2.tif", "../" + workplace.name + "/img2.tif", f"file://{workplace}/img2.tif"]
    ):
        for output in (
            f"~/{number}.zarr",
            f"../{workplace.name}/{number}-up.zarr",
            f"file://{workplace}/{number}%20url.zarr/",
        ):
            result = run("predict", source, "--model", "~/my_model.py:same", "--output", output, "--quiet", *TILES)
            assert result.exit_code == 0, result.output
            (written,) = workplace.glob(f"{number}*.zarr")
            assert np.array_equal(zarr.open_group(written, mode="r")["0"][:], image)
            assert run("status", output).exit_code == 0
            shutil.rmtree(written)
    result = run("predict", "img2.tif", "--model", "my_model:same", "--output", "s3://bucket/out.zarr", *TILES)
    assert "local paths only" in result.stderr


def test_plan(workplace: Path) -> None:
    """A plan is printed as text and as JSON, and nothing is written."""
    before = sorted(workplace.rglob("*"))
    result = run("plan", "img2.tif", *TILES)
    assert result.exit_code == 0, result.output
    assert "60 × 40" in result.stdout
    facts = json.loads(run("plan", "img2.tif", "--json", *TILES).stdout)
    assert (facts["tiles"], facts["blocks"], facts["source_bytes"]) == (15, 1, 2400)
    assert facts["sources"][0]["tiles"] == [5, 3]
    assert sorted(workplace.rglob("*")) == before


def test_selection(workplace: Path) -> None:
    """Channels, a region and a pixel size are those of `predict`, and the plan shows them."""
    image = tifffile.imread(workplace / "img2.tif")
    tifffile.imwrite(workplace / "two.tif", np.stack([image, 255 - image]), metadata={"axes": "CYX"})
    chosen = ("--channels", "1", "--region", "y=10:50,x=2um:7.5um", "--voxel-size", "0.25,0.25")
    result = run("predict", "two.tif", "--model", "my_model:invert", "-o", "out.ome.zarr", *TILES, *chosen)
    assert result.exit_code == 0, result.output
    assert np.array_equal(zarr.open_group(workplace / "out.ome.zarr", mode="r")["0"][0], image[10:50, 8:30])
    result = run("plan", "two.tif", *TILES, *chosen, "--pixel-size", "0.5")
    assert result.exit_code == 0, result.output
    for text in (
        "channels         1",
        "region Y 10:50, X 8:30",
        "network          tiles of 16 × 16 pixels, each 2 × 2 voxels",
    ):
        assert text in result.stdout
    rescaled = ("--voxel-size", "0.25", "--pixel-size", "0.5")
    result = run("predict", "img2.tif", "--model", "my_model:same", "-o", "rescaled.npy", *TILES, *rescaled)
    assert result.exit_code == 0, result.output
    expected = predict(
        lambda batch: batch, image, axes="YX", patch_size=16, overlaps=4, voxel_size=0.25, pixel_size=0.5
    )
    assert np.array_equal(np.load(workplace / "rescaled.npy"), expected)
    result = run("predict", "img2.tif", "--model", "my_model:same", "-o", "x.npy", *TILES, "--region", "y=3:100")
    assert result.exit_code == 2
    assert "img2.tif has size 60 along Y" in result.stderr


def test_info(workplace: Path) -> None:
    """Axes, shape and dtype are printed, as text and as JSON."""
    result = run("info", "img2.tif")
    assert result.exit_code == 0, result.output
    assert "img2.tif" in result.stdout
    assert "60 × 40" in result.stdout
    facts = json.loads(run("info", "img2.tif", "img10.tif", "--json").stdout)
    assert [image["axes"] for image in facts] == ["YX", "YX"]
    assert facts[0]["shape"] == [60, 40]
    assert facts[0]["dtype"] == "uint8"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("predict", "img2.tif"), 2, "Missing option"),
        (("predict", "no.tif", "--model", "my_model:invert", "-o", "out.ome.zarr", *TILES), 2, "no.tif"),
        (("plan", "img2.tif"), 2, "patch_size is not given"),
        (
            ("plan", "img2.tif", "--model", "w.pth", "--network", "my_model:net", "--argument", "width"),
            2,
            "argument 'width' is not a name and a value",
        ),
        (
            ("plan", "img2.tif", "--model", "my_model:invert", "--device", "cpu", "--patch-size", "32"),
            2,
            "device is 'cpu', and the model is a function",
        ),
        (("predict", "img2.tif", "--model", "my_model:nothing", "-o", "out.ome.zarr", *TILES), None, "nothing"),
        (("predict", "img2.tif", "--model", "no.onnx", "-o", "out.ome.zarr", *TILES), 2, "no.onnx"),
        (("predict", "img2.tif", "--model", "my_model:broken", "-o", "out.ome.zarr", *TILES), 1, "out of cheese"),
        (
            ("predict", "img2.tif", "--model", "my_model:interrupted", "-o", "out.ome.zarr", *TILES),
            130,
            "stopped: no block",
        ),
        (("plan", "img2.tif", "--patch-size", "16,x"), 2, "not a whole number"),
        (("plan", "img2.tif", "--patch-size", "16,16", "--overlaps", "16,0"), 2, "overlaps is 16 along Y"),
        (("plan", "img2.tif", "--patch-size", "16,16", "--seams", "none"), 2, "centered"),
        (("plan", "img2.tif", "--patch-size", "16,16", "--axes", "CYX"), 2, "axes"),
        (("plan", "img2.tif", *TILES, "--normalize", "percentiles:2"), 2, "give two percentiles"),
        (("plan", "img2.tif", *TILES, "--normalize", "percentiles:98,2"), 2, "the lower one first"),
        (("plan", "img2.tif", *TILES, "--normalize", "mean_std/tile"), 2, "per is 'tile'"),
        (("plan", "img2.tif", *TILES, "--skip", "bright:3"), 2, "write dark:100"),
        (
            ("plan", "img2.tif", *TILES, "--model", "my_model:invert", "--bgr"),
            1,
            "bgr is True, which is for ZEISS models",
        ),
        (("info", "my_model.py"), None, "my_model.py"),
        (("nonsense",), 2, "nonsense"),
    ],
)
def test_errors(workplace: Path, arguments: Any, code: int | None, message: str) -> None:
    """An error is one message without a traceback, with an exit code, and leaves nothing behind."""
    result = run(*arguments)
    assert result.exit_code == code if code is not None else result.exit_code in {1, 2}
    assert message in result.stderr
    assert "Traceback" not in result.output
    assert sorted(path.name for path in workplace.iterdir() if path.name != "__pycache__") == [
        "img10.tif",
        "img2.tif",
        "my_model.py",
    ]


def test_overwrite(workplace: Path) -> None:
    """An output that exists is replaced with `--overwrite` only."""
    arguments = ("predict", "img2.tif", "--model", "my_model:invert", "-o", "out.ome.zarr", *TILES)
    assert run(*arguments).exit_code == 0
    refused = run(*arguments)
    assert refused.exit_code == 2
    assert "--overwrite" in refused.stderr
    assert run(*arguments, "--overwrite").exit_code == 0


def test_debug(workplace: Path) -> None:
    """`--debug` raises the error with its traceback."""
    result = run("predict", "img2.tif", "--model", "my_model:broken", "-o", "out.ome.zarr", "--debug", *TILES)
    assert result.exit_code == 1
    assert "ModelError" in repr(result.exception)


def test_normalize(workplace: Path) -> None:
    """`--normalize` gives the percentiles of NumPy, and a plan names the method."""
    source = tifffile.imread(workplace / "img2.tif").astype(np.float64)
    low, high = np.percentile(source, (2, 98))
    model = ("--model", "my_model:same", *TILES, "--quiet")
    percentiles = ("--normalize", "percentiles:2,98/sample")
    assert run("predict", "img2.tif", *model, "-o", "out.npy", *percentiles).exit_code == 0
    np.testing.assert_allclose(np.load(workplace / "out.npy"), (source - low) / (high - low), atol=1e-5)
    assert run("predict", "img2.tif", *model, "-o", "std.npy", "--normalize", "mean_std").exit_code == 0
    np.testing.assert_allclose(np.load(workplace / "std.npy"), (source - source.mean()) / source.std(), atol=1e-5)
    planned = ("plan", "img2.tif", *TILES, *percentiles)
    assert "normalized       percentiles:2,98/sample, not measured yet" in run(*planned).stdout
    assert json.loads(run(*planned, "--json").stdout)["normalize"] == ["percentiles:2,98/sample"]


@pytest.mark.parametrize(("option", "expected"), [((), None), (("--bgr",), True), (("--rgb",), False)])
@pytest.mark.parametrize("command", ["plan", "predict"])
def test_bgr(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, command: str, option: tuple[str, ...], expected: bool | None
) -> None:
    """`--bgr` reaches a ZEISS model."""
    asked = []

    def load(reference: str, *, bgr: bool | None, **_: Any) -> Any:
        asked.append(bgr)
        return lambda batch: batch

    monkeypatch.setattr(sys.modules["patchloom.cli.predict"], "load_model", load)
    output = ("-o", "out.npy") if command == "predict" else ()
    result = run(command, "img2.tif", "--model", "colors.czann", *TILES, *output, *option)
    assert (result.exit_code, asked) == (0, [expected]), result.output


def test_module() -> None:
    """`python -m patchloom` is the command."""
    result = subprocess.run(
        [sys.executable, "-m", "patchloom", "info", "nowhere.tif"], capture_output=True, text=True, check=False
    )
    assert result.returncode == 2
    assert "nowhere.tif" in result.stderr


def test_version() -> None:
    """`--version` prints the version."""
    assert run("--version").stdout == f"{__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "listed"),
    [
        (("--help",), ["predict", "plan", "info", "status", "probe", "check-model", "--version"]),
        (("predict", "-h"), ["--model", "--output", "--patch-size", "--blend", "--normalize", "--resume-anyway"]),
        (("plan", "--help"), ["--model", "--patch-size", "--measure", "--json"]),
        (("info", "--help"), ["IMAGE", "--axes", "--json"]),
        (("status", "-h"), ["OUTPUT", "--json"]),
        (("check-model", "-h"), ["MODEL", "--json"]),
        (("probe", "-h"), ["MODEL", "--image", "--figure", "--json"]),
    ],
    ids=["patchloom", "predict", "plan", "info", "status", "check-model", "probe"],
)
def test_help(monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], listed: list[str]) -> None:
    """`-h` and `--help` list the commands, and the arguments of a command."""
    monkeypatch.setenv("COLUMNS", "120")
    result = run(*arguments)
    assert result.exit_code == 0
    assert [name for name in listed if name not in result.stdout] == []


def test_several_models(workplace: Path) -> None:
    """Models that are named together are averaged; `plan` takes them too."""
    models = ("--model", "my_model:half", "--model", "my_model:double")
    (workplace / "my_model.py").write_text(MODEL + "def double(batch):\n    return 2.0 * batch\n")
    assert run("predict", "img2.tif", *models, "-o", "out.npy", *TILES, "-q").exit_code == 0
    image = tifffile.imread("img2.tif")
    np.testing.assert_allclose(np.load("out.npy"), 1.25 * image, rtol=1e-6)
    assert run("plan", "img2.tif", *models, *TILES).exit_code == 0


def test_draws(workplace: Path) -> None:
    """`--draws` writes the mean and the standard deviation."""
    arguments = ("predict", "img2.tif", "--model", "my_model:noisy", "-o", "out.npy", *TILES, "--draws", "50", "-q")
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    assert result.stdout.split() == ["out-mean.npy", "out-std.npy"]
    assert abs(np.load("out-std.npy").mean() - 3) < 0.1
    assert run(*arguments[:-3], "--draws", "1").exit_code == 2


def test_interrupted(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C ends with one line: the number of blocks that are kept, and how to resume."""
    monkeypatch.setattr(block_grid, "CHUNK_SIZE", {2: 16, 3: 8})
    monkeypatch.setattr(fit, "BLOCK_SIZES", [300])
    arguments = ("predict", "img2.tif", "--model", "my_model:interrupted_once", "-o", "out.ome.zarr", *TILES, "-q")
    result = run(*arguments)
    assert result.exit_code == 130
    assert re.fullmatch(
        r"stopped: \d+ of \d+ blocks are finished and kept: run the same again to resume\n", result.stderr
    )
    assert run(*arguments, "--resume-anyway").exit_code == 0  # the model counts its calls


def test_status_and_resume(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`status` reports an unfinished output, which the same command resumes and finishes."""
    monkeypatch.setattr(block_grid, "CHUNK_SIZE", {2: 16, 3: 8})
    monkeypatch.setattr(fit, "BLOCK_SIZES", [300])
    arguments = ("predict", "img2.tif", "--model", "my_model:fails_once", "-o", "out.ome.zarr", *TILES)
    failed = run(*arguments)
    assert failed.exit_code == 1
    assert "blocks are finished and kept: run the same again to resume" in failed.stderr
    unfinished = run("status", "out.ome.zarr")
    assert unfinished.exit_code == 1
    assert "unfinished" in unfinished.stdout
    facts = json.loads(run("status", "out.ome.zarr", "--json").stdout)
    assert 0 < facts["blocks"] < facts["of_blocks"] == 12
    refused = run(*arguments)
    assert refused.exit_code == 1
    assert "model: global 'calls' of my_model differs" in refused.stderr
    assert "--resume-anyway" in refused.stderr
    assert run(*arguments, "--resume-anyway").exit_code == 0
    assert np.array_equal(
        zarr.open_group(workplace / "out.ome.zarr", mode="r")["0"][:], tifffile.imread(workplace / "img2.tif")
    )
    finished = run("status", "out.ome.zarr")
    assert (finished.exit_code, finished.stdout) == (0, "out.ome.zarr: finished\n")
    assert run("status", "nothing.ome.zarr").exit_code == 2


def test_options_together(workplace: Path) -> None:
    """Postprocessing, blending, skipping and the kind of output work together."""
    source = tifffile.imread(workplace / "img2.tif")
    model = ("--model", "my_model:invert", *TILES)
    assert run("predict", "img2.tif", *model, "-o", "mask.npy", "--postprocess", "threshold:100").exit_code == 0
    assert np.array_equal(np.load(workplace / "mask.npy"), (255 - source > 100).astype(np.uint8))
    assert run("predict", "img2.tif", *model, "-o", "out.ome.tif", "--blend", "hann").exit_code == 0
    assert np.array_equal(tifffile.imread(workplace / "out.ome.tif"), 255 - source)
    assert (
        run("predict", "img2.tif", *model, "-o", "old.ome.zarr", "--ome-zarr", "0.4", "--augment", "all").exit_code == 0
    )
    assert np.array_equal(zarr.open_group(workplace / "old.ome.zarr", mode="r")["0"][:], 255 - source)
    assert zarr.open_group(workplace / "old.ome.zarr", mode="r").metadata.zarr_format == 2


def test_keep_going(workplace: Path) -> None:
    """With `--keep-going`, the other images of a series finish, and the exit code is 1."""
    tifffile.imwrite(workplace / "img5.tif", np.full((60, 40), 13, np.uint8), metadata={"axes": "YX"})
    arguments = ("predict", "*.tif", "--model", "my_model:superstitious", "-o", "out", "--keep-going", *TILES)
    result = run(*arguments)
    assert result.exit_code == 1
    assert "1 of 3 images failed, the others are done" in result.stderr
    assert "img5.tif" in result.stderr
    assert result.stdout == "out/img2.ome.zarr\nout/img10.ome.zarr\n"
    assert "img5.tif   failed: the model failed on the tile at (0, 0)" in result.stderr
    assert sorted(path.name for path in (workplace / "out").iterdir()) == ["img10.ome.zarr", "img2.ome.zarr"]


def test_json_reports(workplace: Path) -> None:
    """`--json` prints a report for each image, also of one that failed."""
    tifffile.imwrite(workplace / "img5.tif", np.full((60, 40), 13, np.uint8), metadata={"axes": "YX"})
    arguments = ("predict", "*.tif", "--model", "my_model:superstitious", "-o", "out", "--keep-going", "--json", *TILES)
    result = run(*arguments)
    assert result.exit_code == 1
    facts = json.loads(result.stdout)
    assert facts["written"] == ["out/img2.ome.zarr", "out/img10.ome.zarr"]
    assert [image["source"] for image in facts["images"]] == ["img2.tif", "img5.tif", "img10.tif"]
    good, failed, _ = facts["images"]
    assert good | {"seconds": None} == {
        "source": "img2.tif",
        "outputs": ["out/img2.ome.zarr"],
        "axes": "YX",
        "shape": [60, 40],
        "tiles": 15,
        "blocks": 1,
        "blocks_resumed": 0,
        "tiles_skipped": 0,
        "seconds": None,
        "error": None,
    }
    assert good["seconds"] > 0
    assert failed["outputs"] == []
    assert "out of cheese" in failed["error"]


def test_slices(workplace: Path, rng: np.random.Generator) -> None:
    """With two numbers as tile size, a stack is predicted slice by slice."""
    stack = rng.integers(0, 255, (3, 40, 50), np.uint8)
    tifffile.imwrite(workplace / "stack.tif", stack, metadata={"axes": "ZYX"}, imagej=True)
    shown = run("plan", "stack.tif", *TILES)
    assert shown.exit_code == 0, shown.output
    assert "tiles in each slice, output SCZYX 1 × ? × 3 × 40 × 50" in shown.stdout
    result = run("predict", "stack.tif", "--model", "my_model:invert", "--output", "out.ome.zarr", *TILES)
    assert result.exit_code == 0, result.output
    written = zarr.open_group(workplace / "out.ome.zarr", mode="r")
    assert [axis["name"] for axis in written.attrs["ome"]["multiscales"][0]["axes"]] == ["z", "y", "x"]
    assert np.array_equal(written["0"][:], 255 - stack)


@pytest.mark.parametrize(("given", "multiples"), [("8", [8, 8]), ("1,4", [1, 4])])
def test_origin_multiple(workplace: Path, given: str, multiples: list[int]) -> None:
    """`--origin-multiple` takes one number for all axes or one for each."""
    (workplace / "my_model.py").write_text(
        MODEL + "def aligned(batch):\n    assert batch.shape[-2:] == (16, 16)\n    return batch\n"
    )
    facts = json.loads(run("plan", "img2.tif", "--origin-multiple", given, "--json", *TILES).stdout)
    assert facts["origin_multiple"] == multiples
    assert (
        f"starts on multiples of {' × '.join(map(str, multiples))}"
        in run("plan", "img2.tif", "--origin-multiple", given, *TILES).stdout
    )
    arguments = ("--model", "my_model:aligned", "--output", "out.ome.zarr", "--origin-multiple", given)
    result = run("predict", "img2.tif", *arguments, *TILES)
    assert result.exit_code == 0, result.output
    wrong = run("plan", "img2.tif", "--origin-multiple", "1,2,3,4", *TILES)
    assert wrong.exit_code == 2
    assert "origin_multiple is (1, 2, 3, 4): it has 4 numbers and must have 2 or 3" in wrong.stderr


@pytest.mark.parametrize(("name", "code"), [("same", 0), ("whole", 1)])
def test_check_model(workplace: Path, name: str, code: int) -> None:
    """`check-model` prints how far tiles differ from the whole image, and its exit code is the verdict."""
    model = f"checked_{name}.py:{name}"
    (workplace / f"checked_{name}.py").write_text(
        "def same(batch):\n    return batch\n\ndef whole(batch):\n    return batch - batch.mean()\n"
    )
    shown = run("check-model", model, "--patch-size", "32")
    assert shown.exit_code == code
    assert ("tiled, whole" in shown.stdout, "differs" in shown.stdout) == (True, bool(code))
    found = json.loads(run("check-model", model, "--json").stdout)
    assert (found["passed"], found["tiled"][0]["passed"]) == (not code, not code)


def test_probe(workplace: Path) -> None:
    """`probe` prints what it found as a table or as JSON, of random numbers or of an image, and draws a tile."""
    (workplace / "probed.py").write_text("def cut(batch):\n    print('noise')\n    return batch[..., 4:-4, 4:-4]\n")
    shown = run("probe", "probed.py:cut", "--figure", "tile.png")
    assert shown.exit_code == 0, shown.output
    assert "without 4 voxels on each side" in shown.stdout
    assert (workplace / "tile.png").read_bytes().startswith(b"\x89PNG")
    found = json.loads(run("probe", "probed.py:cut", "--image", "img2.tif", "--json").stdout)
    assert (found["sizes"][0]["least"], found["outputs"][0]["margin"]) == (9, ["4", "4"])
    assert (found["dtype"], found["n_dims"]) == ("uint8", 2)
    refused = run("probe", "my_model:broken")
    assert (refused.exit_code, "out of cheese" in refused.stdout) == (1, True)
