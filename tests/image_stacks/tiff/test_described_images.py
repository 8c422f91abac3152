"""Several images in one TIFF: listed, and opened by number."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import tifffile

from patchloom.errors import SeveralImagesError, SourceError, SourceNotFoundError
from patchloom.image_stacks import TiffStack, open_stacks
from patchloom.image_stacks.source_paths import image_format, split_number
from patchloom.prediction import plan, predict


def random_images(*shapes):
    rng = np.random.default_rng(5)
    return [rng.integers(0, 2**16, shape).astype("uint16") for shape in shapes]


def write_images(path, images, names=("cells", "nuclei", "more"), **options):
    """Write images as an OME-TIFF, or as plain pages."""
    ome = path.name.endswith(".ome.tif")
    with tifffile.TiffWriter(path, ome=ome) as writer:
        for image, name in zip(images, names, strict=False):
            axes = "CZYX"[-image.ndim :]
            metadata = {"axes": axes, "Name": name} if ome else None
            writer.write(image, metadata=metadata, photometric="minisblack", **options)


def pixels(stack):
    n_spatial = len(stack.data_shape) - 2
    return np.squeeze(stack.extract_patch(0, None, (0,) * n_spatial, stack.data_shape[2:]))


@pytest.fixture(params=["a.ome.tif", "a.tif"])
def several(request, tmp_path):
    """Return a file of three images, and the images."""
    images = random_images((20, 30), (3, 40, 50), (60, 70))
    write_images(tmp_path / request.param, images)
    return tmp_path / request.param, images


def test_choice(several):
    """One of several images must be chosen."""
    path, _ = several
    for opening in (
        TiffStack,
        open_stacks,
        lambda path: open_stacks([str(path)]),
        lambda path: plan(path, patch_size=(8, 8)),
    ):
        with pytest.raises(
            SeveralImagesError, match=r"has 3 images: choose one of .*@0 .*20 × 30.*@1 .*3 × 40 × 50.*@2"
        ) as told:
            opening(path)
        assert list(told.value.images) == [f"{path}@{number}" for number in range(3)]


def test_numbers(several):
    """Images are opened by number."""
    path, images = several
    for number, image in enumerate(images):
        (stack,) = open_stacks(f"{path}@{number}", "CZYX"[-image.ndim :])
        assert stack.source == f"{path}@{number}"
        np.testing.assert_array_equal(pixels(stack), image)
    names = [f"{path}@{number}" for number in (2, 0)]
    assert [stack.data_shape[-2:] for stack in open_stacks(names, "YX")] == [(60, 70), (20, 30)]
    with pytest.raises(SourceNotFoundError, match=r"has no image 3: it has 3, counted from 0"):
        open_stacks(f"{path}@3", "YX")


def test_fingerprints(several):
    """Images of one file have different names and fingerprints."""
    path, _ = several
    first, second = (TiffStack(path, "YX", series=number) for number in (0, 2))
    assert first.files == second.files
    assert first.image_in_files != second.image_in_files


def test_predict(several, tmp_path):
    """An image is predicted by number."""
    path, images = several
    result = predict(lambda batch: batch, f"{path}@2", axes="YX", patch_size=(32, 32), progress=False)
    np.testing.assert_array_equal(np.squeeze(result), images[2])
    with pytest.raises(SeveralImagesError):
        predict(lambda batch: batch, path, tmp_path / "out.ome.zarr", patch_size=(32, 32), progress=False)
    assert not list(tmp_path.glob("out*"))


def run_info(*arguments):
    command = [sys.executable, "-m", "patchloom", "info", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_info(several):
    """`patchloom info` lists all images."""
    path, _ = several
    shown = run_info(path)
    assert all(f"{path}@{number}" in shown for number in range(3))
    assert "20 × 30" in shown
    assert "3 × 40 × 50" in shown
    facts = json.loads(run_info(path, "--json"))
    assert [image["source"] for image in facts] == [f"{path}@{number}" for number in range(3)]
    if path.name.endswith(".ome.tif"):
        assert [image["name"] for image in facts] == ["cells", "nuclei", "more"]
        assert [image["shape"] for image in facts] == [[20, 30], [3, 40, 50], [60, 70]]
    else:
        assert "3 × 40 × 50" in facts[1]["described"]
        assert "axes='ZYX'" in facts[1]["problem"]


@pytest.mark.parametrize("name", ["cells@2.tif", "cells.tif@2", "day@3/cells.tif", "cells@1.tif@0", "a@b.ome.tif"])
def test_at_in_name(tmp_path, name):
    """The name of a file may contain an @."""
    (image,) = random_images((20, 30))
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    tifffile.imwrite(tmp_path / "written.tif", image)
    (tmp_path / "written.tif").rename(path)
    for source in (path, str(path), [path], path.parent):
        np.testing.assert_array_equal(pixels(open_stacks(source, "YX")[0]), image)
    if not name.endswith(("@2", "@0")):
        np.testing.assert_array_equal(pixels(open_stacks(f"{path}@0", "YX")[0]), image)


def test_split_number():
    """Numbers are split off the names of formats with several images."""
    assert split_number("a.OME.TIFF@12") == ("a.OME.TIFF", 12)
    assert split_number("a.btf@0") == ("a.btf", 0)
    for name in ("a.tif@", "a.tif@x", "a.tif@-1", "a.npy@1", "a.ome.zarr@1", "a@1", "a.tif@1234567890"):
        assert split_number(name) == (name, None)
    assert image_format("a.tif@1") == "tiff"
    assert image_format("a.npy@1") is None


def test_pyramid(tmp_path):
    """Levels of a pyramid are one image."""
    (image,) = random_images((64, 48))
    for name, in_sub_directories in (("a.tif", True), ("b.tif", False)):
        with tifffile.TiffWriter(tmp_path / name) as writer:
            below = {"subifds": 2} if in_sub_directories else {}
            writer.write(image, metadata=None, tile=(16, 16), **below)
            for factor in (2, 4):
                writer.write(image[::factor, ::factor], metadata=None, subfiletype=1, tile=(16, 16), compression="zlib")
        np.testing.assert_array_equal(pixels(TiffStack(tmp_path / name)), image)
        for level, factor in enumerate((1, 2, 4)):
            np.testing.assert_array_equal(pixels(TiffStack(tmp_path / name, level=level)), image[::factor, ::factor])


def test_thumbnail(tmp_path):
    """A thumbnail or label beside an image need not be excluded."""
    small, picture, label = random_images((20, 30), (40, 50), (25, 25))
    write_images(tmp_path / "a.ome.tif", [small, picture, label], ["Thumbnail", "picture", "label image"])
    np.testing.assert_array_equal(pixels(TiffStack(tmp_path / "a.ome.tif")), picture)
    np.testing.assert_array_equal(pixels(TiffStack(tmp_path / "a.ome.tif", series=2)), label)
    with tifffile.TiffWriter(tmp_path / "b.tif") as writer:
        writer.write(small[:7], metadata=None, subfiletype=1)
        writer.write(picture, metadata=None)
    np.testing.assert_array_equal(pixels(TiffStack(tmp_path / "b.tif")), picture)


def test_damaged_page(tmp_path):
    """A damaged page does not hide the others."""
    (image,) = random_images((3, 20, 30))
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, image, metadata=None, photometric="minisblack")
    with tifffile.TiffFile(path) as tif:
        place = tif.pages[1].tags["ImageWidth"].valueoffset
    content = bytearray(path.read_bytes())
    content[place : place + 4] = bytes(4)
    path.write_bytes(content)
    with pytest.raises(SeveralImagesError, match=r"2 images: choose one of .*@0 .*, .*@1 \('damaged'"):
        TiffStack(path, "SYX")
    stack = TiffStack(path, "SYX", series=0)
    assert stack.data_shape == (2, 1, 20, 30)
    with pytest.raises(SourceError, match=r"it has pages of 0 × 20 pixels"):
        TiffStack(path, "YX", series=1)


@pytest.mark.parametrize("n_described", [2, 3, 5])
def test_imagej_count(tmp_path, n_described):
    """Pages that ImageJ does not count are not dropped."""
    (image,) = random_images((4, 20, 30))
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        for number, page in enumerate(image):
            told = f"ImageJ=1.54f\nimages={n_described}\nslices={n_described}\n" if number == 0 else None
            writer.write(page, contiguous=False, metadata=None, description=told, compression="zlib")
    with pytest.raises(SourceError, match=rf"a\.tif describes {n_described} pages, but has 4"):
        TiffStack(tmp_path / "a.tif")


def test_shorter_run(tmp_path):
    """Pages that tifffile takes for a shorter run are not dropped."""
    (image,) = random_images((12, 16, 20))
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        for page in image:
            writer.write(page, contiguous=False, metadata=None, description="frame", software="SI.VERSION_MAJOR = 5")
    with tifffile.TiffFile(tmp_path / "a.tif") as tif:
        assert len(tif.series[0]) < 12
    np.testing.assert_array_equal(pixels(TiffStack(tmp_path / "a.tif", "ZYX")), image)


def test_slide(tmp_path):
    """A slide is opened without its thumbnail, label and overview."""
    rng = np.random.default_rng(2)
    slide = rng.integers(0, 256, (128, 160, 3)).astype("uint8")
    with tifffile.TiffWriter(tmp_path / "slide.tif") as writer:
        for image, told, options in (
            (slide, "128x160", {"tile": (32, 32), "compression": "zlib"}),
            (slide[::4, ::4], "thumbnail", {}),
            (slide[::2, ::2], "64x80", {"tile": (32, 32), "compression": "lzw"}),
            (slide[:20, :30], "label 30x20", {"subfiletype": 1}),
            (slide[:20, :40], "macro 40x20", {"subfiletype": 9}),
        ):
            description = f"Aperio Image Library v1\n{told}"
            writer.write(image, photometric="rgb", metadata=None, description=description, **options)
    for level, factor in ((0, 1), (1, 2)):
        stack = TiffStack(tmp_path / "slide.tif", level=level)
        np.testing.assert_array_equal(pixels(stack).transpose(1, 2, 0), slide[::factor, ::factor])
        assert stack.metadata.is_rgb
    assert [TiffStack(tmp_path / "slide.tif", series=number).data_shape[-1] for number in range(4)] == [160, 40, 30, 40]


@pytest.mark.parametrize("n_left", [1, 3])
def test_truncated_imagej(tmp_path, n_left):
    """A truncated ImageJ stack of one directory is refused."""
    (image,) = random_images((4, 20, 30))
    told = "ImageJ=1.54f\nimages=4\nslices=4\n"
    tifffile.imwrite(tmp_path / "a.tif", image[:n_left].reshape(-1, 30)[:20], metadata=None, description=told)
    with (tmp_path / "a.tif").open("ab") as file:
        file.write(bytes((n_left - 1) * image[0].nbytes))
    with pytest.raises(SourceError, match=r"a\.tif is damaged: ImageJ describes 4 pages, and there are 1"):
        TiffStack(tmp_path / "a.tif")
    assert TiffStack(tmp_path / "a.tif", "YX").data_shape == (1, 1, 20, 30)


@pytest.mark.parametrize("told", ["images=7", "images=99999999999999999999999", "images=3.5", "images=7\nframes=1"])
def test_missing_imagej_pages(tmp_path, told):
    """An ImageJ file with fewer pages than declared is refused."""
    (image,) = random_images((20, 30))
    tifffile.imwrite(tmp_path / "a.tif", image, metadata=None, description=f"ImageJ=1.54f\n{told}\n")
    with pytest.raises(SourceError, match=r"a\.tif is damaged: ImageJ describes .* pages, and there are 1"):
        TiffStack(tmp_path / "a.tif")
    np.testing.assert_array_equal(pixels(TiffStack(tmp_path / "a.tif", "YX")), image)
