"""Image stacks of any source, read lazily as `SC(Z)YX`."""

from patchloom.image_stacks.array_stack import ArrayStack
from patchloom.image_stacks.channel_selection import select_channels
from patchloom.image_stacks.czi.stack import CziStack
from patchloom.image_stacks.derived_stack import opened_stack
from patchloom.image_stacks.fingerprint import Fingerprint, SourceWatch
from patchloom.image_stacks.npy_stack import NpyStack
from patchloom.image_stacks.open import Source, is_series, open_stacks
from patchloom.image_stacks.plane_stack import PlanePosition, as_planes, plane_position, whole_stack
from patchloom.image_stacks.protocols import (
    HasFiles,
    HasMetadata,
    HasStorage,
    HasStorageGrid,
    HoldsPixels,
    ImageStack,
    ReadsRegions,
    Region,
    Storage,
    read_regions,
)
from patchloom.image_stacks.scan import ScanBlock, scan_stack
from patchloom.image_stacks.series_check import check_series, listed_stacks
from patchloom.image_stacks.sliced_stack import SlicedStack
from patchloom.image_stacks.storage import array_storage, files_read, storage_of
from patchloom.image_stacks.tiff.stack import TiffStack
from patchloom.image_stacks.zarr.stack import ZarrStack

__all__ = [
    "ArrayStack",
    "CziStack",
    "Fingerprint",
    "HasFiles",
    "HasMetadata",
    "HasStorage",
    "HasStorageGrid",
    "HoldsPixels",
    "ImageStack",
    "NpyStack",
    "PlanePosition",
    "ReadsRegions",
    "Region",
    "ScanBlock",
    "SlicedStack",
    "Source",
    "SourceWatch",
    "Storage",
    "TiffStack",
    "ZarrStack",
    "array_storage",
    "as_planes",
    "check_series",
    "files_read",
    "is_series",
    "listed_stacks",
    "open_stacks",
    "opened_stack",
    "plane_position",
    "read_regions",
    "scan_stack",
    "select_channels",
    "storage_of",
    "whole_stack",
]
