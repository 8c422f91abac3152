"""Subblocks of a CZI are checked before libCZI reads them: at a damaged one it may end the process."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from patchloom.image_stacks.czi.directory import PLANE_DIMENSIONS, CziDirectory, check_subblock


class SubblockChecks:
    """Which subblocks of a file have been checked; each is, once, before it is read for the first time.

    Parameters
    ----------
    path : Path
        The file.
    directory : CziDirectory
        Its subblocks.
    """

    def __init__(self, path: Path, directory: CziDirectory) -> None:
        self._path = path
        self._directory = directory
        self._is_checked = np.zeros(len(directory.positions), bool)
        planes, number = np.unique(directory.planes, axis=0, return_inverse=True)
        order = np.argsort(number.ravel(), kind="stable")
        ends = np.cumsum(np.bincount(number.ravel(), minlength=len(planes)))
        rows = [order[end - count : end] for end, count in zip(ends, np.diff(ends, prepend=0), strict=True)]
        self._of_plane = dict(zip(map(tuple, planes.tolist()), rows, strict=True))

    def check(self, plane: Mapping[str, int], box: Sequence[int]) -> None:
        """Check the subblocks of a plane that a box on the stage meets, `x, y, width, height`.

        Raises
        ------
        ValueError
            If one is damaged.
        """
        rows = self._of_plane.get(tuple(plane[axis] for axis in PLANE_DIMENSIONS))
        if rows is None:
            return
        unchecked = rows[~self._is_checked[rows]]
        met = unchecked[self._meets(unchecked, box)].tolist() if len(unchecked) else []
        if not met:
            return
        with self._path.open("rb") as file:
            size = file.seek(0, 2)
            for row in met:
                try:
                    check_subblock(file, size, int(self._directory.positions[row]), self._directory.entries[row])
                except struct.error as error:
                    raise ValueError(f"a subblock is cut off: {error}") from error
                self._is_checked[row] = True

    def _meets(self, rows: NDArray[np.intp], box: Sequence[int]) -> NDArray[np.bool_]:
        boxes = self._directory.boxes[rows]
        starts, ends = boxes[:, :2], boxes[:, :2] + boxes[:, 2:]
        first = np.array(box[:2])
        met = (starts < first + box[2:]) & (ends > first)
        return np.asarray(met.all(axis=1))
