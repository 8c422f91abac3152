"""Whether the pixels of a source are still those that a run began with."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchloom.filters.score_files import fingerprint
from patchloom.image_stacks import HasFiles, HoldsPixels, ImageStack


def source_state(stack: ImageStack) -> str | None:
    """Tell the pixels of a source from others without reading files.

    Of files, and of all files in a folder, the names, sizes and times of change count; a time is compared and never put in
    order, so a clock that was set back does no harm. Of an array in memory all pixels count, of a mapped one its file.

    Parameters
    ----------
    stack : ImageStack
        The source.

    Returns
    -------
    str or None
        The same for the same pixels; `None` where nothing can be said, as of a remote source.

    Examples
    --------
    >>> from patchloom import ArrayStack
    >>> image = np.arange(12).reshape(3, 4)
    >>> source_state(ArrayStack(image, axes="YX")) == source_state(ArrayStack(image[:, ::-1], axes="YX"))
    False
    """
    if isinstance(stack, HasFiles) and stack.files:
        return f"{stack.image_in_files} {fingerprint(stack.files)}"
    pixels = stack.pixels if isinstance(stack, HoldsPixels) and not Path(str(stack.source)).exists() else None
    if pixels is None:
        return None
    mapped = _mapped_file(pixels)
    if mapped is not None:
        start = mapped.offset + pixels.ctypes.data - mapped.ctypes.data
        return f"{fingerprint([Path(str(mapped.filename))])} from {start} in steps of {pixels.strides}"
    checksum = 0
    for sample in pixels:
        for channel in sample:
            checksum = zlib.crc32(np.ascontiguousarray(channel).data, checksum)
    return f"{checksum:08x}"


def _mapped_file(pixels: NDArray[Any]) -> np.memmap[Any, Any] | None:
    """Find the mapped file that an array is a part of."""
    owner: Any = pixels
    found = None
    while isinstance(owner, np.ndarray):
        if isinstance(owner, np.memmap) and owner.filename is not None:
            found = owner
        owner = owner.base
    return found
