"""Pixels out: where predicted images land."""

from patchloom.sinks.destination import check_destination, partial_path
from patchloom.sinks.file_sink import check_room
from patchloom.sinks.image_sink import ImageSink
from patchloom.sinks.input_places import InputPlaces, check_apart
from patchloom.sinks.memory_sink import MemorySink
from patchloom.sinks.npy_sink import NpySink
from patchloom.sinks.ome_zarr_sink import OmeZarrSink
from patchloom.sinks.open_sink import check_storable, open_sink
from patchloom.sinks.output_kind import SINK_SUFFIXES, SUPPORTED_OUTPUTS, output_kind
from patchloom.sinks.output_lock import OutputLock
from patchloom.sinks.output_mark import is_output_of
from patchloom.sinks.pyramid import Pyramid, check_pyramid
from patchloom.sinks.sink_capabilities import OffersBuffer, ResumableSink
from patchloom.sinks.tiff_sink import TiffSink
from patchloom.sinks.zarr_format import OmeZarrVersion, zarr_format_of

__all__ = [
    "SINK_SUFFIXES",
    "SUPPORTED_OUTPUTS",
    "ImageSink",
    "InputPlaces",
    "MemorySink",
    "NpySink",
    "OffersBuffer",
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
