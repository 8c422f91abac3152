"""A random order in which patches that are close in storage are close in time, so that decoded chunks are reused.

Each patch comes once in an epoch, as in any order; the difference is which patches meet in a batch. The storage is divided into
blocks of a few chunks, in random order on a circle. Each block is open for `window` steps, and a patch comes at a random moment
while its block is open. So `window` blocks are open at any time, and patches come from all of them.
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
    """An `EpochSampler` whose random order reuses decoded chunks.

    Parameters
    ----------
    patching : Patching
        The plan of the dataset.
    chunk_shapes : sequence of sequence of int
        Shape of a chunk of each image stack, `SC(Z)YX`, in voxels; see `HasStorageGrid.chunk_shape`.
    window : int, default 8
        Number of blocks that are open at a time. More blocks make the order more uniform, and decoded chunks take more memory.
        With the number of all blocks, or more, all orders are equally likely, as in an `EpochSampler`.
    block : int, default 2
        Size of a block along each spatial axis, in chunks. Patches reach into the chunks beyond their block, so with small blocks
        more chunks are decoded again when neighboring blocks are open.
    seed, rank, world_size, drop_last
        As for `EpochSampler`, except that each rank has a contiguous part of the order, so that few chunks are decoded on several
        ranks.

    Raises
    ------
    GeometryError
        If the chunk shapes do not fit the plan, or `window` or `block` is less than 1.
    ArgumentTypeError
        If `patching` is not a Patching.

    Notes
    -----
    *Difference from a uniform order.* Coverage is the same: in every epoch each patch comes once, and all moments are equally
    likely. Patches within a batch are less independent: two successive patches are of one block with a probability of
    `1 / window` (`1 / number of blocks` in a uniform order), and patches more than `window` blocks apart in time are never of one
    block, except at the beginning and end of the epoch, which share blocks.

    *Memory and decoding.* `window * (block + 1) ** dims` chunks are in use at a time, and a cache must hold them. Each chunk is
    then decoded `((block + 1) / block) ** dims` times in an epoch, for any number of patches.

    The order is computed at the beginning of an epoch, in `O(n log n)` time and with 40 bytes for each patch. For an uncorrelated
    plan, the principal channels are close in storage.

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
        world_size: int | None = None,
        drop_last: bool = False,
    ) -> None:
        instance("patching", patching, Patching, "such as a RandomPatching")
        super().__init__(len(patching), seed=seed, rank=rank, world_size=world_size, drop_last=drop_last)
        self.patching = patching
        self.window, self.block = (
            whole_number(name, value, least=1, most=MAX_SIZE) for name, value in (("window", window), ("block", block))
        )
        self._block_shapes = _block_shapes(chunk_shapes, self.block)

    def blocks(self, epoch: int) -> NDArray[np.int64]:
        """Return the block of the first voxel of each patch of an epoch; blocks are numbered from 0."""
        specs = self.patching.at_epoch(epoch).specs(range(self.n_patches)).columns
        data_idx, coords = specs["data_idx"], specs["coords"]
        if data_idx.max() >= len(self._block_shapes) or coords.shape[1] + 1 != self._block_shapes.shape[1]:
            raise GeometryError(
                f"chunk_shapes is for {len(self._block_shapes)} image stacks of {self._block_shapes.shape[1] - 1} dimensions, but "
                f"the patches lie in {data_idx.max() + 1} of {coords.shape[1]} dimensions: give one shape for each image stack"
            )
        shapes = self._block_shapes[data_idx]
        numbers = np.zeros(self.n_patches, np.int64)
        for axis in (data_idx, specs["sample_idx"] // shapes[:, 0], *(coords // shapes[:, 1:]).T):
            # Renumbered axis by axis, so that numbers stay below that of the patches, for images of any size.
            low, span = int(axis.min()), int(axis.max() - axis.min()) + 1
            numbers = _renumbered(numbers * span + (axis - low))
        return numbers

    def _identity(self) -> dict[str, Any]:
        own = {"window": self.window, "block_shapes": self._block_shapes.tolist(), "plan": self._plan_digest}
        return super()._identity() | own

    @cached_property
    def _plan_digest(self) -> str:
        """Digest of the places of the patches in the first epoch, which the order depends on."""
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


def _renumbered(numbers: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the rank of each number among the distinct numbers, from 0."""
    largest = int(numbers.max())
    if largest > 4 * len(numbers):
        return np.unique(numbers, return_inverse=True)[1].reshape(-1)
    there = np.zeros(largest + 1, bool)
    there[numbers] = True
    return (np.cumsum(there) - 1)[numbers]


def _block_shapes(chunk_shapes: Sequence[Sequence[int]], block: int) -> NDArray[np.int64]:
    """Return the sizes of blocks along the sample and spatial axes, one row for each stack."""
    shapes = [list(shape) for shape in listed_shapes("chunk_shapes", chunk_shapes)]
    for data_idx, shape in enumerate(shapes):
        if len(shape) not in (4, 5) or len(shape) != len(shapes[0]) or min(shape) < 1 or max(shape) * block > MAX_SIZE:
            raise GeometryError(
                f"chunk_shapes[{data_idx}] is {tuple(shape)}: it must be sizes of at least 1, along SCYX or SCZYX"
            )
    if not shapes:
        raise GeometryError("chunk_shapes is empty: give one for each image stack")
    return np.array([[shape[0], *(size * block for size in shape[2:])] for shape in shapes], dtype=np.int64)
