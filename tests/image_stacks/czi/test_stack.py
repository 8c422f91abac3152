import pickle
import re
import struct
import sys
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pylibCZIrw import czi

from patchloom.errors import AxesError, MissingExtraError, SourceError, SourceNotFoundError
from patchloom.image_stacks import CziStack
from patchloom.image_stacks.czi.directory import read_directory
from patchloom.image_stacks.czi.stack import OPEN_FILES
from patchloom.testing.stack_conformance import ImageStackConformance


def random_image(shape, dtype="uint16"):
    return np.random.default_rng(5).integers(0, 250, shape).astype(dtype)


def write_czi(path, planes, *, compression="zstd1:", **metadata):
    """Write tiles: for each its place on the stage, its coordinates and its pixels, `(y, x, samples)`."""
    with czi.create_czi(str(path), compression_options=compression) as file:
        for (x, y), plane, scene, pixels in planes:
            file.write(pixels, location=(x, y), plane=plane, scene=scene)
        file.write_metadata("cells", **metadata)
    return path


class TestMosaicOnAStage(ImageStackConformance):
    """Times, slices and channels, each plane of six tiles, left of and above the stage's origin."""

    def make_stack(self, folder):
        image = random_image((2, 3, 4, 60, 90))  # T, C, Z
        planes = [
            ((x - 40, y - 25), {"T": t, "C": c, "Z": z}, 0, image[t, c, z, y : y + 30, x : x + 30, np.newaxis])
            for t, c, z in np.ndindex(2, 3, 4)
            for y in (0, 30)
            for x in (0, 30, 60)
        ]
        stack = CziStack(write_czi(folder / "mosaic.czi", planes))
        assert stack.original_axes == "TZCYX"
        return stack, image


class TestColors(ImageStackConformance):
    """Red comes first, though blue is stored first."""

    def make_stack(self, folder):
        rgb = random_image((3, 40, 50, 3), "uint8")
        planes = [((0, 0), {"Z": z, "C": 0}, 0, np.ascontiguousarray(rgb[z, ..., ::-1])) for z in range(3)]
        stack = CziStack(write_czi(folder / "slide.czi", planes))
        assert stack.original_axes == "ZYXC"
        return stack, rgb.transpose(3, 0, 1, 2)[np.newaxis]


class TestScene(ImageStackConformance):
    def make_stack(self, folder):
        _, second = images = random_image((2, 40, 30, 1), "uint8")
        planes = [((500 * scene, 20 * scene), {"C": 0}, scene, image) for scene, image in enumerate(images)]
        path = write_czi(folder / "scenes.czi", planes)
        return CziStack(path, scene=1), second[np.newaxis, np.newaxis, ..., 0]


class TestFloatingPoint(ImageStackConformance):
    def make_stack(self, folder):
        image = random_image((40, 30), "float32") / 7
        path = write_czi(folder / "a.czi", [((3, 3), {"C": 0}, 0, image[..., np.newaxis])])
        return CziStack(path), image[np.newaxis, np.newaxis]


def test_gaps(tmp_path):
    """Pixels without a tile are 0."""
    tile = random_image((20, 20, 1)) + 1
    stack = CziStack(write_czi(tmp_path / "a.czi", [((0, 0), {"C": 0}, 0, tile), ((40, 30), {"C": 0}, 0, tile)]))
    image = stack.extract_patch(0, None, (0, 0), (50, 60))[0]
    assert stack.data_shape == (1, 1, 50, 60)
    np.testing.assert_array_equal(image[30:, 40:], tile[..., 0])
    assert np.count_nonzero(image) == 800


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="bytes read are counted in /proc")
def test_region(tmp_path):
    """A region decodes only the tiles that it overlaps."""
    tile = random_image((256, 256, 1))
    planes = [((256 * x, 256 * y), {"C": 0}, 0, tile) for y in range(8) for x in range(8)]
    path = write_czi(tmp_path / "mosaic.czi", planes, compression="uncompressed:")
    stack = CziStack(path)

    def bytes_read():
        return int(re.search(r"rchar: (\d+)", Path("/proc/self/io").read_text())[1])

    before = bytes_read()
    stack.extract_patch(0, None, (250, 600), (100, 100))
    assert tile.nbytes < bytes_read() - before < 3 * tile.nbytes


def test_choice_of_scene(tmp_path):
    """One of several scenes must be chosen."""
    tile = random_image((20, 30, 1))
    path = write_czi(tmp_path / "a.czi", [((400 * scene, 0), {"C": 0}, scene, tile) for scene in range(2)])
    with pytest.raises(SourceError, match=r"has 2 scenes: choose one of .*a\.czi@0 \(30 × 20 pixels\), .*a\.czi@1"):
        CziStack(path)
    with pytest.raises(SourceNotFoundError, match=r"has no scene 2: it has .*a\.czi@0 "):
        CziStack(path, scene=2)
    assert CziStack(path, scene=1).source == f"{path}@1"


def test_overlapping_scenes(tmp_path):
    """Scenes that overlap on the stage keep their own pixels."""
    tiles = random_image((2, 20, 30, 1))
    path = write_czi(tmp_path / "a.czi", [((5 * scene, 0), {"C": 0}, scene, tiles[scene]) for scene in range(2)])
    for scene in range(2):
        pixels = CziStack(path, scene=scene).extract_patch(0, None, (0, 0), (20, 30))
        np.testing.assert_array_equal(pixels[0], tiles[scene, ..., 0])


def write_scenes(path, planes_of_scenes):
    """Write scenes beside each other; return the pixels of each of their planes."""
    rng = np.random.default_rng(7)
    pixels = [
        {plane: rng.integers(1, 60000, (20, 30)).astype("uint16") for plane in planes} for planes in planes_of_scenes
    ]
    tiles = [
        ((100 * scene, 0), dict(zip("TCZ", plane, strict=True)), scene, pixels[scene][plane][..., np.newaxis])
        for scene, planes in enumerate(planes_of_scenes)
        for plane in planes
    ]
    write_czi(path, tiles)
    return pixels


@given(data=st.data())
@settings(max_examples=25, deadline=None)
def test_planes_of_scenes(data):
    """A scene has its own planes only, and is refused if one of them is missing."""
    ranges = st.tuples(st.integers(0, 2), st.integers(1, 3)).map(lambda ends: range(ends[0], sum(ends)))
    channels = st.sets(st.integers(0, 3), min_size=1).map(sorted)
    boxes = data.draw(st.lists(st.tuples(ranges, channels, ranges), min_size=1, max_size=3))
    planes_of_scenes = [list(product(*box)) for box in boxes]
    incomplete = data.draw(st.integers(0, 2 * len(boxes)))
    if incomplete < len(boxes):
        planes_of_scenes[incomplete].remove(data.draw(st.sampled_from(planes_of_scenes[incomplete])))
    planes_of_scenes = [planes for planes in planes_of_scenes if planes]
    with TemporaryDirectory() as folder:
        path = Path(folder, "a.czi")
        for scene, pixels in enumerate(write_scenes(path, planes_of_scenes)):
            times, used, slices = (sorted({plane[axis] for plane in pixels}) for axis in range(3))
            whole = (range(times[0], times[-1] + 1), used, range(slices[0], slices[-1] + 1))
            if set(product(*whole)) != pixels.keys():
                with pytest.raises(SourceError, match=rf"a\.czi@{scene} lacks \d+ of \d+ planes, such as [TCZ] \d"):
                    CziStack(path, scene)
                continue
            stack = CziStack(path, scene)
            n_spatial = len(stack.data_shape) - 2
            found = [
                stack.extract_patch(time, None, (0,) * n_spatial, stack.data_shape[2:]) for time in range(len(times))
            ]
            expected = np.stack([pixels[plane] for plane in product(*whole)]).reshape(*map(len, whole), 20, 30)
            np.testing.assert_array_equal(np.reshape(found, expected.shape), expected)


def test_channel_names(tmp_path):
    """Each scene has the names of its own channels."""
    planes = [
        ((100 * scene, 0), {"C": c}, scene, random_image((20, 30, 1))) for scene, c in ((0, 0), (0, 1), (1, 0), (1, 2))
    ]
    path = write_czi(tmp_path / "a.czi", planes, channel_names={0: "DAPI", 1: "GFP", 2: "Cy5"})
    assert CziStack(path, scene=0).metadata.channel_names == ("DAPI", "GFP")
    assert CziStack(path, scene=1).metadata.channel_names == ("DAPI", "Cy5")


def test_open_files(tmp_path, monkeypatch):
    """The number of open files is bounded."""
    monkeypatch.setattr(OPEN_FILES, "most", 3)
    images = random_image((12, 20, 30, 1))
    paths = [write_czi(tmp_path / f"{number}.czi", [((0, 0), {"C": 0}, 0, images[number])]) for number in range(12)]
    before = len(list(Path("/proc/self/fd").iterdir()))
    stacks = [CziStack(path) for path in paths]
    for _ in range(2):
        for stack, image in zip(stacks, images, strict=True):
            np.testing.assert_array_equal(stack.extract_patch(0, None, (0, 0), (20, 30))[0], image[..., 0])
    assert len(list(Path("/proc/self/fd").iterdir())) - before <= 3


def test_replaced_file(tmp_path):
    """A file that was replaced since it was opened is refused."""
    path = write_czi(tmp_path / "a.czi", [((0, 0), {"C": 0}, 0, random_image((20, 30, 1)))])
    stack = pickle.loads(pickle.dumps(CziStack(path)))
    path.unlink()
    write_czi(path, [((0, 0), {"C": 0}, 0, random_image((40, 30, 1)))])
    with pytest.raises(SourceError, match=r"a\.czi has changed since it was opened"):
        stack.extract_patch(0, None, (0, 0), (20, 30))


def test_colors(tmp_path):
    """The colors of a color image are red, green and blue."""
    path = write_czi(tmp_path / "a.czi", [((0, 0), {"C": 0}, 0, random_image((20, 30, 3), "uint8"))])
    told = CziStack(path).metadata
    assert (told.is_rgb, told.channel_colors) == (True, ("FF0000", "00FF00", "0000FF"))


def test_other_axes(tmp_path):
    """Axes that are given rename the axes of the file."""
    planes = [((0, 0), {"C": 0, "Z": z}, 0, random_image((20, 30, 1))) for z in range(4)]
    path = write_czi(tmp_path / "a.czi", planes)
    assert CziStack(path).data_shape == (1, 1, 4, 20, 30)
    assert CziStack(path, axes="SYX").data_shape == (4, 1, 20, 30)
    with pytest.raises(AxesError, match="'YX' name 2 axes, but the image has 3"):
        CziStack(path, axes="YX")


def test_axis_without_letter(tmp_path, monkeypatch):
    """An axis without a letter is an error."""
    # The writer leaves out dimensions beyond these, which the format has.
    monkeypatch.setattr(czi.CziWriter, "_create_plane", staticmethod(lambda plane, scene: {**plane, "S": scene}))
    planes = [((0, 0), {"C": 0, "H": phase}, 0, random_image((20, 30, 1))) for phase in range(5)]
    path = write_czi(tmp_path / "phases.czi", planes)
    with pytest.raises(AxesError, match=r"has shape \(5, 20, 30\), and its axes are 'HYX'"):
        CziStack(path)
    assert CziStack(path, axes="SYX").data_shape == (5, 1, 20, 30)


def test_mixed_dtypes(tmp_path):
    """Channels of different dtypes have the larger one."""
    shallow, deep = random_image((20, 30, 1), "uint8"), random_image((20, 30, 1)) * 200
    path = write_czi(tmp_path / "a.czi", [((0, 0), {"C": 0}, 0, shallow), ((0, 0), {"C": 1}, 0, deep)])
    stack = CziStack(path)
    assert stack.data_dtype == np.uint16
    np.testing.assert_array_equal(stack.extract_patch(0, None, (0, 0), (20, 30)), [shallow[..., 0], deep[..., 0]])


def test_metadata(tmp_path):
    """Voxel sizes and channels are those of the file."""
    planes = [((0, 0), {"C": channel, "Z": z}, 0, random_image((20, 30, 1))) for channel in range(2) for z in range(2)]
    colors = {
        channel: czi.ChannelDisplaySettingsDataClass(
            is_enabled=True, tinting_mode=czi.TintingMode.Color, tinting_color=color, black_point=0.0, white_point=1.0
        )
        for channel, color in enumerate((czi.Rgb8Color(255, 0, 16), czi.Rgb8Color(0, 255, 0)))
    }
    names = {0: "DAPI", 1: "GFP"}
    scales = {"scale_x": 1e-7, "scale_y": 2e-7, "scale_z": 5e-7}
    path = write_czi(tmp_path / "a.czi", planes, channel_names=names, display_settings=colors, **scales)
    told = CziStack(path).metadata
    assert told.voxel_size == {"Z": 0.5, "Y": 0.2, "X": 0.1}
    assert set(told.units.values()) == {"micrometer"}
    assert told.channel_names == ("DAPI", "GFP")
    assert told.channel_colors == ("FF0010", "00FF00")


def patch_sum(stack):
    return int(stack.extract_patch(0, None, (1000, 1000), (300, 200)).sum())


def test_real_image(sample_file):
    """A real image is read, also in a worker."""
    stack = CziStack(sample_file("napari-czann-segment", "PGC_20X.czi"))
    assert (stack.original_axes, stack.data_shape, stack.data_dtype) == ("YX", (1, 1, 2755, 3675), np.uint16)
    assert stack.metadata.voxel_size == pytest.approx({"Y": 0.227, "X": 0.227})
    assert stack.metadata.channel_names == ("TL Phase Gradient",)
    with czi.open_czi(str(stack.source)) as file:
        expected = file.read(roi=(1000, 1000, 200, 300))[..., 0].sum()
    assert len(pickle.dumps(stack)) < 3000
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as workers:
        assert patch_sum(stack) == workers.submit(patch_sum, stack).result() == expected


def test_real_colors(sample_file):
    """A real stain is pink and violet.

    Hematoxylin and eosin leave little green, and more red than blue.
    """
    stack = CziStack(sample_file("napari-czann-segment", "Tumor_HE_Stain_T76.czi"))
    assert (stack.original_axes, stack.data_shape, stack.data_dtype) == ("YXC", (1, 3, 1200, 1600), np.uint8)
    red, green, blue = stack.extract_patch(0, None, (0, 0), (1200, 1600)).mean((1, 2))
    assert red > blue > green


def test_other_files(tmp_path):
    """Other files are refused."""
    (tmp_path / "notes.czi").write_text("these are my notes")
    with pytest.raises(SourceError, match=r"notes\.czi cannot be opened as a CZI: "):
        CziStack(tmp_path / "notes.czi")
    with pytest.raises(SourceNotFoundError, match=r"there is no file .*cells\.czi"):
        CziStack(tmp_path / "cells.czi")


@pytest.mark.parametrize("fraction", [0.02, 0.5, 0.99])
def test_truncated_file(tmp_path, fraction):
    """A truncated file is refused."""
    content = write_czi(tmp_path / "a.czi", [((0, 0), {"C": 0}, 0, random_image((200, 300, 1)))]).read_bytes()
    (tmp_path / "cut.czi").write_bytes(content[: int(len(content) * fraction)])
    with pytest.raises(SourceError, match=r"cut\.czi cannot be "):
        CziStack(tmp_path / "cut.czi")


def test_corrupt_pixels(tmp_path):
    """Pixels that cannot be decoded are an error that names the file."""
    path = write_czi(tmp_path / "a.czi", [((0, 0), {"C": 0}, 0, random_image((200, 300, 1)))], compression="zstd0:")
    content = bytearray(path.read_bytes())
    start = content.index(b"\x28\xb5\x2f\xfd")  # how Zstandard begins
    content[start : start + 2000] = bytes(2000)
    path.write_bytes(content)
    with pytest.raises(SourceError, match=r"a\.czi cannot be read at Y 0:10, X 0:10: "):
        CziStack(path).extract_patch(0, None, (0, 0), (10, 10))


SUBBLOCK_DAMAGE = {
    "pixels that never end": (40, struct.pack("<q", 2**40)),
    "pixels past the segment": (40, struct.pack("<q", 5000)),
    "fewer bytes than none": (32, struct.pack("<i", -1)),
    "metadata that never end": (32, struct.pack("<i", 2**31 - 1)),
    "an attachment past the segment": (36, struct.pack("<i", 5000)),
    "another name": (0, b"ZISRAWATTACH\0\0\0\0"),
    "another pixel type": (50, struct.pack("<i", 3)),
    "another compression": (66, struct.pack("<i", 4)),
    "another number of dimensions": (76, struct.pack("<i", 50)),
    "another size": (96, struct.pack("<i", 10**6)),
}


@pytest.mark.parametrize(("offset", "bytes_there"), SUBBLOCK_DAMAGE.values(), ids=SUBBLOCK_DAMAGE)
def test_damaged_subblock(tmp_path, offset, bytes_there):
    """A damaged subblock is refused before libCZI reads it.

    libCZI ends the process at some of these.
    """
    tiles = random_image((2, 20, 30, 1))
    path = write_czi(tmp_path / "a.czi", [((100 * n, 0), {"C": 0}, 0, tile) for n, tile in enumerate(tiles)])
    content = bytearray(path.read_bytes())
    second = content.index(b"ZISRAWSUBBLOCK", content.index(b"ZISRAWSUBBLOCK") + 1)
    content[second + offset : second + offset + len(bytes_there)] = bytes_there
    path.write_bytes(content)
    stack = CziStack(path)
    np.testing.assert_array_equal(stack.extract_patch(0, None, (0, 0), (20, 30))[0], tiles[0, ..., 0])
    with pytest.raises(SourceError, match=r"a\.czi cannot be read at Y 0:20, X 0:130: the subblock at \d+ is "):
        stack.extract_patch(0, None, (0, 0), (20, 130))


def test_many_subblocks(tmp_path):
    """A directory of many subblocks is read at once.

    Subblocks have any number of dimensions, and those of lower resolution are not planes.
    """
    rng = np.random.default_rng(3)
    content = bytearray(struct.pack("<i124x", 20_000))
    expected = []
    for _ in range(20_000):
        extra = rng.choice(list("BVHIRTZCM"), rng.integers(0, 5), replace=False).tolist()
        places = {axis: int(rng.integers(0, 5)) for axis in extra}
        is_full = rng.random() < 0.8
        content += struct.pack("<2siqiiB5xi", b"DV", 0, 544, 0, 0, 0, 2 + len(extra))
        for axis, start, size in [("X", 7, 30), ("Y", 9, 20), *((axis, start, 1) for axis, start in places.items())]:
            content += struct.pack(
                "<4siifi", axis.encode(), start, size, 0.0, size if is_full or size == 1 else size // 2
            )
        if is_full:
            expected.append([places.get(axis, 0) for axis in "BVHIRTZC"])
    header = struct.pack("<16sqq", b"ZISRAWFILE", 512, 512) + bytes(52) + struct.pack("<q", 544) + bytes(452)
    directory = struct.pack("<16sqq", b"ZISRAWDIRECTORY", len(content), len(content)) + content
    (tmp_path / "a.czi").write_bytes(header + directory)
    found = read_directory(tmp_path / "a.czi")
    assert found.planes.tolist() == expected
    assert set(map(tuple, found.boxes.tolist())) == {(7, 9, 30, 20)}


def test_missing_extra(tmp_path, monkeypatch):
    """Without pylibCZIrw, the error names the extra."""
    path = write_czi(tmp_path / "a.czi", [((0, 0), {"C": 0}, 0, random_image((20, 30, 1)))])
    monkeypatch.setitem(sys.modules, "pylibCZIrw.czi", None)
    with pytest.raises(MissingExtraError, match=r'pip install "patchloom\[czi\]"'):
        CziStack(path)
