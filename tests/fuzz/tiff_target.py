"""TIFF, OME-TIFF and ImageJ's TIFF: bytes of whole files, and the XML of an OME-TIFF by itself."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from bounded_process import Target
from image_use import open_and_read
from mutations import Seed

_MODULO = (
    '<StructuredAnnotations><XMLAnnotation ID="A" Namespace="openmicroscopy.org/omero/dimension/modulo"><Value><Modulo>'
    '<ModuloAlongZ Type="lifetime" Start="0" End="2" Step="1"/></Modulo></Value></XMLAnnotation></StructuredAnnotations>'
)
_OME = '<?xml version="1.0" encoding="UTF-8"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="urn:uuid:0">'


def _random(shape: Sequence[int], dtype: str = "uint16") -> np.ndarray[Any, Any]:
    return np.random.default_rng(len(shape)).integers(0, 200, shape).astype(dtype)


def _tiff(image: np.ndarray[Any, Any], **options: Any) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, image, **{"photometric": "minisblack", **options})
    # tifffile draws a new identifier each time; the seeds stay the same.
    return re.sub(rb"urn:uuid:[0-9a-f-]{36}", b"urn:uuid:" + b"0" * 36, file.getvalue())


def _pages_of_many_kinds() -> bytes:
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as writer:
        for number, options in enumerate(
            [{}, {"compression": "zlib"}, {"tile": (16, 16)}, {"photometric": "miniswhite"}]
        ):
            writer.write(np.full((20, 30), number, "uint8"), contiguous=False, metadata=None, **options)
    return file.getvalue()


def _pyramid(**options: Any) -> bytes:
    image = _random((64, 48))
    file = io.BytesIO()
    with tifffile.TiffWriter(file, **options) as writer:
        plain = {"photometric": "minisblack", "tile": (16, 16), **({} if options else {"metadata": None})}
        writer.write(image, subifds=1, compression="zlib", **plain)
        writer.write(image[::2, ::2], subfiletype=1, **plain)
    return re.sub(rb"urn:uuid:[0-9a-f-]{36}", b"urn:uuid:" + b"0" * 36, file.getvalue())


def _described_by(software: str, *descriptions: str, **options: Any) -> bytes:
    """Write pages with descriptions as other programs write them."""
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as writer:
        for number, description in enumerate(descriptions):
            page = _random((40, 30, 3), "uint8") if options.get("photometric") == "rgb" else _random((20, 30)) + number
            told = {"description": description, "software": software, "contiguous": False, "metadata": None}
            writer.write(page[: 40 - 4 * number], **{"photometric": "minisblack", **told, **options})
    return file.getvalue()


def _tiff_seeds() -> list[Seed]:
    told = {"axes": "TCYX", "PhysicalSizeX": 0.5, "Channel": {"Name": ["DAPI", "GFP"]}}
    spaced = {"axes": "ZYX", "spacing": 0.5, "unit": "um"}
    color = {"metadata": None, "photometric": "rgb", "tile": (16, 16)}
    slide, small = "Aperio Image Library v1", {"metadata": None, "tile": (16, 16)}
    imagej = "ImageJ=1.54f\nimages=3\nslices=3\nunit=um\n"
    files = {
        "plain": _tiff(_random((3, 20, 30)), metadata=None),
        "big-endian strips": _tiff(_random((20, 30)), metadata=None, byteorder=">", rowsperstrip=5, compression="zlib"),
        "bigtiff tiles": _tiff(_random((40, 30)), bigtiff=True, compression="lzw", predictor=True, **small),
        "rgb jpeg": _tiff(_random((32, 32, 3), "uint8"), compression="jpeg", **color),
        "rgb planes": _tiff(_random((3, 32, 32), "uint8"), planarconfig="separate", compression="zstd", **color),
        "jpeg 2000": _tiff(_random((32, 32), "uint8"), compression="jpeg2000", **small),
        "png": _tiff(_random((32, 32), "uint8"), compression="png", **small),
        "webp": _tiff(_random((32, 32, 3), "uint8"), compression="webp", **color),
        "volumes": _tiff(_random((16, 32, 32)), volumetric=True, metadata={"axes": "ZYX"}, tile=(16, 16, 16)),
        "float packbits": _tiff(_random((20, 30), "float32"), metadata=None, compression="packbits"),
        "float predictor": _tiff(_random((20, 30), "float32"), metadata=None, compression="lzma", predictor=True),
        "complex": _tiff(_random((20, 30), "complex64"), metadata=None),
        "bits": _tiff(_random((20, 30)) > 99, metadata=None),
        "shaped": _tiff(_random((4, 20, 30)), metadata={"axes": "ZYX"}),
        "one page describes all": _tiff(_random((4, 20, 30)), metadata={"axes": "ZYX"}, truncate=True),
        "imagej": _tiff(_random((3, 20, 30)), imagej=True, resolution=(4, 5), metadata=spaced),
        "imagej pages": _described_by("", imagej, "", "", compression="zlib"),
        "slide": _described_by("", slide, f"{slide} 10x10", f"{slide} label", f"{slide} macro", photometric="rgb"),
        "scanimage": _described_by("SI.VERSION_MAJOR = 5", "frame 1", "frame 2", "frame 3"),
        "ome": _tiff(_random((3, 2, 20, 30)), ome=True, metadata=told),
        "ome pyramid": _pyramid(ome=True),
        "pages of many kinds": _pages_of_many_kinds(),
        "pyramid": _pyramid(),
    }
    return [Seed(name, {"image.tif": content}, "image.tif") for name, content in files.items()] + [_file_set()]


def _file_set() -> Seed:
    planes = _random((2, 20, 30))
    names = ["first.ome.tif", "second.ome.tif"]
    where = "".join(
        f'<TiffData IFD="0" FirstZ="{z}" PlaneCount="1"><UUID FileName="{name}">urn:uuid:{z}</UUID></TiffData>'
        for z, name in enumerate(names)
    )
    xml = f"{_OME}<Image ID='Image:0'>{_pixels(2, where)}</Image></OME>"
    files = {
        name: _tiff(plane, metadata=None, description=xml.replace("urn:uuid:0", f"urn:uuid:{z}", 1))
        for z, (name, plane) in enumerate(zip(names, planes, strict=True))
    }
    return Seed("file set", files, names[0])


def _pixels(n_slices: int, where: str, more: str = "") -> str:
    return (
        f'<Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint16" SizeX="30" SizeY="20" SizeZ="{n_slices}" SizeC="1" '
        f'SizeT="1" {more}><Channel ID="Channel:0:0" SamplesPerPixel="1" Name="0488" Color="-16776961"/>{where}</Pixels>'
    )


def _ome_xml_seeds() -> list[Seed]:
    sizes = 'PhysicalSizeX="0.5" PhysicalSizeXUnit="µm" PhysicalSizeZ="1.5E-5" PhysicalSizeZUnit="dm" TimeIncrement="2"'
    whole = '<TiffData IFD="0" PlaneCount="3"/>'
    other = '<TiffData IFD="0" FirstZ="0"/><TiffData IFD="0" FirstZ="1"><UUID FileName="b.ome.tif">urn:uuid:2</UUID></TiffData>'
    documents = {
        "one image": f'<Image ID="Image:0" Name="007">{_pixels(3, whole, sizes)}</Image>',
        "two images": "".join(
            f'<Image ID="Image:{number}" Name="{name}">{_pixels(1, where, sizes)}</Image>'
            for number, name, where in ((0, "empty", "<MetadataOnly/>"), (1, "cells", '<TiffData IFD="1"/>'))
        ),
        "several files": f'<Image ID="Image:0">{_pixels(2, other)}</Image>',
        "an axis inside another": f'<Image ID="Image:0">{_pixels(3, whole)}<AnnotationRef ID="A"/></Image>{_MODULO}',
        "no pixels of its own": '<BinaryOnly MetadataFile="b.ome.tif" UUID="urn:uuid:2"/>',
    }
    second = {"b.ome.xml": f'{_OME}<Image ID="Image:0">{_pixels(3, whole)}</Image></OME>'.encode()}
    return [
        Seed(
            name, {"a.ome.xml": f"{_OME}{body}</OME>".encode(), **(second if "b.ome.tif" in body else {})}, "a.ome.tif"
        )
        for name, body in documents.items()
    ]


def _use_ome_xml(path: Path) -> None:
    """Open an OME-TIFF of three pages for each description in the folder."""
    for xml in path.parent.glob("*.xml"):
        description = xml.read_bytes().replace(b"\0", b" ")
        tifffile.imwrite(
            xml.with_suffix(".tif"),
            _random((3, 20, 30)),
            metadata=None,
            description=description,
            photometric="minisblack",
        )
    open_and_read(path)


TIFF = Target(_tiff_seeds, open_and_read)
OME_XML = Target(_ome_xml_seeds, _use_ome_xml)
