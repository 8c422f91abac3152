"""The commands of a shell: every option with every text that it must refuse."""

from __future__ import annotations

from typing import Any

from typer.testing import CliRunner

from patchloom.cli import app
from patchloom.errors import PatchloomError

from . import world
from .entry import entry
from .hostile import Kind, always


class RefusedError(PatchloomError, ValueError):
    """The standard error of a command whose exit code reports a failure."""


def _command(name: str, *flags: str):
    def run(sources: str | None = None, **options: Any) -> None:
        arguments = [name] + ([] if sources is None else [sources])
        for option, value in options.items():
            if value is not None:
                arguments += [f"--{option.replace('_', '-')}={value}"]
        result = CliRunner().invoke(app, [*arguments, *flags], env={"COLUMNS": "1000", "TERM": "dumb", "NO_COLOR": "1"})
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        if result.exit_code in (1, 2):
            if "Traceback" in result.output or "--debug shows the traceback" in result.stderr:
                raise RuntimeError(result.stderr[:400])
            raise RefusedError(result.stderr)
        if result.exit_code:
            raise RuntimeError(f"exit code {result.exit_code}")

    return run


def texts(**values: str) -> Kind:
    """Give the kind of an option, as the texts that it must refuse."""
    return Kind("text of an option", {label: always(value) for label, value in values.items()})


VOXELS = texts(
    word="a",
    empty="",
    comma=",",
    five="1,2,3,4,5",
    zero="0,0",
    negative="-1,-1",
    fraction="1.5,32",
    huge=f"{10**30},{10**30}",
    nan="nan,nan",
    wide="\uff13,\uff13a",
    long="1," * 3000,
)
WORD = texts(word="nonsense", empty="", upper="REFLECT", number="3")
COMMON = {
    "sources": texts(
        missing="no.tif",
        empty="",
        ending="image.png",
        nul="a\0b.tif",
        long="a" * 5000 + ".tif",
        pattern="*.tif",
        folder=".",
        czi="no.czi",
        zarr="no.ome.zarr",
        url="nothing://x/a.zarr",
    ),
    "axes": texts(
        unknown="QYX",
        repeated="YXX",
        missing="CX",
        empty="",
        many="YX" * 5000,
        number="3",
        comma="Y,X",
        wide="\uff39\uff38",
    ),
    "channels": texts(name="DAPI", empty="", outside="1", negative="-1", gap="0,,0", fraction="0.5", huge=str(10**30)),
    "region": texts(
        word="a",
        empty="",
        outside="y=0:9999",
        reversed="y=8:3",
        unit="y=1um:2um",
        axis="q=3",
        twice="y=1:2,y=3:4",
        dots="y=1.5:2",
    ),
    "voxel_size": texts(
        word="a", empty="", zero="0", negative="-1", gap="1,,1", nan="nan", four="1,1,1,1", three="1,1,1"
    ),
    "pixel_size": texts(word="a", empty="", zero="0", negative="-1", unknown="0.5", undeclared="model", four="1,1,1,1"),
    "patch_size": VOXELS,
    "overlaps": texts(
        word="a", comma=",", negative="-1,-1", fraction="1.5,8", huge=f"{10**30},{10**30}", large="32,32"
    ),
    "blend": WORD,
    "seams": WORD,
    "padding": WORD,
    "batch_size": texts(word="a", empty="", zero="0", negative="-1", fraction="1.5", huge=str(10**30)),
    "postprocess": texts(
        word="relu", empty="", half="threshold:", channel="channels:a", bar="argmax|", nan="threshold:nan"
    ),
    "normalize": texts(
        word="a",
        empty="",
        one="percentiles:1",
        three="percentiles:1,2,3",
        order="percentiles:99,1",
        outside="percentiles:-1,101",
        nan="percentiles:nan,nan",
        per="mean_std/tile",
    ),
    "skip": texts(word="a", empty="", nan="dark:nan", half="dark:", fill="dark:3,fill=a"),
    "memory_limit": texts(word="a", empty="", negative="-1", zero="0", dots="1.2.3", inf="inf", nan="nan", unit="3XB"),
    "layout": texts(foo="foo", empty="", long="N" * 999),
    "network": texts(module="no_module:f", empty="", word="foo"),
    "input": texts(word="foo", empty="", nothing="w=", text="w=foo", unknown="w=0.5", file="w=no.npy", nul="w=a\0.npy"),
    "model_output": texts(unknown="z", empty=""),
}
MODEL = texts(
    word="nonsense",
    empty="",
    missing="no.onnx",
    module="no_module:f",
    value="numpy:pi",
    nul="a\0.onnx",
    py="no.py:f",
    colon=":",
    long="a" * 5000 + ".onnx",
    czann="no.czann",
    npy=str(world.files() / "image.npy"),
)
WORDS = {
    "sources": ("image", "source", "there is no", "no.", "file", "pattern", "folder", "NUL", "character"),
    "postprocess": ("postprocessing", "threshold"),
    "model": ("model", "module", "file", "there is no", "import", "callable", "reference"),
    "output": ("ending", "name", "folder", "path", "."),
    "patch_size": ("patch",),
    "overlaps": ("overlap",),
    "batch_size": ("batch",),
    "skip": ("skip", "threshold"),
    "normalize": ("normali", "percentile", "per "),
    "layout": ("layout", "axes"),
    "input": ("input", "value"),
    "model_output": ("output",),
}


def _valid(**more: Any) -> dict[str, Any]:
    return {
        "sources": str(world.files() / "image.tif"),
        "model": str(world.files() / "network.onnx"),
        "patch_size": "32,32",
        "overlaps": "8,8",
        **more,
    }


entry("patchloom plan", lambda: (_command("plan", "--json"), _valid()), **COMMON, model=MODEL, words=WORDS)
entry(
    "patchloom predict",
    lambda: (_command("predict", "--quiet"), _valid(output="out.ome.zarr")),
    **COMMON,
    model=MODEL,
    augment=WORD,
    pyramid=WORD,
    ome_zarr=texts(word="0.6", empty="", number="5"),
    output=texts(
        ending="out.png",
        empty="",
        nul="a\0b.npy",
        long="a" * 5000 + ".npy",
        folder=".",
        no_folder="no/such/folder/out.npy",
        none="out",
        long_zarr="a" * 5000 + ".ome.zarr",
    ),
    words={**WORDS, "ome_zarr": ("ome_zarr", "version")},
)
entry(
    "patchloom info",
    lambda: (_command("info"), {"sources": str(world.files() / "image.tif")}),
    sources=COMMON["sources"],
    words=WORDS,
)
entry(
    "patchloom status",
    lambda: (_command("status"), {"sources": str(world.files() / "image.ome.zarr")}),
    sources=texts(missing="no.ome.zarr", nul="a\0b.ome.zarr", long="a" * 5000 + ".ome.zarr"),
    words={"sources": ("output", "ledger", "no.ome")},
)
