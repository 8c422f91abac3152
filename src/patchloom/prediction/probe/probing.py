"""`pl.probe`: measure what a model accepts, how far it looks, and where its predictions differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from math import lcm, prod
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from patchloom.argument_checks import real_number, shown, whole_number
from patchloom.errors import ArgumentError, ArgumentTypeError, ModelError
from patchloom.image_stacks import Source, as_planes, open_stacks
from patchloom.prediction.models.model import Model, ModelDescription, describe, size_rule
from patchloom.prediction.models.prepare import prepare_model
from patchloom.prediction.probe.behavior import (
    MOST_SHIFT,
    batch_difference,
    border_width,
    difference,
    find_stride,
    size_differences,
    tile_sizes,
)
from patchloom.prediction.probe.model_probe import ModelProbe, ProbedOutput
from patchloom.prediction.probe.reach_methods import Asked, measure_reach
from patchloom.prediction.probe.size_search import SizeRule, find_size_rules, first_size
from patchloom.prediction.probe.torch_reach import SizeFacts
from patchloom.prediction.probe.watched_model import Outputs, TimeIsUpError, WatchedModel, random_tile

_MOST_OF_IMAGE = {2: 1024, 3: 160}
"""Voxels of an image that are read, along each axis."""

_CHANNELS = (1, 3, 2, 4)
"""Numbers of channels that are tried if the model declares none."""

_SHARE_FOR_LARGER = 8
"""A larger tile is run if it is expected to take less than one in so many parts of the time that is left, …"""

_MOST_SECONDS = 0.25
"""… and less than this."""


def probe(
    model: Model,
    *,
    n_channels: int | None = None,
    n_dims: int | None = None,
    dtype: DTypeLike | None = None,
    image: Source | None = None,
    axes: str | None = None,
    tolerance: float = 1e-4,
    seconds: float = 20.0,
) -> ModelProbe:
    """Measure what a model accepts, how far it looks, and where its predictions differ.

    What the model declares is taken as it is. How far it looks is found by the best method that there is for its kind, and checked by
    the second best. All else is measured by running the model on tiles of random numbers, or of an image.

    Parameters
    ----------
    model : callable or torch.nn.Module
        The model, as in `predict`.
    n_channels : int, optional
        Number of channels of the tiles. If None, that of the image, what the model declares, or the first of 1, 3, 2 and 4 that it accepts.
    n_dims : int, optional
        Number of spatial axes, 2 or 3. If None, that of the image, what the model declares, or the first that it accepts.
    dtype : dtype, optional
        Dtype of the tiles. If None, that of the image, else float32. Random numbers are between 0 and 1; integers between 0 and 255.
    image : path, URL, array or ImageStack, optional
        An image whose middle is used instead of random numbers; where a tile is larger, it is continued by its mirror image. A 2D
        model gets the middle plane of a 3D image.
    axes : str, optional
        Axes of the image, letters of `STCZYX`. If None, as its metadata declare.
    tolerance : float
        Differences below this count as equal, as a share of the range of the output.
    seconds : float
        Time for all measurements together, in seconds. What does not fit into it is left out.

    Returns
    -------
    ModelProbe
        What was found out. A model that refuses every tile, or does not return, gives a probe whose `remarks` contain that.

    Raises
    ------
    ArgumentError, SourceError
        If an argument has a value that is not allowed, or the image cannot be opened or read.

    Examples
    --------
    >>> found = probe(lambda batch: batch[..., 3:-3, 3:-3], n_dims=2)
    >>> found.sizes[0], found.outputs[0].margin, found.halo
    (SizeRule(least=7, modulus=1, is_fixed=False), (Fraction(3, 1), Fraction(3, 1)), (0, 0))
    """
    prepared = prepare_model(model)
    description = describe(prepared)
    n_dims = None if n_dims is None else whole_number("n_dims", n_dims, least=2, most=3)
    n_channels = None if n_channels is None else whole_number("n_channels", n_channels, least=1)
    chosen = None if dtype is None else _checked_dtype(dtype)
    given = None if image is None else _read_middle(image, axes, n_dims or description.n_dims)
    if given is not None:
        if n_channels not in (None, given.shape[1]) or n_dims not in (None, given.ndim - 2):
            raise ArgumentError(
                f"image has {given.shape[1]} channels and {given.ndim - 2} spatial axes, and n_channels is {n_channels} and n_dims is "
                f"{n_dims}: leave them out, or name the axes of the image"
            )
        n_channels, n_dims, chosen = given.shape[1], given.ndim - 2, chosen or _checked_dtype(given.dtype)
    tiles = _Tiles(n_channels=n_channels, n_dims=n_dims, dtype=chosen or np.dtype(np.float32), image=given)
    tolerance = real_number("tolerance", tolerance, least=0)
    watched = WatchedModel(prepared, real_number("seconds", seconds, least=0.001))
    return _probe(watched, description, tiles, tolerance)


@dataclass(frozen=True)
class _Tiles:
    """The tiles that a model is run on."""

    n_channels: int | None
    n_dims: int | None
    dtype: np.dtype[Any]
    image: NDArray[Any] | None

    def tile(self, size: Sequence[int], seed: int = 0) -> NDArray[Any]:
        if self.image is None:
            return random_tile(tuple(size), self.n_channels or 1, self.dtype, seed=seed)
        # Another tile is another part of the image.
        image = np.roll(self.image, [seed * side // 2 for side in self.image.shape[2:]], range(2, self.image.ndim))
        cut = image[(slice(None), slice(None), *map(slice, size))]
        missing = [(0, side - there) for side, there in zip(size, cut.shape[2:], strict=True)]
        return np.pad(cut, [(0, 0), (0, 0), *missing], mode="symmetric").astype(self.dtype)


def _read_middle(image: Source, axes: str | None, n_dims: int | None) -> NDArray[Any]:
    """Read the middle of an image, `1C(Z)YX`; of a 3D image, the middle plane if the model is 2D."""
    stack, *others = open_stacks(image, axes)
    if others:
        raise ArgumentError(f"image is a series of {1 + len(others)} images: give one of them")
    if n_dims == 2:
        stack = as_planes(stack)
    shape = stack.data_shape
    size = [min(side, _MOST_OF_IMAGE[len(shape) - 2]) for side in shape[2:]]
    coords = [(whole - side) // 2 for whole, side in zip(shape[2:], size, strict=True)]
    return stack.extract_patch(shape[0] // 2, None, coords, size)[np.newaxis]


def _checked_dtype(dtype: DTypeLike) -> np.dtype[Any]:
    try:
        checked = np.dtype(dtype)
    except (TypeError, ValueError):
        checked = np.dtype(object)
    if checked.kind not in "biufc":
        raise ArgumentTypeError(f"dtype is {shown(dtype)}: it must be a dtype of numbers, such as 'float32'")
    return checked


def _probe(run: WatchedModel, description: ModelDescription, tiles: _Tiles, tolerance: float) -> ModelProbe:
    accepts = _first_tile(run, description, tiles)
    tiles = accepts.tiles
    empty = _nothing(tiles, tolerance)
    if not accepts.first:
        refusal = f"the model refused every tile that was tried, the last with {accepts.refusal}"
        return replace(empty, remarks=(refusal, *_remarks(run)))
    (start, alone), *_ = accepts.first.items()
    remarks: tuple[str, ...] = ()
    try:
        rules = _size_rules(accepts, description, start)
    except TimeIsUpError:
        rules = tuple(SizeRule(side, is_fixed=True) for side in start)
        remarks = ("the time was up before other sizes of tiles were tried: give more seconds",)
    outputs = _outputs(run, tiles, rules, start, alone)
    strides, is_measured = _strides(run, tiles, rules, outputs, start)
    rules = tuple(map(_in_whole_strides, rules, strides, start))
    sizes = tuple(
        SizeFacts(
            rule.least,
            rule.modulus,
            stride,
            tuple(output.scale[axis] for output in outputs),
            tuple(output.margin[axis] for output in outputs),
        )
        for axis, (rule, stride) in enumerate(zip(rules, strides, strict=True))
    )
    reach, checked_by, of_methods = measure_reach(Asked(run, tiles.n_channels or 1, tiles.dtype, sizes))
    if reach is not None and reach.method != "onnx graph" and not is_measured:
        reach = replace(reach, is_lower_bound=True)
    found = replace(empty, sizes=rules, outputs=outputs, largest_size=start, remarks=(*remarks, *of_methods))
    found = replace(found, reach=reach, checked_by=checked_by)
    return _behavior(run, found, tiles, {start: alone})


def _in_whole_strides(rule: SizeRule, stride: int, side: int) -> SizeRule:
    """Return the sizes of a rule that differ from one by whole strides: at others, networks drop a remainder of the tile."""
    step = lcm(rule.modulus, stride)
    return rule if rule.is_fixed else SizeRule(rule.least + (side - rule.least) % step, step)


def _strides(
    run: WatchedModel,
    tiles: _Tiles,
    rules: Sequence[SizeRule],
    outputs: Sequence[ProbedOutput],
    start: tuple[int, ...],
) -> tuple[list[int], bool]:
    """Return the stride along each axis, and whether it was measured, or follows from the sizes that are accepted.

    A stride that is not found is the step between sizes, and a multiple of the denominators of all scales.
    """
    strides, is_certain = [], True
    for axis, rule in enumerate(rules):
        longer = [side + MOST_SHIFT if other == axis else side for other, side in enumerate(start)]
        image = tiles.tile(longer)
        cut = image[(slice(None), slice(None), *map(slice, start))]
        try:
            found = find_stride(run, image, run(cut), axis, outputs[0].scale)
        except ModelError:
            found = None
        step = lcm(rule.modulus, *(output.scale[axis].denominator for output in outputs))
        strides.append(step if found is None else lcm(found, *(output.scale[axis].denominator for output in outputs)))
        is_certain = is_certain and (found is not None or rule.modulus > 1)
    return strides, is_certain


def _nothing(tiles: _Tiles, tolerance: float) -> ModelProbe:
    return ModelProbe(
        n_dims=tiles.n_dims or 2,
        n_channels=tiles.n_channels or 1,
        dtype=str(tiles.dtype),
        sizes=(),
        outputs=(),
        reach=None,
        checked_by=None,
        takes_batches=False,
        repeat_difference=0.0,
        batch_difference=None,
        size_differences=(),
        largest_size=(),
        tolerance=tolerance,
        border=(),
        seconds_per_tile=0.0,
        bytes_per_tile=0,
        remarks=(),
    )


class _Accepts:
    """Whether a model accepts a tile of a size; each size is tried once."""

    def __init__(self, run: WatchedModel, tiles: _Tiles) -> None:
        self._run, self.tiles = run, tiles
        self._known: dict[tuple[int, ...], bool] = {}
        self.first: dict[tuple[int, ...], Outputs] = {}
        self.refusal = ""

    def __call__(self, size: tuple[int, ...]) -> bool:
        if size not in self._known:
            try:
                outputs = self._run(self.tiles.tile(size))
            except ModelError as error:
                self._known[size], self.refusal = False, str(error).splitlines()[0][:200]
                if not self._run.seconds_left:
                    raise TimeIsUpError(self.refusal) from error
            else:
                self._known[size] = True
                self.first = self.first or {size: outputs}
        return self._known[size]


def _first_tile(run: WatchedModel, description: ModelDescription, tiles: _Tiles) -> _Accepts:
    """Try numbers of axes and channels, and sizes, until a tile is accepted; return what was tried last."""
    n_dims, n_channels = tiles.n_dims or description.n_dims, tiles.n_channels or description.in_channels
    declared = _declared_size(description)
    accepts = _Accepts(run, tiles)
    for axes in (2, 3) if n_dims is None else (n_dims,):
        for channels in _CHANNELS if n_channels is None else (n_channels,):
            accepts = _Accepts(run, replace(tiles, n_dims=axes, n_channels=channels))
            try:
                if (declared is not None and accepts(declared)) or first_size(accepts, axes):
                    return accepts
            except TimeIsUpError:
                return accepts
    return accepts


def _declared_size(description: ModelDescription) -> tuple[int, ...] | None:
    rule = size_rule(description)
    if description.patch_size is not None or rule is None:
        return description.patch_size
    usual = 128 if len(rule) == 2 else 48
    return tuple(SizeRule(least, step).at_least(usual) for least, step in rule)


def _size_rules(accepts: _Accepts, description: ModelDescription, start: tuple[int, ...]) -> tuple[SizeRule, ...]:
    """Return what the model declares, else what is found by trying."""
    if description.patch_size is not None:
        return tuple(SizeRule(side, is_fixed=True) for side in description.patch_size)
    rule = size_rule(description)
    return find_size_rules(accepts, start) if rule is None else tuple(SizeRule(least, step) for least, step in rule)


def _outputs(
    run: WatchedModel, tiles: _Tiles, rules: Sequence[SizeRule], start: tuple[int, ...], outputs: Outputs
) -> tuple[ProbedOutput, ...]:
    """Return scale and margin of each output: the slope of its size, and what it lacks of the tile."""
    larger, second = _second_size(run, tiles, rules, start)
    found = []
    for name, output in outputs.items():
        scales, margins = [], []
        for axis, (side, out) in enumerate(zip(start, output.shape[2:], strict=True)):
            change = larger[axis] - side if second and name in second else 0
            scale = _scale(out, side, second[name].shape[2 + axis] - out if second and change else 0, change)
            scales.append(scale)
            margins.append((side - out / scale) / 2)
        found.append(ProbedOutput(name, output.shape[1], str(output.dtype), tuple(scales), tuple(margins)))
    return tuple(found)


def _second_size(
    run: WatchedModel, tiles: _Tiles, rules: Sequence[SizeRule], start: tuple[int, ...]
) -> tuple[tuple[int, ...], Mapping[str, Any] | None]:
    """Run a larger tile: by 48 or more, which most strides divide."""
    larger = tuple(rule.at_least(side + lcm(48, rule.modulus)) for rule, side in zip(rules, start, strict=True))
    if larger == tuple(start):
        return larger, None
    try:
        return larger, run(tiles.tile(larger))
    except ModelError:
        return larger, None


def _scale(out: int, side: int, growth: int, change: int) -> Fraction:
    """Return the scale from the change of the tile and of the output; of one size alone, what it is if there is no margin."""
    slope = Fraction(growth, change) if change and growth > 0 else Fraction(out, side)
    if slope >= 1:
        return Fraction(max(1, round(slope)))
    return Fraction(1, max(1, round(1 / slope))) if slope <= Fraction(2, 3) else Fraction(1)


def _behavior(
    run: WatchedModel,
    found: ModelProbe,
    tiles: _Tiles,
    predictions: dict[tuple[int, ...], Outputs],
) -> ModelProbe:
    """Measure differences and costs, one after the other, until the time is up."""
    start, alone = next(iter(predictions.items()))
    tile, scales = tiles.tile(start), found.outputs[0].scale
    remarks = found.remarks
    found = replace(found, seconds_per_tile=run.last_seconds, border=(0,) * found.n_dims)
    try:
        found = replace(found, repeat_difference=difference(run(tile), alone))
        of_batch = batch_difference(run, tile, tiles.tile(start, seed=1), alone)
        found = replace(found, batch_difference=of_batch, takes_batches=of_batch is not None)
        found = replace(found, border=border_width(run, tile, scales))
        run(tile)  # of which the time is that of a warm model
        largest = _larger_tiles(run, found, tiles, predictions)
        found = replace(
            found,
            largest_size=largest,
            seconds_per_tile=run.last_seconds,
            bytes_per_tile=max(
                int(run.bytes_per_voxel * prod(largest)), _least_bytes(predictions[largest], tiles, largest)
            ),
        )
        differences = size_differences(predictions, run, tiles.tile(largest), found.sizes, scales, stride=found.stride)
        found = replace(found, size_differences=differences)
    except ModelError as error:
        remarks = (*remarks, f"measuring ended early: {error}")
    return replace(found, remarks=(*remarks, *_remarks(run)))


def _least_bytes(outputs: Outputs, tiles: _Tiles, size: tuple[int, ...]) -> int:
    """Return the bytes of a tile and of what the model makes of it: the least that a model takes."""
    return (tiles.n_channels or 1) * prod(size) * tiles.dtype.itemsize + sum(
        output.nbytes for output in outputs.values()
    )


def _larger_tiles(
    run: WatchedModel, found: ModelProbe, tiles: _Tiles, predictions: dict[tuple[int, ...], Outputs]
) -> tuple[int, ...]:
    """Run larger and larger tiles while the time suffices, and return the largest."""
    largest = found.largest_size
    per_voxel = run.last_seconds / prod(largest)
    for size in tile_sizes(found.sizes, largest):
        if size == largest:
            continue
        if per_voxel * prod(size) > min(_MOST_SECONDS, run.seconds_left / _SHARE_FOR_LARGER):
            break
        predictions[size] = run(tiles.tile(size))
        largest, per_voxel = size, run.last_seconds / prod(size)
    return largest


def _remarks(run: WatchedModel) -> tuple[str, ...]:
    hung = tuple(
        f"the model did not return in time for a tile of {' × '.join(map(str, size))}"
        for size in dict.fromkeys(run.hung_at)
    )
    if not run.printed.strip():
        return hung
    first = run.printed.strip().splitlines()[0][:80]
    return (*hung, f"the model printed {len(run.printed)} characters, beginning with {first!r}")
