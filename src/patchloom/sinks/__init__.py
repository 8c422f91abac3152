"""Pixels out: where predicted images land."""

from patchloom.sinks.destination import check_apart, check_destination
from patchloom.sinks.image_sink import ImageSink
from patchloom.sinks.memory_sink import MemorySink
from patchloom.sinks.ome_zarr_sink import OmeZarrSink

__all__ = ["ImageSink", "MemorySink", "OmeZarrSink", "check_apart", "check_destination"]
