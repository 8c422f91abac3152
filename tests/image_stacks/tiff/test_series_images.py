"""What an index beside a file may make tifffile do."""

from __future__ import annotations

import json
import struct

import pytest

from patchloom.errors import SourceError
from patchloom.image_stacks.tiff.series_images import check_ndtiff_index


def write_index(folder, entries):
    """Write an index of planes: axes and file name of each."""
    content = b""
    for axes, name in entries:
        told, named = json.dumps(axes).encode(), name.encode()
        content += struct.pack("<I", len(told)) + told + struct.pack("<I", len(named)) + named
        content += struct.pack("<IiiiiIii", 0, 8, 8, 0, 0, 0, 0, 0)
    (folder / "NDTiff.index").write_bytes(content)


@pytest.fixture
def stack(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "stack.tif").write_bytes(b"")
    (folder / "stack_1.tif").write_bytes(b"")
    (tmp_path / "outside.tif").write_bytes(b"")
    return folder / "stack.tif"


def test_index(stack):
    """The index of a data set is accepted."""
    entries = [({"time": time, "channel": "GFP"}, name) for time in range(9) for name in ("stack.tif", "stack_1.tif")]
    write_index(stack.parent, entries)
    check_ndtiff_index(stack)


def test_distant_planes(stack):
    """An index of planes that are far apart is refused."""
    write_index(stack.parent, [({"time": 0, "z": 0}, "stack.tif"), ({"time": 2**30, "z": 2**30}, "stack.tif")])
    with pytest.raises(SourceError, match=r"stack\.tif is damaged: it describes \d+ planes, of which 2 are stored"):
        check_ndtiff_index(stack)


@pytest.mark.parametrize("name", ["../outside.tif", "/etc/hosts", "missing.tif", "link.tif"])
def test_files_elsewhere(stack, name):
    """An index of files outside the folder is refused."""
    (stack.parent / "link.tif").symlink_to(stack.parent.parent / "outside.tif")
    write_index(stack.parent, [({"time": 0}, name)])
    with pytest.raises(SourceError, match=r"stack\.tif is one file of a set, and names another"):
        check_ndtiff_index(stack)
