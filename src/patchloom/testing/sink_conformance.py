"""A test suite for image sinks, to inherit."""

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

Slices = tuple[slice, ...]


class ImageSinkConformance:
    """Tests for an image sink. Inherit it in a class that pytest collects.

    Define how a sink is made, the shape of its blocks and how its result is read back. The tested dtypes and axes are class
    attributes; override them if a format does not support all of them.

    Examples
    --------
    >>> from patchloom.sinks import MemorySink
    >>> class TestMemorySink(ImageSinkConformance):
    ...     def make_sink(self, folder, axes_map, dtype):
    ...         return MemorySink(axes_map, dtype)
    ...
    ...     def read_back(self, result, axes_map):
    ...         return axes_map.to_data(result)
    >>> TestMemorySink().test_missing_block_is_refused(Path("unused"))
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
        """Return a new sink, which writes into the folder if it writes files."""
        raise NotImplementedError

    def read_back(self, result: Any, axes_map: AxesMap) -> NDArray[Any]:
        """Read the result of `finalize` as `SC(Z)YX`."""
        raise NotImplementedError

    def block_shape(self, sink: ImageSink) -> tuple[int, ...]:
        """Return the shape of the blocks to write, `SC(Z)YX`; by default about a third of each axis."""
        return tuple(max(1, -(-size // 3)) for size in sink.data_shape)

    def seen(self, folder: Path) -> list[Path]:
        """Return the files that look like an output; by default all but partial outputs and locks."""
        return (
            [path for path in folder.iterdir() if path.suffix not in (".partial", ".lock")] if folder.exists() else []
        )

    def test_protocol(self, tmp_path: Path) -> None:
        """The sink has the members of the protocol, and the shape and dtype that it was made with."""
        for axes_map in self.axes_maps:
            sink = self.make_sink(_new_folder(tmp_path), axes_map, self.dtypes[0])
            members = ("data_shape", "data_dtype", "write", "finalize", "abort")
            np.testing.assert_equal([name for name in members if not hasattr(sink, name)], [])
            np.testing.assert_equal(sink.data_shape, axes_map.data_shape)
            np.testing.assert_equal(np.dtype(sink.data_dtype), np.dtype(self.dtypes[0]))
            sink.abort()

    def test_random_blocks(self, tmp_path: Path) -> None:
        """Blocks in random order are read back bit for bit, for every dtype and all axes."""
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

    def test_memory_order(self, tmp_path: Path) -> None:
        """Blocks of any memory order are read back: a block may be a view that is not contiguous."""
        rng = np.random.default_rng(8)
        axes_map = self.axes_maps[-1]
        image = np.asfortranarray(_random_image(rng, axes_map.data_shape, self.dtypes[-1]))
        sink = self.make_sink(_new_folder(tmp_path), axes_map, self.dtypes[-1])
        for region in _blocks(sink.data_shape, self.block_shape(sink)):
            sink.write(region, image[region])
        np.testing.assert_array_equal(self.read_back(sink.finalize(), axes_map), image)

    def test_blocks_are_copied(self, tmp_path: Path) -> None:
        """The caller may change a block as soon as it is written."""
        sink, image, regions = self._begun(tmp_path)
        for region in regions:
            block = image[region].copy()
            sink.write(region, block)
            block[...] = 0
        np.testing.assert_array_equal(self.read_back(sink.finalize(), self.axes_maps[0]), image)

    def test_unfinished_output_is_hidden(self, tmp_path: Path) -> None:
        """An unfinished output never looks like a finished one."""
        folder = _new_folder(tmp_path)
        sink, image, regions = self._begun(folder)
        np.testing.assert_equal(self.seen(folder), [])
        for region in regions:
            sink.write(region, image[region])
            np.testing.assert_equal(self.seen(folder), [])
        sink.abort()

    def test_abort(self, tmp_path: Path) -> None:
        """Aborting, before or after the first block and also twice, leaves no files."""
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

    def test_abort_after_finalize(self, tmp_path: Path) -> None:
        """Aborting does not remove a finished image, and no more blocks are accepted."""
        sink, image, regions = self._begun(_new_folder(tmp_path))
        for region in regions:
            sink.write(region, image[region])
        result = sink.finalize()
        sink.abort()
        with np.testing.assert_raises(SinkError):
            sink.write(regions[0], image[regions[0]])
        np.testing.assert_array_equal(self.read_back(result, self.axes_maps[0]), image)

    def test_missing_block_is_refused(self, tmp_path: Path) -> None:
        """Finalizing an image that lacks a block is an error, and the block can be written afterwards."""
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
        """A block that overlaps a written one is refused, and the written one is unchanged."""
        sink, image, regions = self._begun(_new_folder(tmp_path))
        whole = tuple(slice(0, size) for size in sink.data_shape)
        sink.write(regions[0], image[regions[0]])
        for region in (regions[0], whole):
            with np.testing.assert_raises(SinkError):
                sink.write(region, np.zeros_like(image[region]))
        for region in regions[1:]:
            sink.write(region, image[region])
        np.testing.assert_array_equal(self.read_back(sink.finalize(), self.axes_maps[0]), image)

    def test_wrong_blocks_are_refused(self, tmp_path: Path) -> None:
        """A block of a wrong shape, dtype or region is refused, and the right block can be written afterwards."""
        sink, image, regions = self._begun(_new_folder(tmp_path))
        block, (*leading, last) = image[regions[0]], regions[0]
        beyond = slice(last.start, sink.data_shape[-1] + 1)
        wrong: list[tuple[Slices, NDArray[Any]]] = [
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

    def test_buffer(self, tmp_path: Path) -> None:
        """If the sink provides buffers, a block in a buffer counts as written only after `write`."""
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

    def _begun(self, folder: Path) -> tuple[ImageSink, NDArray[Any], list[Slices]]:
        """Return a new sink, an image for it, and the regions of its blocks."""
        axes_map, dtype = self.axes_maps[0], self.dtypes[-1]
        sink = self.make_sink(folder, axes_map, dtype)
        image = _random_image(np.random.default_rng(9), axes_map.data_shape, dtype)
        regions = _blocks(sink.data_shape, self.block_shape(sink))
        np.testing.assert_array_less(1, len(regions), "the first image must have several blocks")
        return sink, image, regions


class ResumableSinkConformance(ImageSinkConformance):
    """Tests for an image sink that can be resumed after a kill, in addition to those for every sink."""

    def resume_sink(self, folder: Path, axes_map: AxesMap, dtype: str) -> ResumableSink:
        """Return a sink that resumes the unfinished output of a sink of `make_sink` in the same folder."""
        raise NotImplementedError

    def test_resume(self, tmp_path: Path) -> None:
        """Blocks of a first sink and blocks of a resumed one form one image, for all axes."""
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

    def test_block_without_record(self, tmp_path: Path) -> None:
        """A block without a record can be written again, also with other values."""
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

    def test_restored_block(self, tmp_path: Path) -> None:
        """A restored block cannot be restored or written again, and has the same record as before."""
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

    def test_wrong_records_are_refused(self, tmp_path: Path) -> None:
        """A wrong record is refused, and the sink can still be used."""
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

    def test_closed_sink(self, tmp_path: Path) -> None:
        """A closed sink accepts no blocks, and its output is kept even if it is aborted."""
        folder = _new_folder(tmp_path)
        sink, image, regions = self._begun(folder)
        _resumable(sink).close()
        _resumable(sink).close()
        sink.abort()
        with np.testing.assert_raises(SinkError):
            sink.write(regions[0], image[regions[0]])
        self.resume_sink(folder, self.axes_maps[0], self.dtypes[-1]).abort()

    def test_nothing_to_resume(self, tmp_path: Path) -> None:
        """Resuming is refused if there is no unfinished output, or the image is complete."""
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
    """Return a new folder for one sink; it is not created if `parent` does not exist."""
    folder = parent / f"sink_{len(list(parent.iterdir())) if parent.exists() else 0}"
    if parent.exists():
        folder.mkdir()
    return folder


def _blocks(shape: Sequence[int], block_shape: Sequence[int]) -> list[Slices]:
    return list(
        itertools.product(
            *(
                [slice(start, min(start + step, size)) for start in range(0, size, step)]
                for size, step in zip(shape, block_shape, strict=True)
            )
        )
    )


def _random_image(rng: np.random.Generator, shape: Sequence[int], dtype: str) -> NDArray[Any]:
    """Return random bits, which include negative, very large and not-a-number values."""
    wanted = np.dtype(dtype)
    if wanted.kind == "b":
        return rng.random(shape) < 0.5
    return np.frombuffer(rng.bytes(int(np.prod(shape)) * wanted.itemsize), wanted).reshape(shape)
