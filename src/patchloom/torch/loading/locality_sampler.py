"""An order of patches in which those that lie near each other in the storage come near each other in time.

All patches of an epoch are gone through once, as in any order; what differs is which of them meet in a batch. The storage is
cut into blocks of a few chunks. Laid out on a circle in random order, each block is open for `window` steps, and a patch is
drawn at a random moment while its block is: at any time `window` blocks are open, and patches are drawn from all of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchloom.argument_checks import MAX_SIZE, instance
from patchloom.errors import GeometryError
from patchloom.geometry.checks import listed_shapes, whole_number
from patchloom.patching import Patching
from patchloom.patching.counter_random import CounterRandom, Stream
from patchloom.specs.patch_specs import PatchSpecs
from patchloom.torch.loading.epoch_sampler import EpochSampler, Order

_DIGESTED_TOGETHER = 2**16


class LocalitySampler(EpochSampler):
    """An `EpochSampler` whose random order keeps decoded chunks in use.

    Parameters
    ----------
    patching : Patching
        The plan, whose patches the dataset gives.
    chunk_shapes : sequence of sequence of int
        For each image stack, the box that is decoded at once, `SC(Z)YX`; see `HasStorageGrid.chunk_shape`.
    window : int
        How many blocks are open at a time: the more, the nearer the order is to an even one, and the more memory decoded
        chunks take. With as many as there are blocks, or more, all orders are equally likely, as in an `EpochSampler`.
    block : int
        Chunks along each spatial axis of a block. A patch reaches into the chunks beyond its block, so that small blocks have
        more of their chunks decoded again when their neighbors are open.
    seed, rank, n_ranks, drop_last
        As of `EpochSampler`; but each rank goes through a stretch of the order of its own, so that few chunks are decoded by
        several.

    Raises
    ------
    GeometryError
        If the chunk shapes do not fit the plan, or the window or block is not at least 1.

    Notes
    -----
    *How far from an even order.* Coverage is the same: in every epoch each patch comes once, at a moment that is equally likely
    to be any. What is lost is independence within a batch: two patches that follow each other are of one block with a
    probability of `1 / window` (`1 / number of blocks` in an even order), and patches more than `window` blocks apart in time
    are never of one, but for the beginning and end of the epoch, which share theirs.

    *Memory and decoding.* `window * (block + 1) ** dims` chunks are in use at a time; decoding each of them once takes a cache
    of so many. Each is then decoded `((block + 1) / block) ** dims` times an epoch, however many patches it serves.

    The order is worked out at the beginning of an epoch, in `O(n log n)` time and 40 bytes a patch. Of an uncorrelated plan it
    is the principal channels that lie near each other.

    Examples
    --------
    >>> import patchloom as pl
    >>> from patchloom.torch import LocalitySampler
    >>> plan = pl.RandomPatching([(1, 1, 512, 512)], patch_size=(32, 32), n_patches=1000, seed=7)
    >>> sampler = LocalitySampler(plan, [(1, 1, 64, 64)], window=4, seed=1)
    >>> batch = plan.at_epoch(0).specs([key.index for key, _ in zip(sampler, range(32))]).columns["coords"]
    >>> len(np.unique(batch // 128, axis=0)), len(np.unique(plan.specs(range(32)).columns["coords"] // 128, axis=0))
    (4, 12)
    """

    def __init__(
        self,
        patching: Patching[PatchSpecs],
        chunk_shapes: Sequence[Sequence[int]],
        *,
        window: int = 8,
        block: int = 2,
        seed: int = 0,
        rank: int | None = None,
        n_ranks: int | None = None,
        drop_last: bool = False,
    ) -> None:
        instance("patching", patching, Patching, "such as a RandomPatching")
        super().__init__(len(patching), seed=seed, rank=rank, n_ranks=n_ranks, drop_last=drop_last)
        self.patching = patching
        self.window, self.block = (
            whole_number(name, value, least=1, most=MAX_SIZE) for name, value in (("window", window), ("block", block))
        )
        self._block_shapes = _block_shapes(chunk_shapes, self.block)

    def blocks(self, epoch: int) -> NDArray[np.int64]:
        """Say in which block each patch of an epoch begins; blocks are numbered from 0."""
        specs = self.patching.at_epoch(epoch).specs(range(self.n_patches)).columns
        data_idx, coords = specs["data_idx"], specs["coords"]
        if data_idx.max() >= len(self._block_shapes) or coords.shape[1] + 1 != self._block_shapes.shape[1]:
            raise GeometryError(
                f"there are chunk shapes for {len(self._block_shapes)} image stacks of {self._block_shapes.shape[1] - 1} "
                f"dimensions, but the patches lie in {data_idx.max() + 1} of {coords.shape[1]} dimensions"
            )
        shapes = self._block_shapes[data_idx]
        numbers = np.zeros(self.n_patches, np.int64)
        for axis in (data_idx, specs["sample_idx"] // shapes[:, 0], *(coords // shapes[:, 1:]).T):
            # Numbered through axis by axis: the numbers stay below that of the patches, however large the image.
            low, span = int(axis.min()), int(axis.max() - axis.min()) + 1
            numbers = _numbered_through(numbers * span + (axis - low))
        return numbers

    def _identity(self) -> dict[str, Any]:
        own = {"window": self.window, "block_shapes": self._block_shapes.tolist(), "plan": self._plan_digest}
        return super()._identity() | own

    @cached_property
    def _plan_digest(self) -> str:
        """Digest of where the patches of the first epoch lie: an order by place is that of one plan only."""
        digest = hashlib.blake2b(digest_size=16)
        plan = self.patching.at_epoch(0)
        for start in range(0, self.n_patches, _DIGESTED_TOGETHER):
            columns = plan.specs(range(start, min(start + _DIGESTED_TOGETHER, self.n_patches))).columns
            for name in ("data_idx", "sample_idx", "coords"):
                digest.update(columns[name].astype("<i8").tobytes())
        return digest.hexdigest()

    def _order(self, epoch: int) -> Order:
        blocks = self.blocks(epoch)
        n_blocks = int(blocks.max()) + 1
        places = np.empty(n_blocks)
        words = CounterRandom(self.seed, epoch, Stream.BLOCK_ORDER).words(np.arange(n_blocks))
        places[np.argsort(words, kind="stable")] = np.arange(n_blocks)
        delays = CounterRandom(self.seed, epoch, Stream.ORDER).words(np.arange(self.n_patches)) / 2.0**64
        moments = (places[blocks] + delays * min(self.window, n_blocks)) % n_blocks
        return np.argsort(moments, kind="stable").take

    def _places(self, start: int, stop: int) -> NDArray[np.int64]:
        return np.arange(start, stop) + self.rank * len(self)


def _numbered_through(numbers: NDArray[np.int64]) -> NDArray[np.int64]:
    """Give equal numbers equal ranks, from 0 on and without gaps."""
    largest = int(numbers.max())
    if largest > 4 * len(numbers):
        return np.unique(numbers, return_inverse=True)[1].reshape(-1)
    there = np.zeros(largest + 1, bool)
    there[numbers] = True
    return (np.cumsum(there) - 1)[numbers]


def _block_shapes(chunk_shapes: Sequence[Sequence[int]], block: int) -> NDArray[np.int64]:
    """Sample and spatial axes of a block, one row a stack."""
    shapes = [list(shape) for shape in listed_shapes("chunk_shapes", chunk_shapes)]
    for data_idx, shape in enumerate(shapes):
        if len(shape) not in (4, 5) or len(shape) != len(shapes[0]) or min(shape) < 1 or max(shape) * block > MAX_SIZE:
            raise GeometryError(
                f"the chunk shape of image stack {data_idx} is {tuple(shape)}: it must be sizes of at least 1, SCYX or SCZYX"
            )
    if not shapes:
        raise GeometryError("chunk_shapes is empty: give one for each image stack")
    return np.array([[shape[0], *(size * block for size in shape[2:])] for shape in shapes], dtype=np.int64)
