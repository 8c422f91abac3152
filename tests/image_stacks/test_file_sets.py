"""An OME-TIFF of several files in a folder is one image, and of several images each comes once."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import tifffile

from patchloom.errors import SourceError
from patchloom.image_stacks import TiffStack, open_stacks
from patchloom.prediction import predict

NAMESPACE = "http://www.openmicroscopy.org/Schemas/OME/2016-06"


class Plane(NamedTuple):
    """Where one plane of an image lies."""

    image: int
    time: int
    channel: int
    file: str
    page: int


def write_set(folder: Path, images: np.ndarray, planes: list[Plane], *, master: str | None = None) -> list[Path]:
    """Write images `PTCYX` as OME-TIFFs, each with a description of them all, or with the name of the one that has it."""
    described = "".join(
        f'<Image ID="Image:{number}"><Pixels ID="Pixels:{number}" DimensionOrder="XYCZT" Type="uint16" SizeZ="1" '
        f'SizeT="{image.shape[0]}" SizeC="{image.shape[1]}" SizeY="{image.shape[2]}" SizeX="{image.shape[3]}">'
        + "".join(f'<Channel ID="Channel:{number}:{channel}"/>' for channel in range(image.shape[1]))
        + "".join(
            f'<TiffData FirstT="{plane.time}" FirstC="{plane.channel}" IFD="{plane.page}" PlaneCount="1">'
            f'<UUID FileName="{plane.file}">urn:uuid:{plane.file}</UUID></TiffData>'
            for plane in planes
            if plane.image == number
        )
        + "</Pixels></Image>"
        for number, image in enumerate(images)
    )
    folder.mkdir(exist_ok=True)
    paths = [folder / name for name in dict.fromkeys(plane.file for plane in planes)]
    for path in paths:
        body = described
        if master not in {None, path.name}:
            body = f'<BinaryOnly MetadataFile="{master}" UUID="urn:uuid:{master}"/>'
        document = f'<?xml version="1.0"?><OME xmlns="{NAMESPACE}" UUID="urn:uuid:{path.name}">{body}</OME>'
        pages = [images[plane.image, plane.time, plane.channel] for plane in planes if plane.file == path.name]
        with tifffile.TiffWriter(path) as tif:
            for number, page in enumerate(pages):
                description = document if number == 0 else None
                tif.write(page, description=description, metadata=None, contiguous=False, compression="zlib")
    return paths


@pytest.fixture
def images(rng: np.random.Generator) -> np.ndarray:
    """Two positions, three times, two channels."""
    return rng.integers(0, 2**16, (2, 3, 2, 30, 24), np.uint16)


def one_file_a_time(images: np.ndarray, name: Callable[[int], str] = "t{}.ome.tif".format) -> list[Plane]:
    _, n_times, n_channels = images.shape[:3]
    return [Plane(0, time, channel, name(time), channel) for time in range(n_times) for channel in range(n_channels)]


def whole(stack: TiffStack) -> np.ndarray:
    size = stack.data_shape[2:]
    return np.stack([stack.extract_patch(sample, None, (0, 0), size) for sample in range(stack.data_shape[0])])


@pytest.mark.parametrize("pattern", ["", "*.tif", "t1*"])
def test_set_of_files(tmp_path: Path, images: np.ndarray, pattern: str) -> None:
    """A set of files in a folder is one image."""
    write_set(tmp_path / "set", images[:1], one_file_a_time(images))
    (stack,) = open_stacks(tmp_path / "set" / pattern)
    assert Path(str(stack.source)).name == ("t1.ome.tif" if pattern == "t1*" else "t0.ome.tif")
    np.testing.assert_array_equal(whole(stack), images[0])


def test_one_description(tmp_path: Path, images: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    """The description of a set is read once."""
    write_set(tmp_path / "set", images[:1], one_file_a_time(images))
    opened = []

    class Counted(TiffStack):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            opened.append(args)
            super().__init__(*args, **kwargs)

    monkeypatch.setattr(sys.modules["patchloom.image_stacks.open"], "TiffStack", Counted)
    open_stacks(tmp_path / "set")
    assert len(opened) == 1


def test_order(tmp_path: Path, images: np.ndarray) -> None:
    """Other images of the folder keep their order."""
    for number, letter in enumerate("bd"):
        write_set(
            tmp_path / "set", images[number : number + 1], one_file_a_time(images, f"{letter}{{}}.ome.tif".format)
        )
    for name in ("a.ome.tif", "b0b.ome.tif", "c.ome.tif", "e.ome.tif"):
        tifffile.imwrite(tmp_path / "set" / name, images[0, 0, 0], metadata={"axes": "YX"})
    stacks = open_stacks(tmp_path / "set")
    assert [Path(str(stack.source)).name.split(".")[0] for stack in stacks] == ["a", "b0", "b0b", "c", "d0", "e"]
    np.testing.assert_array_equal(whole(stacks[1]), images[0])
    np.testing.assert_array_equal(whole(stacks[4]), images[1])


def test_files_without_description(tmp_path: Path, images: np.ndarray) -> None:
    """Files that refer to the description in another file are not images."""
    for number, master in enumerate(("t0.ome.tif", "t2.ome.tif")):
        folder = tmp_path / str(number)
        write_set(folder, images[:1], one_file_a_time(images), master=master)
        (stack,) = open_stacks(folder)
        assert Path(str(stack.source)).name == master
        np.testing.assert_array_equal(whole(stack), images[0])


def test_several_images(tmp_path: Path, images: np.ndarray) -> None:
    """Each image of a set is listed once."""
    planes = [
        Plane(position, time, channel, f"p{position}.ome.tif", 2 * time + channel)
        for position in range(2)
        for time in range(3)
        for channel in range(2)
    ]
    write_set(tmp_path / "set", images, planes)
    stacks = open_stacks(tmp_path / "set")
    assert [Path(str(stack.source)).name for stack in stacks] == ["p0.ome.tif", "p1.ome.tif"]
    for stack, image in zip(stacks, images, strict=True):
        np.testing.assert_array_equal(whole(stack), image)


def test_one_output(tmp_path: Path, images: np.ndarray) -> None:
    """A set gives one output."""
    write_set(tmp_path / "set", images[:1], one_file_a_time(images))
    written = predict(lambda batch: batch, tmp_path / "set", tmp_path / "out", patch_size=(16, 16), progress=False)
    assert [path.name for path in written] == ["t0.ome.zarr"]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["t0.ome.zarr"]


def test_named_files(tmp_path: Path, images: np.ndarray) -> None:
    """Each file that is named is opened, even if two belong to one set."""
    paths = write_set(tmp_path / "set", images[:1], one_file_a_time(images))
    assert len(open_stacks(paths[:2])) == 2


def test_missing_file(tmp_path: Path, images: np.ndarray) -> None:
    """A set with a missing file is refused."""
    paths = write_set(tmp_path / "set", images[:1], one_file_a_time(images))
    paths[1].unlink()
    with pytest.raises(SourceError, match=r"one file of a set, and 1 are missing, such as t1\.ome\.tif"):
        open_stacks(tmp_path / "set")


def test_two_names(tmp_path: Path, images: np.ndarray) -> None:
    """An image with two names in a folder is listed twice."""
    tifffile.imwrite(tmp_path / "a.ome.tif", images[0, 0, 0], metadata={"axes": "YX"})
    (tmp_path / "b.ome.tif").symlink_to(tmp_path / "a.ome.tif")
    assert len(open_stacks(tmp_path)) == 2
