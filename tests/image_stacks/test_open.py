import pickle
import shutil
import sys

import numpy as np
import pytest
import tifffile
import zarr

from patchloom.errors import ArgumentError, AxesError, MissingExtraError, SourceError, SourceNotFoundError
from patchloom.image_stacks import (
    ArrayStack,
    CziStack,
    ImageStack,
    NpyStack,
    TiffStack,
    ZarrStack,
    is_series,
    open_stacks,
)


def write_tiff(path, size=8):
    tifffile.imwrite(path, np.zeros((size, 9), "uint8"))
    return path


def write_zarr(path, shape=(8, 9)):
    zarr.create_array(
        path, data=np.zeros(shape, "uint8"), dimension_names=["c", "y", "x"][-len(shape) :], overwrite=True
    )
    return path


@pytest.fixture
def folder(tmp_path):
    """Return a folder with images of all formats, and with what is none."""
    (tmp_path / "images").mkdir()
    folder = tmp_path / "images"
    for name in ("img10.tif", "img2.tif", "IMG1.TIFF", ".hidden.tif"):
        write_tiff(folder / name)
    write_zarr(folder / "img3.ome.zarr")
    write_zarr(folder / "img4")
    np.save(folder / "array.npy", np.zeros((3, 8, 9)))
    for name in ("notes.txt", "picture.png", "img5.tif.txt"):
        (folder / name).write_text("no image")
    (folder / "subfolder").mkdir()
    write_tiff(folder / "subfolder" / "deeper.tif")
    return folder


def names(stacks):
    return [stack.source.name for stack in stacks]


def test_sources(folder, sample_file):
    """Every kind of source is opened."""
    czi = sample_file("napari-czann-segment", "PGC_20X.czi")
    stack = ArrayStack(np.zeros((4, 5)), "YX")
    sources = [
        folder / "img2.tif",
        str(folder / "img3.ome.zarr"),
        czi,
        np.zeros((3, 8, 9)),
        stack,
        folder / "array.npy",
    ]
    stacks = open_stacks(sources, axes=[None, None, None, "CYX", None, "ZYX"])
    assert [type(stack) for stack in stacks] == [TiffStack, ZarrStack, CziStack, ArrayStack, ArrayStack, NpyStack]
    assert stacks[4] is stack
    assert all(isinstance(stack, ImageStack) for stack in stacks)
    assert stacks[5].data_shape == (1, 1, 3, 8, 9)


def test_one_source(folder):
    """One source gives a list with one stack."""
    for source in (folder / "img2.tif", str(folder / "img2.tif"), np.zeros((8, 9)), ArrayStack(np.zeros((8, 9)), "YX")):
        (stack,) = open_stacks(source, "YX")
        assert stack.data_shape == (1, 1, 8, 9)


def test_other_stacks():
    """Stacks of other libraries are returned unchanged."""

    class Foreign:
        source, data_shape, data_dtype = "theirs", (1, 1, 4, 4), np.dtype("uint8")
        original_axes, original_data_shape = "YX", (4, 4)

        def extract_patch(self, sample_idx, channels, coords, patch_size):
            raise NotImplementedError

    foreign = Foreign()
    assert open_stacks(foreign) == [foreign]
    assert open_stacks([foreign], "YX") == [foreign]
    with pytest.raises(AxesError, match="axes are 'XY', but theirs is an open stack with axes 'YX'"):
        open_stacks(foreign, "XY")


def test_folder(folder):
    """A folder is its images in natural order."""
    (folder / "array.npy").unlink()
    assert names(open_stacks(folder)) == ["IMG1.TIFF", "img2.tif", "img3.ome.zarr", "img4", "img10.tif"]


def test_pattern(folder):
    """A pattern is its matches in natural order."""
    assert names(open_stacks(str(folder / "img*.tif"))) == ["img2.tif", "img10.tif"]
    assert names(open_stacks(folder / "**" / "[di]*.tif")) == ["img2.tif", "img10.tif", "deeper.tif"]
    assert names(open_stacks(str(folder / "img[23]*"))) == ["img2.tif", "img3.ome.zarr"]


def test_brackets(tmp_path):
    """The name of a file with brackets is not a pattern."""
    write_tiff(tmp_path / "cells[1].tif")
    assert names(open_stacks(tmp_path / "cells[1].tif")) == ["cells[1].tif"]


def test_axes_of_folder(folder):
    """The axes of a folder are those of each image."""
    sources = [folder / "subfolder", np.zeros((4, 4))]
    assert [stack.original_axes for stack in open_stacks(sources, axes=["XY", "YX"])] == ["XY", "YX"]


def test_name_of_zarr(folder):
    """A Zarr with any name is one image."""
    (stack,) = open_stacks(folder / "img4")
    assert isinstance(stack, ZarrStack)


def test_levels(tmp_path):
    """A level is opened of every format with pyramids."""
    with tifffile.TiffWriter(tmp_path / "a.ome.tif") as tif:
        tif.write(np.zeros((64, 64), "uint8"), subifds=1, metadata={"axes": "YX"})
        tif.write(np.zeros((32, 32), "uint8"), subfiletype=1)
    (half,) = open_stacks(tmp_path / "a.ome.tif", level=1)
    assert half.data_shape == (1, 1, 32, 32)
    assert open_stacks(np.zeros((4, 4)), "YX", level=0)[0].data_shape == (1, 1, 4, 4)
    np.save(tmp_path / "a.npy", np.zeros((4, 4)))
    for source in (np.zeros((4, 4)), ArrayStack(np.zeros((4, 4)), "YX"), tmp_path / "a.npy"):
        with pytest.raises(SourceNotFoundError, match="has no level 1, it is a single image"):
            open_stacks(source, "YX", level=1)


def test_scene(sample_file):
    """A scene is named by its number behind the file."""
    czi = sample_file("napari-czann-segment", "Tumor_HE_Stain_T76.czi")
    (stack,) = open_stacks(f"{czi}@0")
    assert stack.data_shape == (1, 3, 1200, 1600)
    with pytest.raises(SourceNotFoundError, match="has no scene 3"):
        open_stacks(f"{czi}@3")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: folder / "none.tif", r"there is no file .*none\.tif"),
        (lambda folder: folder / "none.czi", r"there is no file .*none\.czi"),
        (lambda folder: folder / "none.npy", r"there is no file .*none\.npy"),
        (lambda folder: folder / "none.zarr", r"there is no Zarr at .*none\.zarr"),
        (lambda folder: folder / "none", "there is no file or folder .*none"),
        (lambda folder: folder / "none*.tif", r"none\*\.tif matches 0 files and folders, none of them an image"),
        (
            lambda folder: folder / "*.txt",
            r"\*\.txt matches 2 files and folders, none of them an image: give TIFF",
        ),
    ],
)
def test_missing(folder, make, message):
    """Missing files, folders and matches are not found."""
    with pytest.raises(SourceNotFoundError, match=message):
        open_stacks(make(folder))
    with pytest.raises(FileNotFoundError):
        open_stacks(str(make(folder)))


def test_empty_folder(tmp_path):
    """A folder without images is not found."""
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(SourceNotFoundError, match="contains 1 files and folders, none of them an image: give TIFF"):
        open_stacks(tmp_path)


@pytest.mark.parametrize("name", ["picture.png", "notes.txt"])
def test_other_formats(folder, name):
    """Other formats are refused with a list of those supported."""
    with pytest.raises(SourceError, match=rf"{name} is not a supported image: give TIFF \(\.tif.*NumPy \(\.npy\)"):
        open_stacks(folder / name)


@pytest.mark.parametrize("source", [None, 7, [7], [None], [[[1, 2], [3, 4]]]])
def test_other_objects(source):
    """Other objects than sources are refused."""
    with pytest.raises(SourceError, match="is not a source of images: give a path, a URL, an array or an image stack"):
        open_stacks(source, "YX")


def test_empty_series():
    """An empty series is refused."""
    with pytest.raises(ArgumentError, match="the series is empty: give at least one source"):
        open_stacks([])


def test_number_of_axes(folder):
    """A list of axes must have one entry for each source."""
    with pytest.raises(AxesError, match="axes are given for 2 sources, but there are 1"):
        open_stacks([folder], axes=["YX", "YX"])
    with pytest.raises(AxesError, match="axes are given for 1 sources, but there are 2"):
        open_stacks([folder, folder], axes=["YX"])


@pytest.mark.parametrize(
    ("axes", "message"), [("QYX", "unknown axis 'Q'"), ("ZYX", "name 3 axes"), (5, "must be a string")]
)
def test_contradicting_axes(axes, message):
    """Axes that contradict those of an open stack are refused."""
    with pytest.raises(AxesError, match=message):
        open_stacks([np.zeros((4, 4))], axes=[axes])


def test_type_of_axes(folder, sample_file):
    """Axes that are not a string are refused by every format."""
    czi = sample_file("napari-czann-segment", "PGC_20X.czi")
    for source in (folder / "img2.tif", folder / "img4", folder / "array.npy", czi):
        with pytest.raises(AxesError, match="axes is 5: it must be a string such as 'CYX'"):
            open_stacks([source], axes=[5])


def test_relative_path(folder, sample_file, monkeypatch):
    """A relative path stays valid in another working directory.

    A worker may have another working directory.
    """
    shutil.copy(sample_file("napari-czann-segment", "Tumor_HE_Stain_T76.czi"), folder / "slide.czi")
    tifffile.imwrite(folder / "packed.tif", np.zeros((8, 9), "uint8"), compression="zlib")
    monkeypatch.chdir(folder)
    stacks = open_stacks(
        ["img2.tif", "packed.tif", "img4", "array.npy", "slide.czi"], axes=[None, None, None, "ZYX", None]
    )
    pickled = pickle.dumps(stacks)
    monkeypatch.chdir(folder.parent)
    for stack in pickle.loads(pickled):
        n_dims = len(stack.data_shape) - 2
        assert stack.extract_patch(0, [0], [0] * n_dims, [1] * n_dims).shape == (1,) * (n_dims + 1)


def test_one_error(folder):
    """One error lists every source that failed."""
    (folder / "broken.tif").write_bytes(b"II*\0")
    sources = [
        folder / "img2.tif",
        folder / "broken.tif",
        folder / "none.tif",
        folder / "picture.png",
        np.zeros((3, 4, 4)),
    ]
    with pytest.raises(SourceError) as caught:
        open_stacks(sources)
    first, *listed = str(caught.value).splitlines()
    assert first == "4 of 5 images cannot be opened:"
    for word, line in zip(("broken.tif", "none.tif", "picture.png", "array has shape"), listed, strict=True):
        assert word in line
    assert not isinstance(caught.value, SourceNotFoundError)


def test_class_of_error(tmp_path):
    """An error for several sources has their common class."""
    with pytest.raises(SourceNotFoundError, match=r"2 of 2 images cannot be opened:\n.*a\.tif.*\n.*b\.tif"):
        open_stacks([tmp_path / "a.tif", tmp_path / "b.tif"])
    with pytest.raises(AxesError, match="2 of 3 images cannot be opened"):
        open_stacks([np.zeros((3, 4, 4)), np.zeros((3, 4, 4)), ArrayStack(np.zeros((4, 4)), "YX")])


def test_damaged_folder(folder):
    """Images of a folder that fail are listed."""
    (folder / "img7.tif").write_bytes(b"")
    with pytest.raises(SourceError, match=r"2 of 7 images cannot be opened:\n.*array\.npy has shape.*\n.*img7\.tif"):
        open_stacks(folder)


@pytest.mark.parametrize("content", [b"", b"not an array", b"\x93NUMPY\x01\x00"])
def test_damaged_npy(tmp_path, content):
    """A damaged NumPy file is refused."""
    (tmp_path / "a.npy").write_bytes(content)
    with pytest.raises(SourceError, match=r"a\.npy cannot be read as a NumPy array"):
        open_stacks(tmp_path / "a.npy", "YX")


def test_truncated_npy(tmp_path):
    """A truncated NumPy file is refused."""
    np.save(tmp_path / "a.npy", np.zeros((100, 100)))
    (tmp_path / "a.npy").write_bytes((tmp_path / "a.npy").read_bytes()[:5000])
    with pytest.raises(SourceError, match=r"a\.npy cannot be read as a NumPy array"):
        open_stacks(tmp_path / "a.npy", "YX")


def test_missing_extra(tmp_path, sample_file, monkeypatch):
    """A missing extra is named."""
    shutil.copy(sample_file("napari-czann-segment", "PGC_20X.czi"), tmp_path)
    monkeypatch.setitem(sys.modules, "pylibCZIrw.czi", None)
    with pytest.raises(MissingExtraError, match=r'pip install "patchloom\[czi\]"'):
        open_stacks(tmp_path)


@pytest.mark.parametrize(
    ("sources", "expected"),
    [
        (np.zeros((4, 4)), False),
        (ArrayStack(np.zeros((4, 4)), "YX"), False),
        ("a.tif", False),
        ("a.ome.zarr", False),
        ("s3://bucket/a?b.zarr", False),
        ([np.zeros((4, 4))], True),
        (("a.tif",), True),
        ("*.tif", True),
        (".", True),
    ],
)
def test_is_series(sources, expected):
    """A series is distinguished from a single image."""
    assert is_series(sources) is expected


@pytest.mark.parametrize("name", ["img2.tif", "img3.ome.zarr", "array.npy", "slide.czi"])
@pytest.mark.parametrize("axes", ["TCZYX", "YY", "YQ", "XX"])
def test_bad_axes(folder, sample_file, name, axes):
    """The error for axes that do not fit names the file."""
    (folder / "slide.czi").symlink_to(sample_file("napari-czann-segment", "PGC_20X.czi"))
    with pytest.raises(AxesError, match=rf"{name}: axes"):
        open_stacks(folder / name, axes)
