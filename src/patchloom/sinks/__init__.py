"""Image sinks: outputs that predicted images are written to, block by block."""

from patchloom.sinks.files.file_sink import check_room
from patchloom.sinks.files.npy_sink import NpySink
from patchloom.sinks.files.tiff_sink import TiffSink
from patchloom.sinks.memory_sink import MemorySink
from patchloom.sinks.ome_zarr.block_records import is_output_of
from patchloom.sinks.ome_zarr.options import OmeZarr
from patchloom.sinks.ome_zarr.pyramid import Pyramid, check_pyramid
from patchloom.sinks.ome_zarr.sink import OmeZarrSink
from patchloom.sinks.ome_zarr.zarr_format import OmeZarrVersion, zarr_format_of
from patchloom.sinks.open import check_storable, open_sink
from patchloom.sinks.output_kinds import SINK_SUFFIXES, SUPPORTED_OUTPUTS, output_kind
from patchloom.sinks.protocols import CountsFinalizing, HasBuffer, ImageSink, ResumableSink
from patchloom.sinks.publishing.destination import check_destination, partial_path
from patchloom.sinks.publishing.input_places import InputPlaces, check_apart
from patchloom.sinks.publishing.lock import OutputLock

__all__ = [
    "SINK_SUFFIXES",
    "SUPPORTED_OUTPUTS",
    "CountsFinalizing",
    "HasBuffer",
    "ImageSink",
    "InputPlaces",
    "MemorySink",
    "NpySink",
    "OmeZarr",
    "OmeZarrSink",
    "OmeZarrVersion",
    "OutputLock",
    "Pyramid",
    "ResumableSink",
    "TiffSink",
    "check_apart",
    "check_destination",
    "check_pyramid",
    "check_room",
    "check_storable",
    "is_output_of",
    "open_sink",
    "output_kind",
    "partial_path",
    "zarr_format_of",
]
