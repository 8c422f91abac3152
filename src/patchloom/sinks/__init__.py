"""Pixels out: where predicted images land."""

from patchloom.sinks.destination import check_apart, check_destination, partial_path
from patchloom.sinks.image_sink import ImageSink
from patchloom.sinks.memory_sink import MemorySink
from patchloom.sinks.ome_zarr_sink import OmeZarrSink
from patchloom.sinks.output_kind import SINK_SUFFIXES, SUPPORTED_OUTPUTS, output_kind
from patchloom.sinks.output_lock import OutputLock
from patchloom.sinks.sink_capabilities import OffersBuffer, ResumableSink

__all__ = [
    "SINK_SUFFIXES",
    "SUPPORTED_OUTPUTS",
    "ImageSink",
    "MemorySink",
    "OffersBuffer",
    "OmeZarrSink",
    "OutputLock",
    "ResumableSink",
    "check_apart",
    "check_destination",
    "output_kind",
    "partial_path",
]
