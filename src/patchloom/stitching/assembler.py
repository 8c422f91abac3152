"""Tiles → blocks: any number of blocks of one image are put together at the same time, from tiles in any order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from patchloom.errors import StitchError
from patchloom.geometry.blend_weights import TileWeights
from patchloom.parallel import MIN_PARALLEL_VOXELS, Runner, n_threads, run_serially, split_range
from patchloom.specs.patch_specs import TileSpecs
from patchloom.stitching.blend import add_blended_tile
from patchloom.stitching.crop import n_kept, paste_tile
from patchloom.tensors.tensor_pixels import Pixels, is_tensor, moved, new_pixels

_ON_HOST: NDArray[Any] = np.empty(0)


class AssembledBlock(NamedTuple):
    """A block whose tiles have all been added."""

    window: tuple[slice, ...]
    """Where it lies in the image, `(z,) y, x`."""

    values: Pixels | None
    """`C(Z)YX`, a tensor if its first tile was one; None if every tile was skipped."""

    is_predicted: NDArray[np.bool_] | None
    """`(Z)YX`: where a tile was added; None if that was not marked."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Size along each spatial axis."""
        return _shape(self.window)


class BlockAssembler:
    """Puts the tiles of one image together, block by block: cropped or blended, in any order.

    Blended tiles are added by `flush`, all those of a batch at once. Every voxel sums its tiles in the order in which they
    came, with any number of threads.

    Tiles may be tensors on a device: a block lies where its first tile does, and is put together there, to the same bits.

    Parameters
    ----------
    window_of : callable
        Takes a `block_idx`; returns where the block lies in the image, `(z,) y, x`.
    n_channels : int
        Number of channels of the tiles.
    dtype : numpy dtype
        Dtype of the blocks; a float if tiles are blended, see `blend_dtype`.
    n_blended_tiles : callable, optional
        Takes a `block_idx`; returns the number of tiles that are blended into the block. If None, tiles are cropped.
    initial : float, optional
        Value of a voxel to which no tile is added. If None, it is 0 if tiles are blended, and else left undefined.
    marks_predicted : bool
        Whether blocks know where a tile was added.
    runner : callable
        Runs calls, on several cores if it does.

    Examples
    --------
    >>> from patchloom.patching import TiledPatching
    >>> tiling = TiledPatching([(1, 1, 1, 5)], patch_size=(1, 4), overlaps=(0, 2))
    >>> assembler = BlockAssembler(lambda block_idx: (slice(0, 1), slice(0, 5)), n_channels=1, dtype=np.dtype(int))
    >>> for spec in tiling:
    ...     assembler.add(0, np.arange(4).reshape(1, 1, 4) + spec["coords"][1], spec)
    >>> assembler.take(0).values.tolist()
    [[[0, 1, 2, 3, 4]]]
    """

    def __init__(
        self,
        window_of: Callable[[int], tuple[slice, ...]],
        n_channels: int,
        dtype: np.dtype[Any],
        *,
        n_blended_tiles: Callable[[int], int] | None = None,
        initial: float | None = None,
        marks_predicted: bool = False,
        runner: Runner = run_serially,
    ) -> None:
        self._window_of = window_of
        self._n_channels = n_channels
        self._dtype = dtype
        self._n_blended_tiles = n_blended_tiles
        self._initial = 0 if initial is None and n_blended_tiles is not None else initial
        self._marks_predicted = marks_predicted
        self._runner = runner
        self._open: dict[int, _OpenBlock] = {}
        self._additions: list[_Addition] = []
        """Tiles that are still to be blended."""

    @property
    def n_open(self) -> int:
        """Number of blocks that were begun and not taken out."""
        return len(self._open)

    def has_memory(self, block_idx: int) -> bool:
        """Return whether a tile can be added to a block without allocating it."""
        return block_idx in self._open and self._open[block_idx].values is not None

    def allocate(self, block_idx: int, buffer: NDArray[Any] | None = None, *, like: Pixels = _ON_HOST) -> None:
        """Allocate a block.

        Parameters
        ----------
        block_idx : int
            Index of the block.
        buffer : array, optional
            `C(Z)YX`: memory for the block, used if it has the dtype of the blocks. If None, new memory is allocated.
        like : array or tensor
            Pixels that lie where the block is to lie, if new memory is allocated.
        """
        block = self._opened(block_idx)
        shape = _shape(block.window)
        if buffer is None or buffer.dtype != self._dtype:
            values = new_pixels((self._n_channels, *shape), self._dtype, like)
        else:
            values = buffer
        if self._initial is not None:
            values[...] = self._initial
        block.values = values
        if self._marks_predicted:
            block.is_predicted = np.zeros(shape, np.bool_)

    def add(self, block_idx: int, tile: Pixels, spec: TileSpecs, weights: TileWeights | None = None) -> None:
        """Add a tile to a block: now if it is cropped, when `flush` is called if it is blended.

        Parameters
        ----------
        block_idx : int
            Index of the block.
        tile : array or tensor
            `C(Z)YX`, the whole tile; not to be changed before `flush` if it is blended.
        spec : TileSpecs
            Where the tile lies in the image and what is kept of it.
        weights : TileWeights, optional
            Weights of the tile's voxels. If None, the tile is cropped.
        """
        block = self._open.get(block_idx)
        if block is None or block.values is None:
            self.allocate(block_idx, like=tile)
            block = self._open[block_idx]
        if type(tile) is not type(block.values):  # one of them lies on a device
            tile = moved(tile, block.array)
        if weights is None:
            block.n_missing -= paste_tile(tile, spec, block.array, block.window)
            if block.is_predicted is not None:
                block.mark(spec["stitch_coords"], spec["crop_size"])
            return
        self._additions.append(_Addition(tile, spec["coords"], weights, block))
        block.n_missing -= 1
        if block.is_predicted is not None:  # a tile that was moved inside the image may weigh nothing at an end
            weighed = [np.flatnonzero(of_axis) for of_axis in weights.along_axes()]
            starts = [start + int(of_axis[0]) for start, of_axis in zip(spec["coords"], weighed, strict=True)]
            block.mark(starts, [int(of_axis[-1] - of_axis[0]) + 1 for of_axis in weighed])

    def skip(self, block_idx: int, spec: TileSpecs) -> None:
        """Count a tile as added to a block, whose voxels keep their initial value.

        Parameters
        ----------
        block_idx : int
            Index of the block.
        spec : TileSpecs
            The tile.
        """
        block = self._opened(block_idx)
        block.n_missing -= 1 if self._n_blended_tiles is not None else n_kept(spec, block.window)

    def flush(self) -> None:
        """Blend all tiles that were added: in slabs along the outermost axis, so that no two threads share a voxel."""
        additions, self._additions = self._additions, []
        if not additions:
            return
        start = min(addition.rows.start for addition in additions)
        stop = max(addition.rows.stop for addition in additions)
        on_host = [addition.tile.size for addition in additions if not is_tensor(addition.tile)]
        is_worth_threads = sum(on_host) >= MIN_PARALLEL_VOXELS
        slabs = [
            slice(start + part.start, start + part.stop)
            for part in split_range(stop - start, n_threads() if is_worth_threads else 1)
        ]
        self._runner([partial(_add_all, additions, slab) for slab in slabs])

    def is_complete(self, block_idx: int) -> bool:
        """Return whether all tiles of a block that was begun have been added or skipped."""
        return self._open[block_idx].n_missing == 0

    def take(self, block_idx: int) -> AssembledBlock:
        """Take a complete block out.

        Raises
        ------
        StitchError
            If a tile is missing.
        """
        self.flush()
        block = self._opened(block_idx)
        del self._open[block_idx]
        if block.n_missing:
            what = "voxels" if self._n_blended_tiles is None else "tiles"
            raise StitchError(f"block {block_idx} lacks {block.n_missing} {what}: the plan has a hole")
        return AssembledBlock(block.window, block.values, block.is_predicted)

    def _opened(self, block_idx: int) -> _OpenBlock:
        if block_idx not in self._open:
            window = self._window_of(block_idx)
            blended = self._n_blended_tiles
            n_missing = prod(_shape(window)) if blended is None else blended(block_idx)
            self._open[block_idx] = _OpenBlock(window, n_missing)
        return self._open[block_idx]


@dataclass(slots=True)
class _OpenBlock:
    """A block that tiles are being added to."""

    window: tuple[slice, ...]
    n_missing: int
    """Number of voxels that are still to be pasted or skipped, in one channel, or of tiles that are still to be blended."""
    values: Pixels | None = None
    is_predicted: NDArray[np.bool_] | None = None

    @property
    def array(self) -> Pixels:
        """The values of an allocated block."""
        assert self.values is not None  # noqa: S101  # allocated before a tile is added
        return self.values

    def mark(self, start: Sequence[int], size: Sequence[int]) -> None:
        """Note that a tile was added to a box of the image, as far as it lies in the block."""
        assert self.is_predicted is not None  # noqa: S101  # asked only then
        axes = zip(start, size, self.window, strict=True)
        self.is_predicted[tuple(slice(max(a - w.start, 0), max(a + n - w.start, 0)) for a, n, w in axes)] = True


class _Addition(NamedTuple):
    """A tile that is to be blended into a block."""

    tile: Pixels
    coords: Sequence[int]
    weights: TileWeights
    block: _OpenBlock

    @property
    def rows(self) -> slice:
        """Where it changes the block, along the outermost axis of the image."""
        start, window = self.coords[0], self.block.window[0]
        return slice(max(start, window.start), min(start + self.tile.shape[1], window.stop))

    def add(self, rows: slice) -> None:
        """Add the part of the tile that lies in some rows."""
        window = self.block.window
        first, last = max(rows.start, self.rows.start), min(rows.stop, self.rows.stop)
        if first < last:
            values = self.block.array[:, first - window[0].start : last - window[0].start]
            add_blended_tile(self.tile, self.coords, self.weights, values, (slice(first, last), *window[1:]))


def _add_all(additions: Sequence[_Addition], rows: slice) -> None:
    for addition in additions:
        addition.add(rows)


def _shape(window: Sequence[slice]) -> tuple[int, ...]:
    return tuple(part.stop - part.start for part in window)
