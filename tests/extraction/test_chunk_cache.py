"""The cache of chunks: the same patches as without it, each chunk decoded once, never more memory than allowed."""

from __future__ import annotations

import itertools
import os
import pickle
import signal
import threading
from collections import Counter
from collections.abc import Sequence
from math import prod

import numpy as np
import pytest
import tensorstore as ts
from hypothesis import given, settings
from hypothesis import strategies as st

from patchloom.errors import GeometryError, SourceError
from patchloom.extraction import ChunkCache, PatchExtractor
from patchloom.image_stacks import ArrayStack, Region, ZarrStack
from patchloom.patching import RandomPatching, TiledPatching, UncorrelatedPatching


class ChunkedStack(ArrayStack):
    """An array that is stored in chunks, and counts how often each of them was read, always whole."""

    def __init__(self, data: np.ndarray, chunk_shape: Sequence[int]) -> None:
        super().__init__(data, axes="SCYX" if data.ndim == 4 else "SCZYX")
        self.chunk_shape = self.shard_shape = tuple(chunk_shape)
        self.decoded: Counter[tuple[int, ...]] = Counter()
        self.n_calls = 0

    def read_regions(self, regions: Sequence[Region], out: Sequence[np.ndarray]) -> None:
        self.n_calls += 1
        chunks = set()
        for region, target in zip(regions, out, strict=True):
            windows = (slice(region.sample_idx, region.sample_idx + 1), region.channels, *region.window)
            for axis, (window, chunk) in enumerate(zip(windows, self.chunk_shape, strict=True)):
                end = min((window.start // chunk + 1) * chunk, self.data_shape[axis])
                assert axis == 0 or (window.start % chunk == 0 and window.stop == end), "chunks are read whole"
            chunks.add(tuple(window.start // chunk for window, chunk in zip(windows, self.chunk_shape, strict=True)))
            target[...] = self.read_region(region)
        self.decoded.update(chunks)

    @property
    def n_chunks(self) -> int:
        return prod(-(-size // chunk) for size, chunk in zip(self.data_shape, self.chunk_shape, strict=True))


def image(rng: np.random.Generator, shape: tuple[int, ...], dtype: str = "u2") -> np.ndarray:
    return rng.integers(0, 200, shape).astype(dtype)


@settings(deadline=None, max_examples=40)
@given(data=st.data(), n_dims=st.integers(2, 3), padding=st.sampled_from(["reflect", "wrap", "constant"]))
def test_same_patches(data: st.DataObject, n_dims: int, padding: str) -> None:
    """A cache of any size changes no patch, and never takes more memory than allowed."""
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    shapes = [(int(rng.integers(1, 4)), 2, *rng.integers(1, 12, n_dims).tolist()) for _ in range(2)]
    chunks = [rng.integers(1, np.minimum(shape, 6) + 1).tolist() for shape in shapes]
    images = [image(rng, shape, dtype) for shape, dtype in zip(shapes, ("u2", "f4"), strict=True)]
    stacks = [ChunkedStack(*stored) for stored in zip(images, chunks, strict=True)]
    size = tuple(rng.integers(1, np.min(shapes, axis=0)[2:] + 1).tolist())
    largest = max(prod(chunk) * stored.itemsize for chunk, stored in zip(chunks, images, strict=True))
    cache = ChunkCache(max_bytes=largest + data.draw(st.integers(63, 3000)))
    pooled = PatchExtractor(stacks, padding, cache=cache)
    plain = PatchExtractor(
        [ArrayStack(stored, stack.original_axes) for stored, stack in zip(images, stacks, strict=True)], padding
    )
    plan = UncorrelatedPatching(RandomPatching(shapes, size, seed=3, n_patches=40), n_channels=2, probability=0.5)
    for _ in range(4):
        table = plan.specs(rng.integers(0, len(plan), int(rng.integers(1, 30))))
        assert np.array_equal(pooled.extract_batch(table, scale=[2, 3]), plain.extract_batch(table, scale=[2, 3]))
        assert cache.n_bytes <= cache.max_bytes
    for spec in itertools.islice(TiledPatching(shapes, size, (0,) * n_dims), 20):  # which pass the image's end
        assert np.array_equal(pooled.extract(spec), plain.extract(spec))


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_tiled_pass(batch_size: int, rng: np.random.Generator) -> None:
    """Tiles in raster order decode each chunk once."""
    stack = ChunkedStack(image(rng, (2, 2, 30, 41, 26)), (1, 1, 8, 8, 8))
    tiling = TiledPatching([stack.data_shape], patch_size=(8, 8, 8), overlaps=(2, 2, 2))
    with ChunkCache(2**20) as cache:
        extractor = PatchExtractor([stack], cache=cache)
        for start in range(0, len(tiling), batch_size):
            extractor.extract_batch(tiling[start : start + batch_size])
        assert cache.n_decodes == stack.n_chunks
        assert set(stack.decoded.values()) == {1}
        assert len(stack.decoded) == stack.n_chunks


def test_one_read_per_batch(rng: np.random.Generator) -> None:
    """All missing chunks of a batch are requested in one call."""
    stack = ChunkedStack(image(rng, (1, 1, 64, 64)), (1, 1, 8, 8))
    cache = ChunkCache(2**20)
    extractor = PatchExtractor([stack], "wrap", cache=cache)
    extractor.extract_batch(RandomPatching([stack.data_shape], (16, 16), n_patches=100, seed=1)[:])
    assert stack.n_calls == 1
    extractor.extract_patch(0, 0, (-5, 60), (9, 9))
    assert len(stack.decoded) == cache.n_decodes == stack.n_chunks
    assert stack.n_calls == 1


def read_chunks(extractor: PatchExtractor, columns: Sequence[int]) -> None:
    for column in columns:
        extractor.extract_patch(0, 0, (0, column * 8), (8, 8))


def row_of_chunks(rng: np.random.Generator) -> ChunkedStack:
    """Chunks of 128 bytes, one a column."""
    return ChunkedStack(image(rng, (1, 1, 8, 80)), (1, 1, 8, 8))


def test_eviction(rng: np.random.Generator) -> None:
    """When memory is short, the chunk longest unused is evicted first."""
    stack = row_of_chunks(rng)
    cache = ChunkCache(3 * 128)
    read_chunks(PatchExtractor([stack], cache=cache), [0, 1, 2, 0, 3, 0, 2, 1])
    assert [stack.decoded[0, 0, 0, column] for column in range(4)] == [1, 2, 1, 1]
    assert cache.n_bytes == 3 * 128


def test_portions(rng: np.random.Generator) -> None:
    """A batch of more chunks than fit is read in portions, each chunk once."""
    data = image(rng, (1, 1, 64, 64))
    stack = ChunkedStack(data, (1, 1, 8, 8))
    cache = ChunkCache(5 * 128)
    batch = PatchExtractor([stack], cache=cache).extract_batch(
        [{"data_idx": 0, "sample_idx": 0, "coords": (0, 0), "patch_size": (64, 64)}]
    )
    assert np.array_equal(batch, data)
    assert set(stack.decoded.values()) == {1}
    assert cache.n_bytes <= cache.max_bytes


def test_large_chunks(rng: np.random.Generator) -> None:
    """Chunks larger than the cache are read without it."""
    data = image(rng, (1, 1, 64, 64))
    stack = ArrayStack(data, "SCYX")
    stack.chunk_shape = stack.shard_shape = (1, 1, 64, 64)  # type: ignore[attr-defined]
    cache = ChunkCache(1000)
    assert np.array_equal(
        PatchExtractor([stack], cache=cache).extract_patch(0, 0, (3, 4), (8, 8)), data[0, :, 3:11, 4:12]
    )
    assert cache.n_decodes == cache.n_bytes == 0


def test_slots_grow(rng: np.random.Generator) -> None:
    """A stack with larger chunks empties the cache and divides it into larger slots."""
    images = [image(rng, (1, 1, 32, 32), dtype) for dtype in ("u1", "f8")]
    stacks = [ChunkedStack(images[0], (1, 1, 8, 8)), ChunkedStack(images[1], (1, 1, 16, 16))]
    cache = ChunkCache(3 * 16 * 16 * 8)
    extractor = PatchExtractor(stacks, cache=cache)
    for data_idx in (0, 1, 0):
        assert np.array_equal(extractor.extract_patch(data_idx, 0, (0, 0), (32, 32)), images[data_idx][0])
        assert cache.n_bytes <= cache.max_bytes


def test_failed_read(rng: np.random.Generator) -> None:
    """A failed read keeps nothing, and later reads work."""

    class Failing(ChunkedStack):
        fails = True

        def read_regions(self, regions: Sequence[Region], out: Sequence[np.ndarray]) -> None:
            if self.fails:
                raise SourceError("cells.zarr cannot be read")
            super().read_regions(regions, out)

    data = image(rng, (1, 1, 32, 32))
    stack = Failing(data, (1, 1, 8, 8))
    cache = ChunkCache(2**16)
    extractor = PatchExtractor([stack], cache=cache)
    for _ in range(20):
        with pytest.raises(SourceError, match="cannot be read"):
            extractor.extract_patch(0, 0, (0, 0), (32, 32))
    assert cache.n_bytes == cache.n_decodes == 0
    stack.fails = False
    assert np.array_equal(extractor.extract_patch(0, 0, (0, 0), (32, 32)), data[0])


def test_threads(rng: np.random.Generator) -> None:
    """Threads share a cache, and all end when it is closed."""
    data = image(rng, (1, 1, 64, 64))
    stack = ChunkedStack(data, (1, 1, 8, 8))
    cache = ChunkCache(10 * 128)
    extractor = PatchExtractor([stack], cache=cache)
    plan = RandomPatching([stack.data_shape], (16, 16), n_patches=400, seed=1)
    wrong: list[object] = []
    n_batches = itertools.count()

    def read(first: int) -> None:
        try:
            for start in itertools.cycle(range(first, 400, 20)):
                table = plan[start : start + 20]
                expected = [data[0, :, y : y + 16, x : x + 16] for y, x in table.columns["coords"].tolist()]
                if not np.array_equal(extractor.extract_batch(table), expected):
                    wrong.append(start)
                next(n_batches)
        except SourceError as error:
            if "closed" not in str(error):
                wrong.append(error)

    threads = [threading.Thread(target=read, args=(first,)) for first in (0, 100)]
    for thread in threads:
        thread.start()
    while next(n_batches) < 40:
        threads[0].join(0.005)
    cache.close()
    for thread in threads:
        thread.join(20)
    assert not any(thread.is_alive() for thread in threads)
    assert not wrong
    assert cache.n_bytes == 0


def test_pickle(rng: np.random.Generator) -> None:
    """A pickled cache is empty."""
    stack = ChunkedStack(image(rng, (1, 1, 64, 64)), (1, 1, 8, 8))
    cache = ChunkCache(2**20)
    extractor = PatchExtractor([stack], "wrap", cache=cache)
    patch = extractor.extract_patch(0, 0, (-3, 50), (20, 20))
    pickled = pickle.dumps(extractor)
    assert len(pickled) < stack.array.nbytes + 4000
    copied = pickle.loads(pickled)
    assert copied.cache is not None
    assert (copied.cache.max_bytes, copied.cache.n_bytes, copied.padding) == (2**20, 0, "wrap")
    assert np.array_equal(copied.extract_patch(0, 0, (-3, 50), (20, 20)), patch)
    assert copied.cache.n_decodes == cache.n_decodes


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings(
    "ignore:This process:DeprecationWarning"
)  # newer Pythons say that a process with threads forks
def test_fork(rng: np.random.Generator) -> None:
    """A forked process starts with an empty cache, even if another thread was reading."""

    class Slow(ChunkedStack):
        is_reading, may_go_on = threading.Event(), threading.Event()

        def read_regions(self, regions: Sequence[Region], out: Sequence[np.ndarray]) -> None:
            super().read_regions(regions, out)
            self.is_reading.set()
            self.may_go_on.wait(20)

    data = image(rng, (1, 1, 32, 32))
    extractor = PatchExtractor([Slow(data, (1, 1, 8, 8))], cache=(cache := ChunkCache(2**20)))
    Slow.may_go_on.set()
    extractor.extract_patch(0, 0, (0, 0), (8, 8))
    Slow.is_reading.clear()
    Slow.may_go_on.clear()
    reader = threading.Thread(target=extractor.extract_patch, args=(0, 0, (0, 0), (32, 32)))
    reader.start()
    assert Slow.is_reading.wait(20)
    child = os.fork()
    if not child:  # nothing here may reach pytest
        try:
            signal.alarm(20)
            is_empty = cache.n_bytes == 0
            Slow.is_reading, Slow.may_go_on = (
                threading.Event(),
                threading.Event(),
            )  # the thread may have held the others
            Slow.may_go_on.set()
            patch = extractor.extract_patch(0, 0, (0, 0), (32, 32))
            os._exit(0 if is_empty and np.array_equal(patch, data[0]) else 1)
        finally:
            os._exit(2)
    Slow.may_go_on.set()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    reader.join(20)
    assert cache.n_bytes == data.nbytes


def test_zarr(rng: np.random.Generator, tmp_path: object) -> None:
    """Chunks of a Zarr array are decoded once."""
    data = image(rng, (3, 2, 30, 40), "f4")
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{tmp_path}/cells.zarr"}}
    layout = ts.ChunkLayout(chunk_shape=[1, 2, 16, 16])
    store = ts.open(spec, create=True, dtype=ts.float32, shape=data.shape, chunk_layout=layout).result()
    store[...] = data
    stack = ZarrStack(f"{tmp_path}/cells.zarr", axes="TCYX")
    cache = ChunkCache(2**20)
    extractor = PatchExtractor([stack], "reflect", cache=cache)
    plan = TiledPatching([stack.data_shape], (8, 8), (4, 4))
    batch = extractor.extract_batch(plan[:])
    assert np.array_equal(batch, PatchExtractor([ArrayStack(data, "TCYX")], "reflect").extract_batch(plan[:]))
    assert cache.n_decodes == 3 * 2 * 3


def test_no_bytes() -> None:
    """A cache of 0 bytes is refused."""
    with pytest.raises(GeometryError, match="max_bytes is 0: it must be at least 1"):
        ChunkCache(0)
