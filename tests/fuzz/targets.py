"""The formats under test, by name. A new one is a module with its seeds and its use, and a line here."""

from __future__ import annotations

import tiff_target
from bounded_process import Target

TARGETS: dict[str, Target] = {
    "tiff": tiff_target.TIFF,
    "ome-xml": tiff_target.OME_XML,
}
