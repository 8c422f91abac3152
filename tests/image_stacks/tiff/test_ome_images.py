"""What an OME-XML may make us read, and how much it may cost."""

from __future__ import annotations

import os
import tracemalloc

import numpy as np
import pytest
import tifffile

from patchloom.errors import AxesError, SourceError, SourceNotFoundError
from patchloom.image_stacks import TiffStack

SHAPE = (16, 24)


def ome(images, uuid="mine"):
    return (
        '<?xml version="1.0" encoding="UTF-8"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" '
        f'UUID="urn:uuid:{uuid}">{images}</OME>'
    )


def image(where, *, size_z=1, number=0, name="", more="", channels='<Channel ID="Channel:0:0" SamplesPerPixel="1"/>'):
    return (
        f'<Image ID="Image:{number}" Name="{name}"><Pixels ID="Pixels:{number}" DimensionOrder="XYZCT" Type="uint8" '
        f'SizeX="{SHAPE[1]}" SizeY="{SHAPE[0]}" SizeZ="{size_z}" SizeC="1" SizeT="1" {more}>{channels}{where}</Pixels></Image>'
    )


def write(path, xml, *, value=0, n_pages=1):
    path.parent.mkdir(parents=True, exist_ok=True)
    pages = np.full((n_pages, *SHAPE), value, "uint8")
    tifffile.imwrite(path, pages, metadata=None, description=xml.encode(), photometric="minisblack")
    return path


def two_files(name):
    """Describe an image whose second slice is in a file of this name."""
    return image(
        f'<TiffData IFD="0" FirstZ="0"/><TiffData IFD="0" FirstZ="1"><UUID FileName="{name}">urn:uuid:other</UUID></TiffData>',
        size_z=2,
    )


def slices(stack):
    return [int(stack.extract_patch(0, None, (z, 0, 0), (1, 1, 1)).item()) for z in range(stack.data_shape[2])]


OTHER = ome(image('<TiffData IFD="0"/>'), "other")
OUTSIDE = [
    "../x.ome.tif",
    "../../private/x.ome.tif",
    "sub/../../x.ome.tif",
    "./../x.ome.tif",
    "{absolute}",
    "link.ome.tif",
    "linked/x.ome.tif",
]


@pytest.mark.parametrize("name", OUTSIDE)
def test_outside_folder(tmp_path, name):
    """Files outside the folder are not read."""
    for place in (tmp_path / "x.ome.tif", tmp_path / "mine/x.ome.tif", tmp_path / "private/x.ome.tif"):
        write(place, OTHER, value=99)
    folder = tmp_path / "mine" / "data"
    (folder / "sub").mkdir(parents=True)
    (folder / "link.ome.tif").symlink_to(tmp_path / "private/x.ome.tif")
    (folder / "linked").symlink_to(tmp_path / "private")
    name = name.format(absolute=tmp_path / "private/x.ome.tif")
    path = write(folder / "a.ome.tif", ome(two_files(name)))
    with pytest.raises(SourceError, match=r"a\.ome\.tif is one file of a set, and names another outside its folder"):
        TiffStack(path)


@pytest.mark.parametrize(
    "name", ["http://127.0.0.1:9/x.ome.tif", "file:///etc/hosts", "B.OME.TIF", "", "b.ome.tif\u0301", "x" * 300]
)
def test_missing_names(tmp_path, name):
    """Named files that do not exist are missing."""
    write(tmp_path / "b.ome.tif", OTHER, value=99)
    path = write(tmp_path / "a.ome.tif", ome(two_files(name)))
    with pytest.raises(SourceError, match=r"a\.ome\.tif is one file of a set, and (1 are missing|names another)"):
        TiffStack(path)


def test_pipe(tmp_path):
    """A pipe with the name of a file is not read."""
    os.mkfifo(tmp_path / "b.ome.tif")
    path = write(tmp_path / "a.ome.tif", ome(two_files("b.ome.tif")))
    with pytest.raises(SourceNotFoundError):
        TiffStack(path)
    with pytest.raises(SourceError, match="not a file"):
        TiffStack(tmp_path / "b.ome.tif")


@pytest.mark.parametrize("name", ["b.ome.tif", "sub/b.ome.tif", "sub/../b.ome.tif", "inside.ome.tif"])
def test_inside_folder(tmp_path, name):
    """Files inside the folder are read."""
    folder = tmp_path / "data"
    for place in (folder / "b.ome.tif", folder / "sub/b.ome.tif"):
        write(place, OTHER, value=7)
    (folder / "inside.ome.tif").symlink_to(folder / "b.ome.tif")
    path = write(folder / "a.ome.tif", ome(two_files(name)), value=3)
    (tmp_path / "link.ome.tif").symlink_to(path)
    for opened in (path, tmp_path / "link.ome.tif"):
        assert slices(TiffStack(opened)) == [3, 7]


def test_renamed_file(tmp_path):
    """A renamed file is found by its identifier, or if only the case differs."""
    where = '<TiffData IFD="0" PlaneCount="2"><UUID FileName="{}">urn:uuid:{}</UUID></TiffData>'
    for name, uuid in (("before.ome.tif", "mine"), ("NOW.ome.tif", "none"), ("now.ome.tif", "none")):
        path = write(tmp_path / "now.ome.tif", ome(image(where.format(name, uuid), size_z=2)), value=5, n_pages=2)
        assert slices(TiffStack(path)) == [5, 5]


# Cost -------------------------------------------------------------------------------------------------------------------

HUGE = {
    "SizeZ": image('<TiffData IFD="0" PlaneCount="1"/>', size_z=10**9),
    "SizeZ beyond 64 bits": image('<TiffData IFD="0" PlaneCount="1"/>', size_z=10**30),
    "PlaneCount": image('<TiffData IFD="0" PlaneCount="1000000000"/>', size_z=10**9),
    "IFD": image('<TiffData IFD="1000000000" PlaneCount="1"/>'),
    "FirstZ": image('<TiffData IFD="0" FirstZ="999999999" PlaneCount="1"/>', size_z=10**9),
    "many blocks": image('<TiffData IFD="0" PlaneCount="1000000000"/>' * 1000, size_z=2 * 10**9),
}


@pytest.mark.parametrize("what", HUGE)
def test_huge_numbers(tmp_path, what):
    """Huge declared numbers need neither memory nor time."""
    path = write(tmp_path / "a.ome.tif", ome(HUGE[what]))
    tracemalloc.start()
    with pytest.raises(SourceError, match=r"a\.ome\.tif"):
        TiffStack(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10e6


def test_repeated_planes(tmp_path):
    """Planes that are described again and again are refused early."""
    where = '<TiffData IFD="0" PlaneCount="300"/>' * 300
    path = write(tmp_path / "a.ome.tif", ome(image(where, size_z=300)), n_pages=300)
    with pytest.raises(SourceError, match=r"a\.ome\.tif is damaged: it describes the same planes again and again"):
        TiffStack(path)


def test_entities(tmp_path):
    """Entities are not expanded."""
    entities = "".join(f'<!ENTITY a{level} "{f"&a{level - 1};" * 10}">' for level in range(1, 12))
    body = ome(image('<TiffData IFD="0"/>', name="&a11;")).partition("?>")[2]
    path = write(tmp_path / "a.ome.tif", f'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a0 "lol">{entities}]>{body}')
    with pytest.raises(SourceError, match=r"a\.ome\.tif has OME-XML that cannot be used: it declares entities"):
        TiffStack(path)


# Damage -----------------------------------------------------------------------------------------------------------------

BAD_VALUES = ["", " ", "1.5", "-1", "0", "1e3", "0x10", "NaN", "inf", "1" + "0" * 30, "٣", "x", "&lt;1&gt;"]


@pytest.mark.parametrize("attribute", ["SizeX", "SizeY", "SizeZ", "SizeC", "SizeT", "SamplesPerPixel"])
@pytest.mark.parametrize("value", BAD_VALUES)
def test_bad_sizes(tmp_path, attribute, value):
    """Sizes that are not whole numbers are refused."""
    xml = ome(image('<TiffData IFD="0"/>')).replace(f'{attribute}="', f'{attribute}="{value}" was="', 1)
    with pytest.raises(SourceError, match=rf"a\.ome\.tif has OME-XML that cannot be used: {attribute} is "):
        TiffStack(write(tmp_path / "a.ome.tif", xml))


@pytest.mark.parametrize("value", [value for value in BAD_VALUES if value != "0"])
@pytest.mark.parametrize("attribute", ["IFD", "PlaneCount", "FirstZ", "FirstC", "FirstT"])
def test_bad_positions(tmp_path, attribute, value):
    """Positions that are not whole numbers are refused."""
    path = write(tmp_path / "a.ome.tif", ome(image(f'<TiffData {attribute}="{value}"/>')))
    with pytest.raises(SourceError, match=rf"a\.ome\.tif has OME-XML that cannot be used: {attribute} is "):
        TiffStack(path)


@pytest.mark.parametrize(
    ("xml", "message"),
    [
        (ome(image('<TiffData IFD="0"/>'))[:-40] + "</OME>", "it is not XML"),
        (ome(image('<TiffData IFD="0"/>')).replace("XYZCT", "XYZZT"), "DimensionOrder is 'XYZZT'"),
        (ome(image('<TiffData IFD="0"/>')).replace('"XYZCT"', '"ZYXCT"'), "DimensionOrder is 'ZYXCT'"),
        (ome(image('<TiffData IFD="0"/>')).replace("DimensionOrder", "Order"), "DimensionOrder is None"),
    ],
)
def test_ignored_description(tmp_path, xml, message, caplog):
    """An unusable description is ignored if the axes are given."""
    path = write(tmp_path / "a.ome.tif", xml, value=8, n_pages=3)
    with pytest.raises(SourceError, match=rf"a\.ome\.tif has OME-XML that cannot be used: {message}.*; give axes"):
        TiffStack(path)
    assert slices(TiffStack(path, "ZYX")) == [8, 8, 8]
    assert "the OME-XML cannot be used, and is ignored" in caplog.text


@pytest.mark.parametrize(
    "where", ['<TiffData IFD="1" PlaneCount="2"/>', '<TiffData IFD="0" PlaneCount="3"/>', '<TiffData IFD="5"/>']
)
def test_missing_pages(tmp_path, where):
    """Planes on missing pages are refused."""
    path = write(tmp_path / "a.ome.tif", ome(image(where, size_z=3)), n_pages=2)
    with pytest.raises(SourceError, match=r"a\.ome\.tif describes \d planes from page \d on, but it has 2 pages"):
        TiffStack(path)


def test_undescribed_pages(tmp_path, caplog):
    """A warning names pages without a description.

    ImageJ keeps descriptions of planes that it has cropped.
    """
    where = '<TiffData IFD="0" PlaneCount="9"/><TiffData IFD="1" FirstZ="7"/>'
    path = write(tmp_path / "a.ome.tif", ome(image(where, size_z=2)), value=4, n_pages=9)
    assert slices(TiffStack(path)) == [4, 4]
    assert "the OME-XML describes 2 of 9 pages, and the others are ignored" in caplog.text


def test_wrong_sizes(tmp_path):
    """Sizes that are not those of the pages are refused."""
    xml = ome(image('<TiffData IFD="0"/>')).replace('SizeX="24"', 'SizeX="48"')
    with pytest.raises(SourceError, match=r"a\.ome\.tif describes .*X 48.*, but its pages have Y 16, X 24"):
        TiffStack(write(tmp_path / "a.ome.tif", xml))


# Which image it is ------------------------------------------------------------------------------------------------------


def test_empty_images(tmp_path):
    """Images without pixels do not shift metadata."""
    steps = 'PhysicalSizeX="{}" PhysicalSizeXUnit="nm"'
    xml = ome(
        image("<MetadataOnly/>", number=0, name="empty", more=steps.format(1))
        + image('<TiffData IFD="0" PlaneCount="2"/>', number=1, name="first", more=steps.format(2), size_z=2)
        + image("", number=2, name="nothing", more=steps.format(3))
        + image('<TiffData IFD="2"/>', number=3, name="second", more=steps.format(4))
    )
    path = write(tmp_path / "a.ome.tif", xml, n_pages=3)
    told = [TiffStack(path, series=number) for number in range(2)]
    assert [stack.metadata.name for stack in told] == ["first", "second"]
    assert [stack.metadata.voxel_size["X"] for stack in told] == [2, 4]
    assert [stack.data_shape for stack in told] == [(1, 1, 2, *SHAPE), (1, 1, *SHAPE)]


@pytest.mark.parametrize("order", ["XYZCT", "XYTCZ", "XYCZT", "XYCTZ"])
def test_planes(tmp_path, rng, order):
    """Planes are at their described positions."""
    sizes = {"Z": 3, "C": 2, "T": 4}
    values = rng.permutation(24).astype("uint8")
    outer = order[:1:-1]
    planes = [dict(zip("ZCT", place, strict=True)) for place in np.ndindex(*sizes.values())]
    pages = [planes[number] for number in rng.permutation(24)]
    where = "".join(
        f'<TiffData IFD="{page}" ' + " ".join(f'First{axis}="{place}"' for axis, place in plane.items()) + "/>"
        for page, plane in enumerate(pages)
    )
    xml = (
        ome(image(where))
        .replace('SizeZ="1" SizeC="1" SizeT="1"', 'SizeZ="3" SizeC="2" SizeT="4"')
        .replace("XYZCT", order)
    )
    stored = np.broadcast_to(values[:, None, None], (24, *SHAPE))
    tifffile.imwrite(tmp_path / "a.ome.tif", stored, metadata=None, description=xml, photometric="minisblack")
    stack = TiffStack(tmp_path / "a.ome.tif")
    assert stack.original_axes == f"{outer}YX"
    for value, plane in zip(values, pages, strict=True):
        read = stack.extract_patch(plane["T"], [plane["C"]], (plane["Z"], 0, 0), (1, 1, 1))
        assert read.item() == value


@pytest.mark.parametrize(
    ("along", "axes", "shape"),
    [
        ('Type="lifetime" Start="0" End="2" Step="1"', "TCZHYX", (1, 1, 4, 3, *SHAPE)),
        ('Type="lifetime" Start="0" End="11" Step="1"', "TCHYX", (1, 1, 12, *SHAPE)),
        ('Type="lifetime" Start="0" End="1e300" Step="1e-300"', "TCZHYX", None),
        ('Type="lifetime" Start="0" End="4" Step="1"', "TCZYX", None),
    ],
)
def test_inner_axis(tmp_path, along, axes, shape):
    """An axis inside another is reported, and never read as the other."""
    annotation = (
        '<StructuredAnnotations><XMLAnnotation ID="A" Namespace="openmicroscopy.org/omero/dimension/modulo"><Value><Modulo>'
        f"<ModuloAlongZ {along}/></Modulo></Value></XMLAnnotation></StructuredAnnotations>"
    )
    described = image("<TiffData/>", size_z=12).replace("</Image>", '<AnnotationRef ID="A"/></Image>')
    path = write(tmp_path / "a.ome.tif", ome(described + annotation), n_pages=12)
    if shape is None:
        assert TiffStack(path).data_shape == (1, 1, 12, *SHAPE)
        return
    told = "".join(axis for axis, size in zip(axes, shape, strict=True) if size > 1)
    with pytest.raises(AxesError, match=rf"the file contains the axes '{told}'"):
        TiffStack(path)
    assert TiffStack(path, told.replace("H", "T")).data_shape[0] == 3 * (len(told) == 4) + 12 * (len(told) == 3)
