"""What a prediction will do, worked out before any of it is done."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from patchloom.axes import spatial_axes
from patchloom.errors import GeometryError
from patchloom.geometry.checks import spatial_tuple, whole_number
from patchloom.geometry.padding import Padding, check_padding
from patchloom.geometry.tile_rule import Seams
from patchloom.image_stacks import ImageStack, Source, check_series, open_stacks
from patchloom.patching import TiledPatching
from patchloom.prediction.blocks import BlockGrid, choose_blocks, choose_seams
from patchloom.prediction.models.model import Model, ModelDescription, describe


@dataclass(frozen=True)
class PredictionPlan:
    """Everything a run is: which tiles of which images go through the model, and which blocks come out.

    Made by `plan`. The same arguments give the same plan, and a plan says all that it will do without doing it.

    Examples
    --------
    >>> import numpy as np
    >>> import patchloom as pl
    >>> prepared = pl.plan(np.zeros((100, 80), np.uint8), axes="YX", patch_size=(64, 64), overlaps=(16, 16))
    >>> prepared.n_tiles, prepared.n_blocks, prepared.seams
    (4, 1, 'centered')
    """

    stacks: tuple[ImageStack, ...]
    """The series."""

    tiling: TiledPatching
    """The tiles of the whole series."""

    blocks: tuple[BlockGrid, ...]
    """The blocks of each image."""

    batch_size: int
    """Tiles that go through the model together."""

    padding: Padding
    """What stands outside an image."""

    model: ModelDescription
    """What the model says of itself."""

    dtype: np.dtype[Any] | None
    """Dtype asked for; `None` for that of the model's first batch."""

    source_identities: tuple[tuple[Any, ...], ...]
    """What each source was when the plan was made: name, axes, shape, dtype; a file's size and time of change."""

    @property
    def n_tiles(self) -> int:
        """Tiles of the series."""
        return len(self.tiling)

    @property
    def n_blocks(self) -> int:
        """Blocks of the series."""
        return sum(len(grid) for grid in self.blocks)

    @property
    def seams(self) -> Seams:
        """Where kept windows meet."""
        return self.tiling.seams

    @property
    def n_tiles_computed(self) -> int:
        """Tiles that go through the model: one that two blocks share is computed for each."""
        return sum(
            grid.n_samples * prod(self._tiles_along(data_idx, axis) for axis in range(len(grid.spatial_shape)))
            for data_idx, grid in enumerate(self.blocks)
        )

    @property
    def source_bytes(self) -> int:
        """Size of the images, decoded."""
        return sum(prod(stack.data_shape) * np.dtype(stack.data_dtype).itemsize for stack in self.stacks)

    @property
    def tile_bytes(self) -> int:
        """Size of all tiles that are read, overlaps and padding included."""
        tile = prod(self.tiling.patch_size) * int(self.stacks[0].data_shape[1])
        return self.n_tiles_computed * tile * max(np.dtype(stack.data_dtype).itemsize for stack in self.stacks)

    @property
    def output_channels(self) -> int | None:
        """Channels of the output, where the model says so beforehand."""
        return self.model.out_channels

    @property
    def output_dtype(self) -> np.dtype[Any] | None:
        """Dtype of the output: what was asked for, else what the model says, else `None`."""
        declared = None if self.model.out_dtype is None else np.dtype(self.model.out_dtype)
        return declared if self.dtype is None else self.dtype

    @property
    def output_shapes(self) -> list[tuple[int | None, ...]]:
        """Shape of each output as `SC(Z)YX`; `C` is `None` where the first batch decides."""
        return [(grid.n_samples, self.output_channels, *grid.spatial_shape) for grid in self.blocks]

    @property
    def output_bytes(self) -> int:
        """Size of the outputs before compression, by `assumed_output`."""
        channels, dtype = self.assumed_output
        return sum(grid.n_samples * prod(grid.spatial_shape) for grid in self.blocks) * channels * dtype.itemsize

    @property
    def assumed_output(self) -> tuple[int, np.dtype[Any]]:
        """Channels and dtype that sizes are estimated with: one of float32 where nobody says more."""
        return self.output_channels or 1, self.output_dtype or np.dtype(np.float32)

    @property
    def peak_memory(self) -> int:
        """Bytes that one block and one batch take, by `assumed_output`; what the model needs itself is not known."""
        channels, dtype = self.assumed_output
        block = max(prod(map(min, grid.block_shape, grid.spatial_shape)) for grid in self.blocks)
        tile = prod(self.tiling.patch_size)
        batch_in = self.batch_size * tile * int(self.stacks[0].data_shape[1])
        itemsize = max(np.dtype(stack.data_dtype).itemsize for stack in self.stacks)
        return (
            block * channels * dtype.itemsize + batch_in * itemsize + self.batch_size * tile * channels * dtype.itemsize
        )

    @property
    def fingerprint(self) -> str:
        """Short digest that is the same for the same geometry, settings and source files."""
        identity = {
            "sources": self.source_identities,
            "tiling": [self.tiling.patch_size, self.tiling.overlaps, self.tiling.origin_multiple, self.seams],
            "blocks": [[grid.block_shape, grid.chunk_shape] for grid in self.blocks],
            "padding": self.padding,
            "dtype": str(self.dtype),
        }
        return hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:16]

    def _tiles_along(self, data_idx: int, axis: int) -> int:
        """Tiles along one axis, those shared by blocks counted for each."""
        grid, rule = self.blocks[data_idx], self.tiling.rules[axis]
        size, block = grid.spatial_shape[axis], grid.block_shape[axis]
        return sum(len(rule.touching(start, min(start + block, size), size)) for start in range(0, size, block))

    def summary(self) -> dict[str, Any]:
        """Give the plan as plain values that go to JSON."""
        channels, dtype = self.assumed_output
        return {
            "sources": [
                {
                    "source": str(stack.source),
                    "axes": stack.original_axes,
                    "shape": list(stack.original_data_shape),
                    "dtype": str(np.dtype(stack.data_dtype)),
                    "tiles": list(self.tiling.grid_shape(data_idx)),
                    "block_shape": list(self.blocks[data_idx].block_shape),
                    "output_shape": list(self.output_shapes[data_idx]),
                }
                for data_idx, stack in enumerate(self.stacks)
            ],
            "patch_size": list(self.tiling.patch_size),
            "overlaps": list(self.tiling.overlaps),
            "seams": self.seams,
            "padding": self.padding,
            "batch_size": self.batch_size,
            "tiles": self.n_tiles,
            "tiles_computed": self.n_tiles_computed,
            "blocks": self.n_blocks,
            "output_dtype": None if self.output_dtype is None else str(self.output_dtype),
            "source_bytes": self.source_bytes,
            "tile_bytes": self.tile_bytes,
            "output_bytes": self.output_bytes,
            "peak_memory": self.peak_memory,
            "assumed_output": {"channels": channels, "dtype": str(dtype)},
            "fingerprint": self.fingerprint,
        }


def plan(
    sources: Source | Sequence[Source],
    *,
    model: Model | None = None,
    axes: str | Sequence[str | None] | None = None,
    patch_size: Sequence[int] | None = None,
    overlaps: Sequence[int] | None = None,
    seams: Seams | None = None,
    padding: Padding = "reflect",
    batch_size: int = 1,
    dtype: Any = None,
) -> PredictionPlan:
    """Work out a prediction without running it.

    Parameters
    ----------
    sources : path, URL, array, ImageStack or sequence of these
        The images, as `open_stacks` takes them.
    model : callable, optional
        Asked only for what it says of itself: its tile size, overlap and channels.
    axes : str or sequence of str, optional
        Axes of the sources, where their metadata do not say.
    patch_size : sequence of int, optional
        Size of a tile, `(z,) y, x`; needed where the model takes any.
    overlaps : sequence of int, optional
        Voxels that neighbouring tiles share; what the model declares, else a quarter of the patch size.
    seams : {"centered", "grid"}, optional
        Where kept windows meet, see `TiledPatching`; chosen by the size of the images where not given.
    padding : {"reflect", "edge", "wrap", "constant"}
        What stands outside an image, where it is smaller than a tile.
    batch_size : int
        Tiles that go through the model together.
    dtype : dtype, optional
        Of the output. Floats turn into integers by rounding, and stop at the ends of the range.

    Returns
    -------
    PredictionPlan
        The plan.

    Raises
    ------
    GeometryError
        If sizes make no sense, do not fit the images, or contradict the model.
    AxesError
        If the axes of a source are not known, or not legal.
    SourceError
        If a source cannot be opened.

    Examples
    --------
    >>> import numpy as np
    >>> plan(np.zeros((3, 100, 80)), axes="CYX", patch_size=(64, 64)).tiling.overlaps
    (16, 16)
    """
    stacks = open_stacks(sources, axes)
    check_series(stacks)
    description = ModelDescription() if model is None else describe(model)
    n_dims = len(stacks[0].data_shape) - 2
    size = _agree("patch_size", patch_size, description.patch_size, n_dims)
    if size is None:
        example = ",".join(["256"] * 2 if n_dims == 2 else ["32", "128", "128"])
        raise GeometryError(
            f"patch_size is not given and the model takes any: give one number for each of "
            f"{', '.join(spatial_axes(n_dims))}, such as {example}"
        )
    _check_channels(stacks, description)
    shared = description.overlaps if overlaps is None else overlaps
    data_shapes = [stack.data_shape for stack in stacks]
    tiling = TiledPatching(
        data_shapes,
        size,
        [side // 4 for side in size] if shared is None else shared,
        seams=seams or choose_seams(data_shapes),
    )
    cores = [rule.core for rule in tiling.rules]
    if whole_number("batch_size", batch_size) < 1:
        raise GeometryError(f"batch_size is {batch_size}: it must be at least 1")
    return PredictionPlan(
        stacks=tuple(stacks),
        tiling=tiling,
        blocks=tuple(choose_blocks(shape, cores, tiling.seams) for shape in tiling.data_shapes),
        batch_size=int(batch_size),
        padding=check_padding(padding),
        model=description,
        dtype=None if dtype is None else np.dtype(dtype),
        source_identities=tuple(map(_source_identity, stacks)),
    )


def _agree(
    name: str, given: Sequence[int] | None, declared: tuple[int, ...] | None, n_dims: int
) -> tuple[int, ...] | None:
    """Return what is given or what the model declares; both must be the same."""
    if given is None:
        return declared
    wanted = spatial_tuple(name, given, least=1)
    if declared is not None and wanted != declared:
        raise GeometryError(f"{name} is {wanted}, but the model takes {declared} only: leave {name} out")
    if len(wanted) != n_dims:
        raise GeometryError(
            f"{name} is {wanted}, which is {len(wanted)}D, but the images are {n_dims}D: give one number for each of "
            f"{', '.join(spatial_axes(n_dims))}, or name the axes so that the dimensions fit (a stack of slices read one "
            "by one has axes 'SYX')"
        )
    return wanted


def _check_channels(stacks: Sequence[ImageStack], description: ModelDescription) -> None:
    channels = int(stacks[0].data_shape[1])
    if description.in_channels not in (None, channels):
        raise GeometryError(
            f"the model takes {description.in_channels} channels, but {stacks[0].source} has {channels}"
        )


def _source_identity(stack: ImageStack) -> tuple[Any, ...]:
    path = Path(str(stack.source))
    status = path.stat() if path.exists() else None
    return (
        str(stack.source),
        stack.original_axes,
        tuple(stack.original_data_shape),
        str(stack.data_dtype),
        *(() if status is None else (status.st_size, status.st_mtime_ns)),
    )
