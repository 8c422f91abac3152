"""What every image sink must do, as a suite of tests to inherit."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchloom.axes import AxesMap
from patchloom.errors import SinkError
from patchloom.sinks import HasBuffer, ImageSink, ResumableSink

Region = tuple[slice, ...]


class ImageSinkConformance:
    """Tests for an image sink; inherit it in a class that pytest collects.

    Say how a sink is made, what its smallest block is and how its result is read back. Dtypes and axes to be tested are
    class attributes, to be narrowed where a format cannot hold them.

    Examples
    --------
    >>> from patchloom.sinks import MemorySink
    >>> class TestMemorySink(ImageSinkConformance):
    ...     def make_sink(self, folder, axes_map, dtype):
    ...         return MemorySink(axes_map, dtype)
    ...
    ...     def read_back(self, result, axes_map):
    ...         return axes_map.to_data(result)
    >>> TestMemorySink().test_a_hole_is_never_n_shared_axes(Path("unused"))
    """

    dtypes: Sequence[str] = ("bool", "uint8", "uint16", "uint32", "uint64", "int8", "int64", "float32", "float64")
    axes_maps: Sequence[AxesMap] = (
        AxesMap("YX", (37, 50)),
        AxesMap("ZYX", (9, 20, 33)),
        AxesMap("CYX", (3, 17, 40)),
        AxesMap("TYXC", (4, 20, 18, 2)),
        AxesMap("STCZYX", (2, 3, 2, 5, 19, 21)),
    )

    def make_sink(self, folder: Path, axes_map: AxesMap, dtype: str) -> ImageSink:
        """Return a new sink that writes into a folder, if it writes to any place at all."""
        raise NotImplementedError

    def read_back(self, result: Any, axes_map: AxesMap) -> NDArray[Any]:
        """Read what `finalize` returned, as `SC(Z)YX`."""
        raise NotImplementedError

    def block_shape(self, sink: ImageSink) -> tuple[int, ...]:
        """Shape of the blocks that the sink is written in, `SC(Z)YX`; by default about a third of each axis."""
        return tuple(max(1, -(-size // 3)) for size in sink.data_shape)

    def seen(self, folder: Path) -> list[Path]:
        """Return what a user would take for an output; by default all but what is named as partial or lock."""
        return (
            [path for path in folder.iterdir() if path.suffix not in (".partial", ".lock")] if folder.exists() else []
        )

    def test_the_sink_is_one(self, tmp_path: Path) -> None:
        """A sink has the members of the protocol, and tells its shape and dtype."""
        for axes_map in self.axes_maps:
            sink = self.make_sink(_new_folder(tmp_path), axes_map, self.dtypes[0])
            members = ("data_shape", "data_dtype", "write", "finalize", "abort")
            np.testing.assert_equal([name for name in members if not hasattr(sink, name)], [])
            np.testing.assert_equal(sink.data_shape, axes_map.data_shape)
            np.testing.assert_equal(np.dtype(sink.data_dtype), np.dtype(self.dtypes[0]))
            sink.abort()

    def test_random_blocks_in_any_order_come_back(self, tmp_path: Path) -> None:
        """Bit for bit, for every dtype and all axes."""
        rng = np.random.default_rng(7)
        for dtype, axes_map in itertools.product(self.dtypes, self.axes_maps):
            image = _random_image(rng, axes_map.data_shape, dtype)
            sink = self.make_sink(_new_folder(tmp_path), axes_map, dtype)
            regions = _blocks(sink.data_shape, self.block_shape(sink))
            for index in rng.permutation(len(regions)):
                sink.write(regions[index], image[regions[index]])
            back = self.read_back(sink.finalize(), axes_map)
            np.testing.assert_equal(back.dtype, image.dtype)
            np.testing.assert_equal(back.tobytes(), image.tobytes(), f"{dtype} {axes_map}")

    def test_blocks_of_any_memory_order_come_back(self, tmp_path: Path) -> None:
        """A block may be a view: strided, and not contiguous."""
        rng = np.random.default_rng(8)
        axes_map = self.axes_maps[-1]
        image = np.asfortranarray(_random_image(rng, axes_map.data_shape, self.dtypes[-1]))
        sink = self.make_sink(_new_folder(tmp_path), axes_map, self.dtypes[-1])
        for region in _blocks(sink.data_shape, self.block_shape(sink)):
            sink.write(region, image[region])
        np.testing.assert_array_equal(self.read_back(sink.finalize(), axes_map), image)

    def test_a_block_is_not_kept(self, tmp_path: Path) -> None:
        """The caller may change it at once."""
        sink, image, regions = self._begun(tmp_path)
        for region in regions:
            block = image[region].copy()
            sink.write(region, block)
            block[...] = 0
        np.testing.assert_array_equal(self.read_back(sink.finalize(), self.axes_maps[0]), image)

    def test_nothing_is_seen_before_the_end(self, tmp_path: Path) -> None:
        """Half an image never looks like an image."""
        folder = _new_folder(tmp_path)
        sink, image, regions = self._begun(folder)
        np.testing.assert_equal(self.seen(folder), [])
        for region in regions:
            sink.write(region, image[region])
            np.testing.assert_equal(self.seen(folder), [])
        sink.abort()

    def test_abort_leaves_nothing(self, tmp_path: Path) -> None:
        """Neither after the first block nor before; and it may be called twice."""
        for n_written in (0, 1):
            folder = _new_folder(tmp_path)
            sink, image, regions = self._begun(folder)
            for region in regions[:n_written]:
                sink.write(region, image[region])
            sink.abort()
            sink.abort()
            np.testing.assert_equal(list(folder.iterdir()) if folder.exists() else [], [])
            with np.testing.assert_raises(SinkError):
                sink.write(regions[-1], image[regions[-1]])

    def test_abort_after_the_end_does_nothing(self, tmp_path: Path) -> None:
        """A finished image is not taken away, nor is it written to."""
        sink, image, regions = self._begun(_new_folder(tmp_path))
        for region in regions:
            sink.write(region, image[region])
        result = sink.finalize()
        sink.abort()
        with np.testing.assert_raises(SinkError):
            sink.write(regions[0], image[regions[0]])
        np.testing.assert_array_equal(self.read_back(result, self.axes_maps[0]), image)

    def test_a_hole_is_never_n_shared_axes(self, tmp_path: Path) -> None:
        """Finalizing an image that lacks a block is an error."""
        folder = _new_folder(tmp_path)
        sink, image, regions = self._begun(folder)
        for region in regions[1:]:
            sink.write(region, image[region])
        with np.testing.assert_raises(SinkError):
            sink.finalize()
        np.testing.assert_equal(self.seen(folder), [])
        sink.write(regions[0], image[regions[0]])
        np.testing.assert_array_equal(self.read_back(sink.finalize(), self.axes_maps[0]), image)

    def test_no_region_is_written_twice(self, tmp_path: Path) -> None:
        """Neither a block again nor one that holds it, and what was there stays."""
        sink, image, regions = self._begun(_new_folder(tmp_path))
        whole = tuple(slice(0, size) for size in sink.data_shape)
        sink.write(regions[0], image[regions[0]])
        for region in (regions[0], whole):
            with np.testing.assert_raises(SinkError):
                sink.write(region, np.zeros_like(image[region]))
        for region in regions[1:]:
            sink.write(region, image[region])
        np.testing.assert_array_equal(self.read_back(sink.finalize(), self.axes_maps[0]), image)

    def test_a_block_that_does_not_fit_is_refused(self, tmp_path: Path) -> None:
        """Wrong shape, dtype or region: nothing of it is written, and the right block may follow."""
        sink, image, regions = self._begun(_new_folder(tmp_path))
        block, (*leading, last) = image[regions[0]], regions[0]
        beyond = slice(last.start, sink.data_shape[-1] + 1)
        wrong: list[tuple[Region, NDArray[Any]]] = [
            (regions[0], block[..., :-1]),
            (regions[0], block[0]),
            *(
                (regions[0], np.zeros(block.shape, dtype))
                for dtype in ("complex128", "bool", "S1")
                if dtype != block.dtype
            ),
            (regions[0][1:], block[0]),
            ((*leading, beyond), np.zeros((*block.shape[:-1], beyond.stop - beyond.start), block.dtype)),
            ((*leading, slice(None, last.stop)), block),
            ((*leading, slice(last.stop, last.start)), block),
            ((*leading, slice(-last.stop, last.start)), block),
        ]
        for region, array in wrong:
            with np.testing.assert_raises(SinkError):
                sink.write(region, array)
        for region in regions:
            sink.write(region, image[region])
        np.testing.assert_array_equal(self.read_back(sink.finalize(), self.axes_maps[0]), image)

    def test_a_block_may_be_computed_in_the_sinks_own_memory(self, tmp_path: Path) -> None:
        """It counts as written when it is given back; if the sink offers its memory."""
        sink, image, regions = self._begun(_new_folder(tmp_path))
        if not isinstance(sink, HasBuffer):
            sink.abort()
            return
        for region in regions[1:]:
            buffer = sink.buffer(region)
            buffer[...] = image[region]
            sink.write(region, buffer)
            with np.testing.assert_raises(SinkError):
                sink.buffer(region)
        sink.buffer(regions[0])[...] = 0
        with np.testing.assert_raises(SinkError):
            sink.finalize()
        sink.write(regions[0], image[regions[0]])
        np.testing.assert_array_equal(self.read_back(sink.finalize(), self.axes_maps[0]), image)

    def _begun(self, folder: Path) -> tuple[ImageSink, NDArray[Any], list[Region]]:
        """Return a new sink, the image meant for it, and the blocks to write that in."""
        axes_map, dtype = self.axes_maps[0], self.dtypes[-1]
        sink = self.make_sink(folder, axes_map, dtype)
        image = _random_image(np.random.default_rng(9), axes_map.data_shape, dtype)
        regions = _blocks(sink.data_shape, self.block_shape(sink))
        np.testing.assert_array_less(1, len(regions), "the suite needs several blocks in its first image")
        return sink, image, regions


class ResumableSinkConformance(ImageSinkConformance):
    """Tests for an image sink that can be gone on with after a kill, beside those for every sink."""

    def resume_sink(self, folder: Path, axes_map: AxesMap, dtype: str) -> ResumableSink:
        """Return a sink like the one of `make_sink` that goes on with what that left in the folder."""
        raise NotImplementedError

    def test_an_unfinished_image_is_gone_on_with(self, tmp_path: Path) -> None:
        """Some blocks of an earlier sink and some of a later one make one image, for all axes."""
        rng = np.random.default_rng(10)
        for dtype, axes_map in zip(itertools.cycle(self.dtypes), self.axes_maps, strict=False):
            image = _random_image(rng, axes_map.data_shape, dtype)
            folder = _new_folder(tmp_path)
            first = _resumable(self.make_sink(folder, axes_map, dtype))
            regions = _blocks(first.data_shape, self.block_shape(first))
            half = len(regions) // 2
            records = []
            for region in regions[:half]:
                first.write(region, image[region])
                records.append(json.dumps(first.block_record(region)))
            first.close()
            second = self.resume_sink(folder, axes_map, dtype)
            np.testing.assert_equal([second.restore(json.loads(record)) for record in records], regions[:half])
            for region in regions[half:]:
                second.write(region, image[region])
            back = self.read_back(second.finalize(), axes_map)
            np.testing.assert_equal(back.tobytes(), image.tobytes(), f"{dtype} {axes_map}")

    def test_a_block_without_a_record_is_written_again(self, tmp_path: Path) -> None:
        """With other values too: what counts is what was written last."""
        folder = _new_folder(tmp_path)
        first, image, regions = self._begun(folder)
        for region in regions:
            first.write(region, np.zeros_like(image[region]))
        _resumable(first).close()
        second = self.resume_sink(folder, self.axes_maps[0], self.dtypes[-1])
        with np.testing.assert_raises(SinkError):
            second.finalize()
        with np.testing.assert_raises(SinkError):
            second.block_record(regions[0])
        for region in regions:
            second.write(region, image[region])
        np.testing.assert_array_equal(self.read_back(second.finalize(), self.axes_maps[0]), image)

    def test_a_block_restored_is_a_block_written(self, tmp_path: Path) -> None:
        """It is neither restored nor written a second time, and has the same record as before."""
        folder = _new_folder(tmp_path)
        sink, image, regions = self._begun(folder)
        first = _resumable(sink)
        first.write(regions[0], image[regions[0]])
        record = first.block_record(regions[0])
        with np.testing.assert_raises(SinkError):
            first.restore(record)
        first.close()
        second = self.resume_sink(folder, self.axes_maps[0], self.dtypes[-1])
        np.testing.assert_equal(second.has_block(record), desired=True)
        second.restore(record)
        np.testing.assert_equal(second.block_record(regions[0]), record)
        np.testing.assert_equal(second.has_block(record), desired=False)
        for again in (lambda: second.restore(record), lambda: second.write(regions[0], image[regions[0]])):
            with np.testing.assert_raises(SinkError):
                again()
        second.abort()
        np.testing.assert_equal(list(folder.iterdir()), [])

    def test_what_is_no_record_is_refused(self, tmp_path: Path) -> None:
        """And the sink can be used as if nothing had happened."""
        sink, image, regions = self._begun(_new_folder(tmp_path))
        resumable = _resumable(sink)
        resumable.write(regions[0], image[regions[0]])
        record = resumable.block_record(regions[0])
        for wrong in ({}, record | {"region": [[0, 1]]}, record | {"region": [[0, 10**6]] * image.ndim}):
            np.testing.assert_equal(resumable.has_block(wrong), desired=False)
            with np.testing.assert_raises(SinkError):
                resumable.restore(wrong)
        for region in regions[1:]:
            resumable.write(region, image[region])
        np.testing.assert_array_equal(self.read_back(resumable.finalize(), self.axes_maps[0]), image)

    def test_a_sink_that_is_closed_is_left_alone(self, tmp_path: Path) -> None:
        """It takes no more blocks, and what it wrote stays even when it is aborted."""
        folder = _new_folder(tmp_path)
        sink, image, regions = self._begun(folder)
        _resumable(sink).close()
        _resumable(sink).close()
        sink.abort()
        with np.testing.assert_raises(SinkError):
            sink.write(regions[0], image[regions[0]])
        self.resume_sink(folder, self.axes_maps[0], self.dtypes[-1]).abort()

    def test_nothing_is_resumed_where_nothing_is(self, tmp_path: Path) -> None:
        """Neither in an empty place nor where the image is complete."""
        folder = _new_folder(tmp_path)
        with np.testing.assert_raises(SinkError):
            self.resume_sink(folder, self.axes_maps[0], self.dtypes[-1])
        np.testing.assert_equal(list(folder.iterdir()), [])
        sink, image, regions = self._begun(folder)
        for region in regions:
            sink.write(region, image[region])
        result = sink.finalize()
        with np.testing.assert_raises(SinkError):
            self.resume_sink(folder, self.axes_maps[0], self.dtypes[-1])
        np.testing.assert_array_equal(self.read_back(result, self.axes_maps[0]), image)


def _resumable(sink: ImageSink) -> ResumableSink:
    if not isinstance(sink, ResumableSink):
        raise TypeError(f"{sink!r} lacks members of ResumableSink")
    return sink


def _new_folder(parent: Path) -> Path:
    """Return a folder of its own for one sink; not made where the suite runs without a place to write."""
    folder = parent / f"sink_{len(list(parent.iterdir())) if parent.exists() else 0}"
    if parent.exists():
        folder.mkdir()
    return folder


def _blocks(shape: Sequence[int], block_shape: Sequence[int]) -> list[Region]:
    return list(
        itertools.product(
            *(
                [slice(start, min(start + step, size)) for start in range(0, size, step)]
                for size, step in zip(shape, block_shape, strict=True)
            )
        )
    )


def _random_image(rng: np.random.Generator, shape: Sequence[int], dtype: str) -> NDArray[Any]:
    """Return random bits, so that negative, huge and not-a-number values are among them."""
    wanted = np.dtype(dtype)
    if wanted.kind == "b":
        return rng.random(shape) < 0.5
    return np.frombuffer(rng.bytes(int(np.prod(shape)) * wanted.itemsize), wanted).reshape(shape)
