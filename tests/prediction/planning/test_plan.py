"""A plan is plain data: it pickles, goes to JSON and back, and runs in another process to the same bytes."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from patchloom import ModelDescription, OmeZarr, Percentiles, PredictionPlan, SkipDark, SkipOutside, plan, predict
from patchloom.errors import ArgumentError, GeometryError, SinkError, SourceChangedError, SourceNotFoundError
from patchloom.image_stacks import ArrayStack, open_stacks
from patchloom.prediction.planning import fit
from patchloom.stitching import block_grid

TILES: dict[str, Any] = {"patch_size": 32, "overlaps": 8, "batch_size": 3}

RUN = """
import pickle, sys
from pathlib import Path
import numpy as np
import patchloom as pl

def root(batch):
    return np.sqrt(batch.astype(np.float32) + 1)

root.identity = "root"
content = Path(sys.argv[1]).read_bytes()
planned = pickle.loads(content) if sys.argv[1].endswith(".pickle") else pl.PredictionPlan.from_json(content.decode())
planned.run(root, sys.argv[2], progress=False)
"""


def root(batch: np.ndarray) -> np.ndarray:
    return np.sqrt(batch.astype(np.float32) + 1)


root.identity = "root"  # type: ignore[attr-defined]  # the same in every process


class Unread(ArrayStack):
    """An image of which no pixel may be read."""

    def read(self, selection: Any) -> np.ndarray:
        pytest.fail("a pixel was read")


@pytest.fixture
def source(tmp_path: Path, rng: np.random.Generator) -> Path:
    np.save(tmp_path / "image.npy", rng.integers(0, 2**16, (2, 150, 130), np.uint16))
    return tmp_path / "image.npy"


def files(folder: Path) -> dict[str, bytes]:
    """All files of an output, without its name in the metadata."""
    name = folder.name.removesuffix(".ome.zarr").encode()
    return {
        str(path.relative_to(folder)): path.read_bytes().replace(name, b"NAME")
        for path in folder.rglob("*")
        if path.is_file()
    }


KINDS: dict[str, dict[str, Any]] = {
    "cropped": {},
    "blended": {"blend": "hann"},
    "measured": {"normalize": Percentiles(1, 99, per="sample"), "blend": "linear"},
    "skipped": {"skip": SkipDark(3000, fill=7)},
    "postprocessed": {"postprocess": "threshold:100"},
}


@pytest.mark.parametrize("form", ["plan.json", "plan.pickle"])
@pytest.mark.parametrize("kind", KINDS)
def test_another_process(kind: str, form: str, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process runs a plan to the same bytes, in its blocks, though it would choose larger ones."""
    options = {**TILES, **KINDS[kind], "axes": "TYX"}
    with monkeypatch.context() as patch:
        patch.setattr(fit, "BLOCK_SIZES", [2000])
        predict(root, source, tmp_path / "whole.ome.zarr", progress=False, **options)
        planned = plan(source, model=root, measure=True, **options)
    (tmp_path / form).write_bytes(pickle.dumps(planned) if form == "plan.pickle" else planned.to_json().encode())
    command = [sys.executable, "-c", RUN, tmp_path / form, tmp_path / "other.ome.zarr"]
    subprocess.run(list(map(str, command)), check=True)
    assert files(tmp_path / "other.ome.zarr") == files(tmp_path / "whole.ome.zarr")


@pytest.mark.parametrize("options", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("measure", [False, True])
def test_round_trip(options: dict[str, Any], measure: bool, source: Path) -> None:
    """A plan is the same after pickling and after JSON, with all that is computed from it."""
    planned = plan(source, axes="TYX", model=root, measure=measure, memory_limit=10**8, **TILES, **options)
    for again in (pickle.loads(pickle.dumps(planned)), PredictionPlan.from_json(planned.to_json())):
        assert again == planned
        assert again.summary() == planned.summary()
        assert [list(again.tiling), again.memory] == [list(planned.tiling), planned.memory]
        assert str(again) == str(planned)


def test_size(rng: np.random.Generator) -> None:
    """A plan of a megapixel in memory takes a few kilobytes."""
    planned = plan(rng.random((1000, 1000)), axes="YX", normalize="mean_std", measure=True, **TILES)
    assert len(pickle.dumps(planned)) < 5000
    assert len(planned.to_json()) < 5000


@pytest.mark.parametrize("options", [{}, {"normalize": "mean_std"}, {"skip": "dark:3"}])
def test_reads_no_pixel(options: dict[str, Any]) -> None:
    """A plan reads no pixel unless asked to measure."""
    planned = plan(Unread(np.zeros((90, 80)), "YX"), model=root, **TILES, **options)
    assert planned.survey.normalizations == planned.survey.outputs == ()
    assert planned.summary()["is_measured"] is ("normalize" not in options)
    assert ("not measured yet" in str(planned)) is ("normalize" in options)


def test_arrays(rng: np.random.Generator) -> None:
    """A plan of arrays runs with the same arrays only."""
    image = rng.random((70, 60))
    planned = plan(image, axes="YX", **TILES)
    with pytest.raises(SourceNotFoundError, match=r"'array', which is not a file: give .* run\(..., sources=...\)"):
        planned.run(root)
    with pytest.raises(SourceChangedError, match=r"\[70, 61\].*was .*\[70, 60\].*: plan again"):
        planned.run(root, sources=np.zeros((70, 61)))
    with pytest.raises(SourceChangedError, match="the plan is for 1 images, and there are 2: plan again"):
        planned.run(root, sources=[image, image])
    result = planned.run(root, sources=image, progress=False)
    assert np.array_equal(result, predict(root, image, axes="YX", progress=False, **TILES))


def test_changed_file(source: Path) -> None:
    """A file that changed since it was planned is refused."""
    planned = plan(source, axes="TYX", **TILES)
    np.save(source, np.load(source))
    with pytest.raises(
        SourceChangedError, match=r"image\.npy has changed on disk since the run was planned: plan again"
    ):
        planned.run(root)


def test_series(source: Path, tmp_path: Path) -> None:
    """A plan of one image in a list gives a list, as `predict` does."""
    planned = plan([source], axes="TYX", **TILES)
    (written,) = PredictionPlan.from_json(planned.to_json()).run(root, tmp_path / "out", progress=False)
    assert written == tmp_path / "out" / "image.ome.zarr"


def test_slices(tmp_path: Path, rng: np.random.Generator) -> None:
    """A plan of a 2D model runs slice by slice after JSON, too."""
    np.save(tmp_path / "stack.npy", rng.random((3, 40, 30)))
    planned = plan(tmp_path / "stack.npy", axes="ZYX", patch_size=(16, 16))
    result = PredictionPlan.from_json(planned.to_json()).run(root, progress=False)
    assert np.array_equal(result, root(np.load(tmp_path / "stack.npy")))


class Halves:
    """A skip rule of the user's own."""

    identity, images, fill = json.dumps("left"), (), 5

    def check(self, image_stacks: Any) -> None:
        pass

    def skips(self, tiles: Any) -> list[bool]:
        return [spec["coords"][-1] == 0 for spec in tiles.specs]


class Negative:
    """A postprocessing of the user's own."""

    identity = "negative"

    def output(self, n_channels: int, dtype: np.dtype[Any]) -> tuple[int, np.dtype[Any]]:
        return n_channels, dtype

    def __call__(self, block: np.ndarray, /) -> np.ndarray:
        return -block


def test_own_rules(source: Path) -> None:
    """JSON keeps the identity of a user's rules, which are given again."""
    planned = plan(source, axes="TYX", skip=Halves(), postprocess=Negative(), **TILES)
    text = planned.to_json()
    with pytest.raises(ArgumentError, match="skips tiles by '\"left\"': give the same rule as skip"):
        PredictionPlan.from_json(text, postprocess=Negative())
    with pytest.raises(ArgumentError, match="negative"):
        PredictionPlan.from_json(text, skip=Halves())
    with pytest.raises(ArgumentError, match="give the same skip again"):
        PredictionPlan.from_json(text, skip=SkipDark(3), postprocess=Negative())
    again = PredictionPlan.from_json(text, skip=Halves(), postprocess=Negative())
    result = again.run(root, progress=False)
    assert (result[..., 0] == 5).all()
    assert (result[..., -1] < 0).all()


@pytest.mark.parametrize(
    "text", ["", "{}", "[1]", "null", "[" * 100_000, '{"plan": 1}', '{"plan": 1, "request": {}, "survey": 3}']
)
def test_not_a_plan(text: str) -> None:
    """A text that is not a plan is refused."""
    with pytest.raises(ArgumentError, match=r"text is not a plan.*give what to_json returned"):
        PredictionPlan.from_json(text)


DAMAGED: list[tuple[str, Any]] = [
    ("block_shapes", [[0, 0]]),
    ("block_shapes", [[2**40, 2**40]]),
    ("block_shapes", [[10**40, 150]]),
    ("n_shared_axes", 3),
    ("n_shared_axes", 1.0),
    ("survey.memory_limit", 1),
    ("survey.is_series", "no"),
    ("survey.outputs", [[]]),
    ("survey.outputs.0.0.scale", ["1/0", "1"]),
    ("survey.outputs.0.0.scale", ["1e400", "1"]),
    ("survey.outputs.0.0.margin", [float("inf"), 0]),
    ("survey.outputs.0.0.margin", [0, 0, 0]),
    ("survey.outputs.0.0.dtype", "object"),
    (
        "survey.normalizations",
        [{"method": "mean_std", "scale": [[1.0]], "offset": [[0.0]], "n_ignored": 0, "n_flat": 0}],
    ),
    ("survey.stacks", []),
    ("survey.stacks.0.n_planes", 3),
    ("survey.stacks.0.source", {"a": 1}),
    ("survey.stacks.0.chunk_shape", [0, 0]),
    ("survey.stacks.0.data_shape", [2, 1, 2**61, 130]),
    ("survey.model.batch_size", 0),
    ("survey.model.out_channel_names", 1.5),
]


@pytest.mark.parametrize(
    ("place", "value"), DAMAGED, ids=[f"{place}-{number}" for number, (place, _) in enumerate(DAMAGED)]
)
def test_damaged_plan(place: str, value: Any, source: Path) -> None:
    """A plan in which one value is not possible is refused, in bounded time and memory."""
    planned = plan(source, model=np.negative, axes="TYX", normalize="mean_std", measure=True, seams="centered", **TILES)
    values = json.loads(planned.to_json())
    *path, last = [int(step) if step.isdigit() else step for step in place.split(".")]
    inner = values
    for step in path:
        inner = inner[step]
    inner[last] = value
    with pytest.raises(ArgumentError):
        PredictionPlan.from_json(json.dumps(values))


def test_too_many_tiles() -> None:
    """An axis with more tiles than a plan can list is refused before they are listed."""
    with pytest.raises(GeometryError, match=r"image stack 0 has \d+ tiles along Y: .* take a larger patch_size"):
        plan(ArrayStack(np.broadcast_to(np.uint8(0), (2**40, 8)), "YX"), patch_size=8, overlaps=0)


def test_another_folder(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plan of a relative path finds its image from any working directory."""
    monkeypatch.chdir(source.parent)
    planned = plan(source.name, axes="TYX", **TILES)
    (source.parent / "elsewhere").mkdir()
    monkeypatch.chdir(source.parent / "elsewhere")
    assert planned.run(root, progress=False).shape == (2, 150, 130)


def test_another_version(source: Path) -> None:
    """A plan of another version is refused."""
    text = plan(source, axes="TYX", **TILES).to_json().replace('"plan": 1', '"plan": 2')
    with pytest.raises(ArgumentError, match="a plan of another version of Patchloom: plan again"):
        PredictionPlan.from_json(text)


def test_masks(source: Path) -> None:
    """Masks are not part of a plan, so that their rule is given again."""
    mask = ArrayStack(np.ones((1, 10, 10), np.uint8), "TYX")
    planned = plan(source, axes="TYX", skip=SkipOutside([mask]), **TILES)
    with pytest.raises(ArgumentError, match="give the same rule as skip"):
        PredictionPlan.from_json(planned.to_json())
    with pytest.raises(ArgumentError, match="a skip rule of fill 0, and it is 3"):
        PredictionPlan.from_json(planned.to_json(), skip=SkipOutside([mask], fill=3))
    assert PredictionPlan.from_json(planned.to_json(), skip=SkipOutside([mask])).summary() == planned.summary()


def test_memory_limit_of_resumed_run(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A resumed run keeps its blocks with another memory limit, if they fit."""
    calls = iter(range(10**6))

    def fails_once(batch: np.ndarray) -> np.ndarray:
        if next(calls) == 20:
            raise RuntimeError
        return root(batch)

    fails_once.identity = "root"  # type: ignore[attr-defined]
    monkeypatch.setattr(block_grid, "CHUNK_SIZE", {2: 40, 3: 16})
    monkeypatch.setattr(fit, "BLOCK_SIZES", [2000])
    options: dict[str, Any] = {"axes": "TYX", "blend": "hann", "progress": False, **TILES}
    output = tmp_path / "out.ome.zarr"
    with pytest.raises(RuntimeError):
        predict(fails_once, source, output, memory_limit=10**8, **options)
    with pytest.raises(GeometryError, match=r"the unfinished run needs \d+: allow more, or start afresh"):
        predict(fails_once, source, output, memory_limit=20_000, **options)
    monkeypatch.setattr(fit, "BLOCK_SIZES", [4000])
    predict(fails_once, source, output, memory_limit=10**9, **options)
    monkeypatch.setattr(fit, "BLOCK_SIZES", [2000])
    predict(root, source, tmp_path / "whole.ome.zarr", **options)
    assert files(output) == files(tmp_path / "whole.ome.zarr")


def test_chunks(source: Path, tmp_path: Path) -> None:
    """Chunks are the divisors of a block that are nearest to what is asked for."""
    zarr = pytest.importorskip("zarr")
    written = predict(root, source, OmeZarr(tmp_path / "out.ome.zarr", chunks=50), axes="TYX", progress=False, **TILES)
    array = zarr.open_group(written, mode="r")["0"]
    assert array.chunks == (1, 50, 65)
    with pytest.raises(GeometryError, match=r"chunks is \(1, 50, 50\): it has 3 numbers and must have 2"):
        predict(pytest.fail, source, OmeZarr(tmp_path / "b.ome.zarr", chunks=(1, 50, 50)), axes="TYX", **TILES)


def test_fixed_batch(rng: np.random.Generator) -> None:
    """A fixed batch size is the default, and each tile is computed once."""
    sizes: list[int] = []

    class Four:
        description = ModelDescription(batch_size=4)

        def __call__(self, batch: np.ndarray) -> np.ndarray:
            sizes.append(len(batch))
            return batch

    image = rng.random((64, 64))
    planned = plan(image, model=Four(), axes="YX", patch_size=16, overlaps=0)
    assert planned.layout.batch_size == 4
    assert np.array_equal(planned.run(Four(), sources=image, progress=False), image)
    assert sizes == [4] * (1 + 16 // 4), "one batch shows the outputs, and four are the image"


def test_model_that_is_given_late(rng: np.random.Generator) -> None:
    """A plan without a model takes what the model declares when it runs."""
    image = rng.random((40, 30))

    class Fixed:
        description = ModelDescription(patch_size=(16, 16), batch_size=4)

        def __call__(self, batch: np.ndarray) -> np.ndarray:
            assert batch.shape == (4, 1, 16, 16)
            return batch

    planned = plan(image, axes="YX", patch_size=16, memory_limit=10**8)
    assert np.array_equal(planned.run(Fixed(), sources=image, progress=False), image)
    with pytest.raises(GeometryError, match=r"patch_size is \(32, 32\), but the model takes \(16, 16\) only"):
        plan(image, axes="YX", **TILES).run(Fixed(), sources=image)


def test_plan_of_other_blocks(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A complete plan does not resume a run of other blocks."""
    calls = iter(range(10**6))

    def fails_once(batch: np.ndarray) -> np.ndarray:
        if next(calls) == 20:
            raise RuntimeError
        return root(batch)

    fails_once.identity = "root"  # type: ignore[attr-defined]
    monkeypatch.setattr(block_grid, "CHUNK_SIZE", {2: 40, 3: 16})
    monkeypatch.setattr(fit, "BLOCK_SIZES", [2000])
    planned = plan(source, axes="TYX", model=root, measure=True, **TILES)
    monkeypatch.setattr(fit, "BLOCK_SIZES", [4000])
    others = plan(source, axes="TYX", model=root, measure=True, **TILES)
    with pytest.raises(RuntimeError):
        planned.run(fails_once, tmp_path / "out.ome.zarr", progress=False)
    with pytest.raises(SinkError, match=r"unfinished run of another plan:\n  block_shapes: .* before, .* now"):
        others.run(root, tmp_path / "out.ome.zarr", progress=False)
    planned.run(root, tmp_path / "out.ome.zarr", progress=False)
    predict(root, source, tmp_path / "whole.ome.zarr", axes="TYX", progress=False, **TILES)
    read = (
        open_stacks(tmp_path / name)[0].extract_patch(0, None, (0, 0), (150, 130))
        for name in ("out.ome.zarr", "whole.ome.zarr")
    )
    assert np.array_equal(*read)
