"""Sources that are stored in chunks: each is decoded once, each block is written once, and how they are cut changes nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import tensorstore as ts
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from patchloom.image_stacks import Region, TiffStack, ZarrStack
from patchloom.prediction import plan, predict
from patchloom.prediction.planning import fit, memory
from patchloom.sinks import OmeZarr


def identity(batch: np.ndarray) -> np.ndarray:
    return batch


def write_zarr(path: Path, image: NDArray[Any], chunk: Sequence[int]) -> Path:
    spec = {
        "driver": "zarr3",
        "kvstore": {"driver": "file", "path": str(path)},
        "metadata": {"dimension_names": list("tczyx"[-image.ndim :])},
    }
    layout = ts.ChunkLayout(chunk_shape=list(chunk))
    store = ts.open(spec, create=True, dtype=ts.dtype(image.dtype), shape=image.shape, chunk_layout=layout).result()
    store.write(image).result()
    return path


def touched_chunks(stack: Any, regions: Sequence[Region]) -> Counter[tuple[int, ...]]:
    """How often each chunk has to be decoded if regions are read one by one."""
    touched: Counter[tuple[int, ...]] = Counter()
    for sample_idx, channels, window in regions:
        box = (slice(sample_idx, sample_idx + 1), channels, *window)
        places = [
            range(part.start // side, -(-part.stop // side)) for part, side in zip(box, stack.chunk_shape, strict=True)
        ]
        touched.update(tuple(map(int, place)) for place in np.stack(np.meshgrid(*places), -1).reshape(-1, len(places)))
    return touched


class CountingZarr(ZarrStack):
    """Counts what it has to decode."""

    decoded: Counter[tuple[int, ...]]

    def read_regions(self, regions: Sequence[Region], out: Sequence[NDArray[Any]]) -> None:
        self.decoded = getattr(self, "decoded", Counter()) + touched_chunks(self, regions)
        super().read_regions(regions, out)


class CountingTiff(TiffStack):
    """Counts what it has to decode."""

    decoded: Counter[tuple[int, ...]]

    def read_regions(self, regions: Sequence[Region], out: Sequence[NDArray[Any]]) -> None:
        self.decoded = getattr(self, "decoded", Counter()) + touched_chunks(self, regions)
        super().read_regions(regions, out)


def files_written() -> int:
    """How many files TensorStore has written in this process."""
    counts = ts.experimental_collect_matching_metrics("/tensorstore/kvstore/file/write")
    return sum(value["value"] for count in counts for value in count["values"] if count["name"].endswith("/write"))


@pytest.mark.parametrize("blend", [None, "hann"])
def test_once(blend: Any, rng: np.random.Generator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each chunk is decoded once, and each shard written once."""
    monkeypatch.setattr(fit, "BLOCK_SIZES", [48**3])
    image = rng.integers(0, 9, (96, 96, 96), np.uint16)
    stack = CountingZarr(write_zarr(tmp_path / "in.zarr", image, (16, 16, 16)))
    options: dict[str, Any] = {"patch_size": (16,) * 3, "overlaps": (4,) * 3, "blend": blend}
    assert plan(stack, **options).n_blocks >= 8
    before = files_written()
    output = predict(identity, stack, OmeZarr(tmp_path / "out.ome.zarr", pyramid=None), progress=False, **options)
    written = files_written() - before
    assert sum(stack.decoded.values()) <= 1.1 * 6**3
    shards = [path for path in (output / "0" / "c").rglob("*") if path.is_file()]
    assert len(shards) >= 8
    assert written == len(shards) + 1, "and the metadata of the array"
    assert np.array_equal(ZarrStack(output).extract_patch(0, None, (0, 0, 0), (96, 96, 96))[0], image)


@pytest.mark.parametrize("compression", ["zlib", "lzw"])
def test_compressed_tiff(compression: str, rng: np.random.Generator, tmp_path: Path) -> None:
    """A compressed TIFF is decoded once."""
    image = rng.integers(0, 9, (256, 300), np.uint16)
    tifffile.imwrite(tmp_path / "in.tif", image, compression=compression, tile=(64, 64))
    stack = CountingTiff(tmp_path / "in.tif", "YX")
    result = predict(identity, stack, patch_size=(48, 48), overlaps=(24, 24), progress=False)
    assert np.array_equal(result, image)
    assert sum(stack.decoded.values()) <= 1.1 * 4 * 5


@settings(deadline=None, max_examples=15)
@given(data=st.data(), n_dims=st.integers(2, 3), seed=st.integers(0, 2**32))
def test_chunks_and_cache(data: st.DataObject, n_dims: int, seed: int) -> None:
    """Chunks of a source and the size of the cache do not change the result."""
    shape = data.draw(st.tuples(st.integers(1, 2), *[st.integers(3, 20)] * n_dims))
    chunk = [data.draw(st.integers(1, size)) for size in shape]
    image = np.random.default_rng(seed).integers(0, 2**16, shape, np.uint16)
    patch_size = [data.draw(st.integers(2, 9)) for _ in range(n_dims)]
    options: dict[str, Any] = {
        "patch_size": patch_size,
        "overlaps": [data.draw(st.integers(0, size - 1)) for size in patch_size],
        "batch_size": data.draw(st.integers(1, 7)),
        "blend": data.draw(st.sampled_from([None, "hann"])),
        "padding": data.draw(st.sampled_from(["reflect", "wrap", "constant"])),
        "normalize": data.draw(st.sampled_from([None, "mean_std"])),
        "axes": "CYX" if n_dims == 2 else "CZYX",
        "progress": False,
    }
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory, "CACHE_BYTES", data.draw(st.integers(1, 5000)))
        patch.setattr(fit, "BLOCK_SIZES", [data.draw(st.integers(50, 5000))])
        stored = predict(identity, write_zarr(Path(folder, "in.zarr"), image, chunk), **options)
        plain = predict(identity, image, **options)
    assert stored.tobytes() == plain.tobytes()
