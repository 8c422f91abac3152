"""The protocol of the images of a TIFF, and the levels of their pyramids."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from patchloom.axes import AxesMap
from patchloom.image_metadata import ImageMetadata
from patchloom.image_stacks.tiff.stored_page import StoredPage


@dataclass(frozen=True)
class TiffLevel:
    """One level of the pyramid of an image.

    Parameters
    ----------
    axes : str
        tifffile's letters for its axes, outermost first, also for those of size 1.
    shape : tuple of int
        Size along each of them.
    pages : sequence of StoredPage or None
        Its pages; None for one that was never written.
    squeezes : bool
        Whether axes of size 1 have no meaning.
    """

    axes: str
    shape: tuple[int, ...]
    pages: Sequence[StoredPage | None]
    squeezes: bool

    @property
    def squeezed(self) -> tuple[str, tuple[int, ...]]:
        """Axes and shape without those of size 1, except Y and X."""
        kept = [(axis, size) for axis, size in zip(self.axes, self.shape, strict=True) if size > 1 or axis in "YX"]
        return "".join(axis for axis, _ in kept), tuple(size for _, size in kept)

    @property
    def is_rgb(self) -> bool:
        """Whether the samples of a pixel are red, green and blue."""
        first = next(page.kind for page in self.pages if page is not None)
        return first.color == "RGB" and self.axes.count("S") == 1 and self.shape[self.axes.index("S")] == 3

    @property
    def declared(self) -> tuple[str, tuple[int, ...]]:
        """Axes and shape, without those of size 1 if they have no meaning."""
        return self.squeezed if self.squeezes else (self.axes, self.shape)


_ASSOCIATED = re.compile(r"(thumbnail|label|macro|overview|preview|barcode)( image)?", re.IGNORECASE)
"""Names that slide scanners, and OpenSlide and Bio-Formats after them, give to images that accompany the picture."""


def is_name_of_associated(name: str) -> bool:
    """Return whether an image of this name accompanies another one.

    Examples
    --------
    >>> is_name_of_associated("Thumbnail"), is_name_of_associated("label image"), is_name_of_associated("labeled cells")
    (True, True, False)
    """
    return _ASSOCIATED.fullmatch(name.strip()) is not None


class TiffImage(Protocol):
    """One of the images of a TIFF."""

    @property
    def name(self) -> str:
        """Its name; empty if it has none."""

    @property
    def is_here(self) -> bool:
        """Whether pages of it lie in the file that is opened, not only in other files of its set."""

    @property
    def is_associated(self) -> bool:
        """Whether it accompanies another image: a smaller copy of it, or the label or overview of a slide."""

    @property
    def outline(self) -> tuple[str, tuple[int, ...]]:
        """Axes and shape, as far as they are known without reading pages."""

    @property
    def n_levels(self) -> int:
        """Number of levels of its pyramid, the full image included."""

    def level(self, number: int) -> TiffLevel:
        """Find the pages of one level of its pyramid."""

    def metadata(self, axes_map: AxesMap, *, is_rgb: bool) -> ImageMetadata:
        """Voxel sizes and channels, as far as they fit the axes."""
