"""Every spelling of a path names the same file, for every kind of source and output."""

import os
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorstore as ts
import tifffile
import zarr
from onnx import parser
from pylibCZIrw import czi

import patchloom as pl
from patchloom.errors import SinkError, SourceError
from patchloom.local_paths import is_url, normalize_path

IMAGE = np.random.default_rng(0).integers(1, 250, (20, 24), np.uint8)
FOLDER = "a b é 100%25 [1]"
"""A space, another alphabet, an escape of URLs, and brackets of a pattern."""


def write_czi(path):
    with czi.create_czi(str(path)) as file:
        for scene in range(2):
            file.write(IMAGE[..., np.newaxis], location=(100 * scene, 0), plane={"C": 0}, scene=scene)


def write_n5(path):
    store = {"driver": "n5", "kvstore": {"driver": "file", "path": f"{path}/"}}
    metadata = {"dimensions": [20, 24], "blockSize": [8, 8], "dataType": "uint8", "compression": {"type": "raw"}}
    ts.open({**store, "metadata": metadata}, create=True).result()[...] = IMAGE


def write_ome_zarr(path):
    axes = [{"name": name, "type": "space", "unit": "micrometer"} for name in "yx"]
    scale = [{"type": "scale", "scale": [0.5, 0.5]}]
    multiscale = {"axes": axes, "datasets": [{"path": "0", "coordinateTransformations": scale}]}
    group = zarr.open_group(path, mode="w", attributes={"ome": {"version": "0.5", "multiscales": [multiscale]}})
    group.create_array("0", data=IMAGE, chunks=(8, 8))


def write_folder(path):
    path.mkdir()
    tifffile.imwrite(path / "img.tif", IMAGE)


SOURCES = {
    "image.tif": lambda path: tifffile.imwrite(path, IMAGE),
    "image.npy": lambda path: np.save(path, IMAGE),
    "image.zarr": lambda path: zarr.create_array(path, data=IMAGE, chunks=(8, 8)),
    "zarr without ending": lambda path: zarr.create_array(path, data=IMAGE, chunks=(8, 8), zarr_format=2),
    "image.ome.zarr": write_ome_zarr,
    "image.n5": write_n5,
    "image.czi": write_czi,
    "folder": write_folder,
}
WITHIN = {"image.ome.zarr": "/0", "image.czi": "@1", "folder": "/*.tif"}
"""Additions to a name: a level, a scene, a pattern."""

SPELLINGS = {
    "absolute": lambda root, name: str(root / FOLDER / name),
    "as a path": lambda root, name: root / FOLDER / name,
    "relative": lambda root, name: f"../{FOLDER}/{name}",
    "in this folder": lambda root, name: f"./link/{name}",
    "up and down": lambda root, name: f"{root}/here/../{FOLDER}/{name}",
    "as a path with dots": lambda root, name: Path("..") / FOLDER / name,
    "up from a link": lambda root, name: f"elsewhere/../{FOLDER}/{name}",
    "home": lambda root, name: f"~/{FOLDER}/{name}",
    "home and up": lambda root, name: f"~/here/../{FOLDER}/{name}",
    "trailing slash": lambda root, name: f"{root}/{FOLDER}/{name}/",
    "doubled slashes": lambda root, name: f"/{root}//{FOLDER}//{name}",
    "in a linked folder": lambda root, name: str(root / "here" / "link" / name),
    "URL": lambda root, name: (root / FOLDER / name).as_uri(),
    "URL of a folder": lambda root, name: (root / FOLDER / name).as_uri() + "/",
    "URL with a host": lambda root, name: (root / FOLDER / name).as_uri().replace("file://", "file://localhost"),
    "URL as a path": lambda root, name: Path((root / FOLDER / name).as_uri()),
    "URL with dots": lambda root, name: f"{(root / 'here').as_uri()}/../{(Path('/') / FOLDER / name).as_uri()[8:]}",
    "URL with a query": lambda root, name: (root / FOLDER / name).as_uri() + "?version=1",
}
FOLDERS_ONLY = (SPELLINGS["trailing slash"], SPELLINGS["URL of a folder"])
spellings = pytest.mark.parametrize("spelling", SPELLINGS.values(), ids=SPELLINGS)


@pytest.fixture
def root(tmp_path, monkeypatch):
    """Return the home directory; the working directory is `here` in it, and `elsewhere` a link that leads far away."""
    root = tmp_path.resolve()
    for folder in ("here", FOLDER, "far/away"):
        (root / folder).mkdir(parents=True)
    (root / "here" / "link").symlink_to(root / FOLDER)
    (root / "here" / "elsewhere").symlink_to(root / "far" / "away")
    (root / "far" / FOLDER).symlink_to(root / FOLDER)
    monkeypatch.setenv("HOME", str(root))
    monkeypatch.chdir(root / "here")
    return root


@spellings
@pytest.mark.parametrize("name", SOURCES)
def test_source(root, name, spelling):
    """A source is read by every spelling of its path."""
    SOURCES[name](root / FOLDER / name)
    within = WITHIN.get(name, "")
    sources = [spelling(root, name)] if name != "image.czi" else []  # a CZI of two scenes needs the number of a scene
    if within and spelling not in FOLDERS_ONLY:
        below = spelling(root, name + within)
        sources.append(below.replace("%40", "@").replace("%2A", "*") if isinstance(below, str) else below)
    for source in sources:
        (stack,) = pl.open_stacks(source, axes="YX")
        np.testing.assert_array_equal(stack.extract_patch(0, None, (0, 0), IMAGE.shape)[0], IMAGE, str(source))
        assert not is_url(stack.source)


@spellings
@pytest.mark.parametrize("name", ["out.ome.zarr", "out.ome.tif", "out.npy", "series"])
def test_output(root, name, spelling):
    """An output is written to the same place by every spelling of its path."""
    image = IMAGE if name != "series" else [IMAGE]
    pl.predict(lambda batch: batch, image, spelling(root, name), axes="YX", patch_size=(16, 16), progress=False)
    written = root / FOLDER / name / ("array.ome.zarr" if name == "series" else "")
    (stack,) = pl.open_stacks(written, axes="YX")
    np.testing.assert_array_equal(stack.extract_patch(0, None, (0, 0), IMAGE.shape)[0], IMAGE)
    assert {path.name for path in (root / FOLDER).iterdir()} == {name}


@spellings
def test_input_kept(root, spelling):
    """An input is not replaced by an output, for every spelling of its path."""
    np.save(root / FOLDER / "image.npy", IMAGE)
    with pytest.raises(SinkError, match="is the input"):
        pl.predict(
            lambda batch: batch,
            root / FOLDER / "image.npy",
            spelling(root, "image.npy"),
            axes="YX",
            patch_size=(16, 16),
            overwrite=True,
            progress=False,
        )
    np.testing.assert_array_equal(np.load(root / FOLDER / "image.npy"), IMAGE)


@spellings
def test_model(root, spelling, monkeypatch):
    """A model is loaded by every spelling of its path."""
    identity = '<ir_version: 8, opset_import: ["": 17]> network (uint8[1, 1, 8, 8] x) => (uint8[1, 1, 8, 8] y) { y = Identity(x) }'
    (root / FOLDER / "net.onnx").write_bytes(parser.parse_model(identity).SerializeToString())
    assert pl.load_model(spelling(root, "net.onnx")).description.patch_size == (8, 8)
    monkeypatch.setattr(sys, "path", sys.path[:])
    name = f"net{list(SPELLINGS.values()).index(spelling)}"
    (root / FOLDER / f"{name}.py").write_text("def same(batch):\n    return batch\n")
    function = spelling(root, f"{name}.py:same")
    assert pl.load_model(function.replace("%3A", ":") if isinstance(function, str) else function)(IMAGE) is IMAGE


@spellings
def test_table_and_cache(root, spelling):
    """Tables and caches are found by every spelling of their path."""
    table = pl.SpecTable.from_specs([{"data_idx": 0, "sample_idx": 0, "coords": (0, 8), "patch_size": (16, 16)}])
    table.save(spelling(root, "table.npz"))
    assert pl.SpecTable.load(root / FOLDER / "table.npz") == pl.SpecTable.load(spelling(root, "table.npz")) == table
    np.save(root / "image.npy", IMAGE)
    pl.score_cells(pl.open_stacks(root / "image.npy", "YX"), (8, 8), [pl.MaxFilter()], cache=spelling(root, "scores"))
    assert len(list((root / FOLDER / "scores").iterdir())) == 1


def test_idempotent(root):
    """A normalized path stays as it is when it is normalized again."""
    for spelling in SPELLINGS.values():
        once = normalize_path(spelling(root, "a.tif"))
        assert normalize_path(once) == once
        assert isinstance(once, str) == isinstance(spelling(root, "a.tif"), str)
        assert Path(once).parent.samefile(root / FOLDER)


@pytest.mark.parametrize(
    "place", ["https://example.org/a.zarr?x=1", "s3://bucket/a.zarr", "file://host/a.zarr", "~no-such-user/a"]
)
def test_not_local(place):
    """URLs of servers and unknown homes stay as they are."""
    assert normalize_path(place) == place


@pytest.mark.parametrize(
    "source", ["file://host/a.zarr", "", "\0.tif", "../none.zarr", "~/none.n5", "file:///none.tif"]
)
def test_missing_source(root, source):
    """A path without a file is refused."""
    with pytest.raises(SourceError):
        pl.open_stacks(source, "YX")


needs_posix = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such links and pipes")


@needs_posix
@pytest.mark.parametrize("name", ["loop.tif", "loop.npy", "loop.czi", "loop.zarr", "loop/image.tif", "loop/image.zarr"])
def test_link_loop_source(root, name):
    """A loop of links is refused as a source."""
    (root / name.split("/", maxsplit=1)[0]).symlink_to(root / name.split("/", maxsplit=1)[0])
    with pytest.raises(SourceError):
        pl.open_stacks(root / name, "YX")


@needs_posix
@pytest.mark.parametrize("name", ["loop.ome.tif", "loop.npy", "loop.ome.zarr", "loop/image.npy"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_link_loop_output(root, name, overwrite):
    """A loop of links is refused as an output."""
    (root / name.split("/", maxsplit=1)[0]).symlink_to(root / name.split("/", maxsplit=1)[0])
    arguments = {"axes": "YX", "patch_size": (8, 8), "overlaps": (0, 0), "progress": False, "overwrite": overwrite}
    with pytest.raises(SinkError):
        pl.predict(lambda batch: batch, IMAGE, root / name, **arguments)


@needs_posix
@pytest.mark.parametrize(
    "name", ["pipe.tif", "pipe.npy", "pipe.czi", "a.zarr/zarr.json", "a.zarr/.zarray", "a.n5/info"]
)
def test_named_pipe(root, name):
    """A named pipe is refused, and the process does not wait for it."""
    pipe = root / name
    pipe.parent.mkdir(exist_ok=True)
    os.mkfifo(pipe)
    with pytest.raises(SourceError):
        pl.open_stacks(pipe if pipe.parent == root else pipe.parent, "YX")
