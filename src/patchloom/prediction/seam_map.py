"""A map of the difference that the position of tiles makes: two predictions of one image, on grids that are shifted by half a step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise, product
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from patchloom.axes import AxesMap
from patchloom.errors import GeometryError
from patchloom.extraction import PatchExtractor
from patchloom.geometry.blend_weights import BlendWindow, window_profile
from patchloom.geometry.padding import Padding
from patchloom.geometry.tile_rule import TileRule
from patchloom.image_stacks import Source
from patchloom.prediction.api import plan
from patchloom.prediction.certificate.repredicting import as_written, predict_tile, tile_at
from patchloom.prediction.certificate.written_outputs import WrittenOutput
from patchloom.prediction.image_selection import choose_channels
from patchloom.prediction.models.devices import Precision
from patchloom.prediction.models.model import Model, describe
from patchloom.prediction.models.prepare import prepare_model
from patchloom.prediction.models.replicas import replicas_of
from patchloom.prediction.models.rescaling.rescaled_model import RescaledModel
from patchloom.prediction.normalization.methods import NormalizationMethod
from patchloom.prediction.planning.tile_layout import TileLayout
from patchloom.prediction.postprocessing.labels import holds_labels
from patchloom.prediction.postprocessing.steps import Postprocessing
from patchloom.prediction.survey import open_again, stacks_for_network


def seam_map(
    model: Model | Sequence[Model],
    image: Source,
    *,
    axes: str | None = None,
    channels: int | str | Sequence[int | str] | None = None,
    normalize: str | NormalizationMethod | None = None,
    patch_size: int | Sequence[int] | None = None,
    overlaps: int | Sequence[int] | None = None,
    halo: int | Sequence[int] | None = None,
    blend: BlendWindow | Literal["none"] | None = None,
    origin_multiple: int | Sequence[int] | None = None,
    padding: Padding = "reflect",
    device: str | Sequence[str] | None = None,
    precision: Precision | None = None,
    postprocess: str | Postprocessing | None = None,
) -> Any:
    """Predict an image twice, with tiles on grids that are shifted by half a step, and return the difference.

    Where both predictions agree, the position of tiles makes no difference. Of a model that looks at whole tiles no tiling is exact,
    and the map shows where this matters. The image and both predictions are in memory.

    Parameters
    ----------
    model : callable, or sequence of these
        The model; see `predict`.
    image : path, URL, array or ImageStack
        One image.
    axes, channels, normalize, patch_size, overlaps, halo, blend, origin_multiple, padding, device, precision, postprocess
        As in `predict`.

    Returns
    -------
    array of float32
        The absolute difference of both predictions; of labels, 1 where they differ. It has the axes of the result of `predict`; a
        mapping of these, if the model has several outputs.

    Raises
    ------
    ArgumentError
        If an argument has a value that is not allowed, or one tile covers the image, so that there is nothing to shift.
    SourceError, ModelError
        As `predict`.

    Examples
    --------
    >>> import numpy as np
    >>> image = np.random.default_rng(0).random((100, 100), np.float32)
    >>> seam_map(lambda batch: batch * 2, image, axes="YX", patch_size=32).max()
    np.float32(0.0)
    >>> seam_map(lambda batch: batch - batch.mean((2, 3), keepdims=True), image, axes="YX", patch_size=32).max() > 0
    np.True_
    """
    prepared = prepare_model(model, device, precision)
    planned = plan(
        image,
        model=prepared,
        axes=axes,
        channels=channels,
        normalize=normalize,
        patch_size=patch_size,
        overlaps=overlaps,
        halo=halo,
        blend=blend,
        origin_multiple=origin_multiple,
        padding=padding,
        postprocess=postprocess,
        measure=True,
    )
    layout = planned.layout
    if planned.survey.is_series:
        raise GeometryError("image is a series: give one image")
    starts = [_shifted_starts(rule, size) for rule, size in zip(layout.tiling.rules, _spatial(layout), strict=True)]
    if all(shifted is None for shifted in starts):
        raise GeometryError(
            f"patch_size is {layout.patch_size}: one tile covers the image, or no step is left to shift tiles by; take a smaller one"
        )
    result = planned.run(prepared, sources=image, progress=False)
    images = choose_channels(open_again(planned.survey, image), layout.request.channels)
    stacks = stacks_for_network(images, layout.request.patch_size, describe(prepared))
    extractor = PatchExtractor(stacks, padding=padding)
    (network, *_), steps = replicas_of(prepared), layout.survey.pixel_steps
    used = network if steps is None else RescaledModel(network, steps, layout.network_size)
    named = result if isinstance(result, dict) else {"": result}
    maps = {name: _empty(layout, output) for name, output in named.items()}
    written = WrittenOutput(layout, 0, result)
    whole = [slice(0, size) for size in _spatial(layout)]
    for sample_idx in range(layout.predicted_shape(0)[0]):
        shifted = _predict_shifted(layout, extractor, used, sample_idx, starts)
        for output in layout.survey.outputs[0]:
            found = written.read(output, sample_idx, [0] * len(whole), [part.stop for part in whole])
            other = as_written(layout, 0, sample_idx, output, shifted[output.name])
            is_labels = holds_labels(
                output.dtype, layout.batch_dtype(0), postprocess=layout.request.postprocess, blend=layout.request.blend
            )
            sample, z = layout.stacks[0].output_position(sample_idx)
            place = maps[output.name][sample]
            (place[:, z[0]] if z else place)[...] = _difference(found, other, is_labels=is_labels)
    finished = {name: _axes_of(layout, named[name]).from_data(difference) for name, difference in maps.items()}
    return finished if isinstance(result, dict) else finished[""]


def _spatial(layout: TileLayout) -> tuple[int, ...]:
    return tuple(layout.tiling.data_shapes[0][2:])


def _axes_of(layout: TileLayout, result: NDArray[Any]) -> AxesMap:
    facts = layout.stacks[0]
    axes = facts.original_axes
    if result.ndim > len(axes):  # the result has channels, and the image has none
        axes = AxesMap(axes, facts.original_data_shape).with_channels(2).axes
    return AxesMap(axes, result.shape)


def _empty(layout: TileLayout, result: NDArray[Any]) -> NDArray[np.float32]:
    return np.zeros(_axes_of(layout, result).data_shape, np.float32)


def _difference(found: NDArray[Any], other: NDArray[Any], *, is_labels: bool) -> NDArray[Any]:
    if is_labels:
        return np.asarray(found != other, np.float32)
    wide = np.complex128 if "c" in (found.dtype.kind, other.dtype.kind) else np.float64
    return np.asarray(np.abs(found.astype(wide) - other.astype(wide)))


def _shifted_starts(rule: TileRule, size: int) -> list[int] | None:
    """Return the starts of tiles on a grid that is shifted by half a step; None if one tile covers the axis, or no shift is possible."""
    count = int(rule.count(size))
    last = int(rule.window(count - 1, size, count).start)
    shift = min(rule.step, last) // 2  # below the start of the last tile, or a grid of two tiles would not be shifted
    shift -= shift % rule.origin_multiple
    if count == 1 or not shift:
        return None
    return [0, *range(shift, last, rule.step), last]


def _predict_shifted(
    layout: TileLayout,
    extractor: PatchExtractor,
    model: Model,
    sample_idx: int,
    starts: Sequence[list[int] | None],
) -> dict[str, NDArray[Any]]:
    """Predict one sample on the shifted grid; return each output, `C(Z)YX`, before it is postprocessed."""
    sizes, rules = _spatial(layout), layout.tiling.rules
    is_blended = layout.request.blend is not None
    along = [
        list(_tiles(rule, size, of_axis, whole=is_blended))
        for rule, size, of_axis in zip(rules, sizes, starts, strict=True)
    ]
    sums: dict[str, NDArray[Any]] = {}
    weights: dict[str, NDArray[np.float64]] = {}
    for tile in product(*along):
        spec = tile_at(0, sample_idx, [start for start, _, _ in tile], layout.tiling.patch_size)
        predicted = predict_tile(layout, extractor, model, spec)
        for output in layout.survey.outputs[0]:
            pixels = predicted[output.name]
            shape = output.scale_size(sizes)
            dtype = np.result_type(pixels.dtype, np.float64) if layout.request.blend else pixels.dtype
            total = sums.setdefault(output.name, np.zeros((len(pixels), *shape), dtype))
            kept = output.scale_window([slice(first, stop) for _, first, stop in tile])
            at = output.scale_coords(spec["coords"])
            inside = tuple(slice(part.start - a, part.stop - a) for part, a in zip(kept, at, strict=True))
            taken, target = pixels[(slice(None), *inside)], (slice(None), *kept)
            if layout.request.blend is None:
                total[target] = taken
                continue
            weight = _window(layout.request.blend, layout, pixels.shape[1:])[inside]
            total[target] += taken * weight
            weights.setdefault(output.name, np.zeros(shape))[kept] += weight
    return {name: total / weights[name] if name in weights else total for name, total in sums.items()}


def _tiles(rule: TileRule, size: int, starts: list[int] | None, *, whole: bool) -> Iterator[tuple[int, int, int]]:
    """Yield the start of each tile along one axis, and the part of the image that it predicts: where they are blended, all of it."""
    if starts is None:
        count = int(rule.count(size))
        starts = [int(rule.window(number, size, count).start) for number in range(count)]
    if whole:
        yield from ((start, start, min(size, start + rule.patch_size)) for start in starts)
        return
    seams = [(before + rule.patch_size + after) // 2 for before, after in pairwise(starts)]
    seams = [seam - seam % rule.seam_multiple for seam in seams]
    yield from zip(starts, [0, *seams], [*seams, size], strict=True)


def _window(blend: BlendWindow, layout: TileLayout, shape: Sequence[int]) -> NDArray[np.float64]:
    """Return the weights of a tile, `(z,) y, x`, above 0 everywhere: at the ends of the image, there is no other tile."""
    window: NDArray[np.float64] = np.ones(shape)
    for axis, (side, rule) in enumerate(zip(shape, layout.tiling.rules, strict=True)):
        halo = rule.halo * side // rule.patch_size
        profile = np.full(side, 1e-9)
        profile[halo : side - halo] += window_profile(blend, side - 2 * halo)
        window = window * profile.reshape([-1 if other == axis else 1 for other in range(len(shape))])
    return window
