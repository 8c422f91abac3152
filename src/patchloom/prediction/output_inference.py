"""Inference of the outputs of a model by running it on a few tiles.

The size of an output is ``scale * (P - 2 * margin)`` for tiles of size P. One size does not separate scale and margin: 32 voxels for
a tile of 64 are a scale of 1/2, or a margin of 16. If an output is not as large as the tile, the model is therefore run on a tile
of a second size, and the slope is the scale::

    output                     slope 1, intercept -32: a margin of 16
      |            . 32
      |        . 16            slope 1/2, intercept 0: a scale of 1/2
      |    .
      +---------------- tile
          32  48  64

An output as large as the tile has scale 1 and no margin. A model that accepts one tile size only, and returns 1/2, 1/3, … of it,
is refused and has to declare its scale. A model whose margin differs on the two sides is refused too. If the sum of both margins
is even, sizes do not show the difference: a voxel in the middle of the tile is changed, and the output must change in its middle.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from patchloom.axes import spatial_axes
from patchloom.errors import ModelError, ModelOutputError, PatchloomError
from patchloom.extraction import PatchExtractor
from patchloom.image_stacks import ImageStack
from patchloom.prediction.models.batch_prediction import name_tiles, predict_batch
from patchloom.prediction.models.model import Model, size_rule
from patchloom.prediction.models.outputs import OutputSpec, infer_output_spec
from patchloom.prediction.models.working_sizes import find_working_sizes, resize_tile
from patchloom.prediction.planning.tile_layout import TileLayout
from patchloom.prediction.running.tile_reading import read_tiles, specs_in_images
from patchloom.specs.patch_specs import TileSpecs

Outputs = Mapping[str, NDArray[Any]]
"""`(B, C, (Z), Y, X)`, by the name of the output."""

Scale = tuple[Fraction, ...]

_CHANGES = (
    Fraction(-1, 4),
    Fraction(-1, 2),
    Fraction(-1, 8),
    -32,
    -12,
    Fraction(1, 4),
    Fraction(1, 2),
    32,
    Fraction(1),
)
"""Changes of the tile size that are tried: fractions of it, or voxels. Smaller tiles come first, as they need less memory."""

_MOST_CHANGE = 17
"""Sizes that differ by less are tried for one that fits."""

_REMEDY = "declare its scale in a ModelDescription, such as scale=(Fraction(1, 2), Fraction(1, 2))"


def infer_outputs(
    layout: TileLayout, stacks: Sequence[ImageStack], model: Model, *, keep_going: bool = False
) -> tuple[tuple[OutputSpec, ...], ...]:
    """Infer the outputs of a model by running it on the first tile of an image of each dtype.

    Parameters
    ----------
    layout : TileLayout
        The tiles, without known outputs.
    stacks : sequence of ImageStack
        The series as the model is run on it.
    model : callable
        The model.
    keep_going : bool
        Whether an image that fails is skipped if another image of its dtype does not fail.

    Returns
    -------
    tuple of tuple of OutputSpec
        The outputs of each image.

    Raises
    ------
    ModelError
        If the model fails.
    ModelOutputError
        If no scale and margin fit what it returns, or several do. The message names the tile.
    """
    extractor = PatchExtractor(stacks, padding=layout.request.padding)
    inferred: dict[np.dtype[Any], tuple[OutputSpec, ...]] = {}
    failed: dict[np.dtype[Any], PatchloomError] = {}
    for data_idx, facts in enumerate(layout.stacks):
        if facts.data_dtype in inferred:
            continue
        try:
            inferred[facts.data_dtype] = _infer_from(layout, extractor, data_idx, model)
        except PatchloomError as error:
            if not keep_going:
                raise
            failed.setdefault(facts.data_dtype, error)
    for dtype in failed.keys() - inferred.keys():
        raise failed[dtype]
    return tuple(inferred[facts.data_dtype] for facts in layout.stacks)


def _infer_from(layout: TileLayout, extractor: PatchExtractor, data_idx: int, model: Model) -> tuple[OutputSpec, ...]:
    """Infer the outputs from the first tile of an image."""
    first = layout.tiling.specs([layout.tiling.get_patch_indices(data_idx)[0]])
    specs = specs_in_images(layout, cast("list[TileSpecs]", first.to_specs()))
    tile = read_tiles(layout, extractor, first)
    try:
        return _infer(lambda batch: predict_batch(model, batch, specs, layout.survey.model.batch_size), tile, layout)
    except ModelOutputError as error:
        if name_tiles(specs) in str(error):
            raise
        raise ModelOutputError(f"{error} (for {name_tiles(specs)})") from error


def _infer(run: Callable[[NDArray[Any]], Outputs], tile: NDArray[Any], layout: TileLayout) -> tuple[OutputSpec, ...]:
    declared, is_fixed = layout.survey.model.scale, layout.survey.model.patch_size is not None
    outputs = _first_outputs(run, tile, fixed=is_fixed)
    if declared is not None:
        scales = dict.fromkeys(outputs, declared)
    else:
        scales = infer_scales(run, tile, outputs, fixed=is_fixed, rule=size_rule(layout.survey.model))
    try:
        output_specs = tuple(
            infer_output_spec(name, output, tile.shape[2:], scales[name]) for name, output in outputs.items()
        )
    except ModelOutputError as error:
        size = None if is_fixed else _size_with_whole_margins(run, tile, scales)
        if size is None:
            raise
        raise ModelOutputError(f"{error}, or use tiles of another size, such as patch_size={size}") from error
    if declared is None and any(any(spec.margin) for spec in output_specs):
        if not is_fixed:
            _check_whole_steps(run, tile, outputs, output_specs)
        _check_centered(run, tile, outputs, output_specs)
    return output_specs


def _first_outputs(run: Callable[[NDArray[Any]], Outputs], tile: NDArray[Any], *, fixed: bool) -> Outputs:
    """Run the model on a tile; if it fails, the error contains other tile sizes that it accepts."""
    try:
        return run(tile.copy())  # the model may change it
    except ModelOutputError:
        raise
    except ModelError as error:
        sizes = [] if fixed else find_working_sizes(run, tile)
        if not sizes:
            raise
        raise ModelError(
            f"{error}; it accepts tiles of {_texts(sizes)}: give such a size as patch_size={sizes[0]}"
        ) from error


def infer_scales(
    run: Callable[[NDArray[Any]], Outputs],
    tile: NDArray[Any],
    outputs: Outputs,
    *,
    fixed: bool,
    rule: Sequence[tuple[int, int]] | None = None,
) -> dict[str, Scale]:
    """Infer the scale of each output; if its size is not that of the tile, from tiles of a second size.

    Parameters
    ----------
    run : callable
        Runs the model on a batch.
    tile : array
        `(1, C, (Z), Y, X)`.
    outputs : mapping of str to array
        The outputs for this tile.
    fixed : bool
        Whether the model accepts tiles of this size only.
    rule : sequence of tuple of int, optional
        The smallest size that the model accepts, and the step, for each spatial axis; see `size_rule`.

    Raises
    ------
    ModelOutputError
        If no scale fits the sizes, or several do.

    Examples
    --------
    >>> def valid(batch):
    ...     return {"": batch[..., 16:-16, 16:-16]}
    >>> tile = np.zeros((1, 1, 64, 64))
    >>> infer_scales(valid, tile, valid(tile), fixed=False)
    {'': (Fraction(1, 1), Fraction(1, 1))}
    """
    size = tile.shape[2:]
    if all(output.shape[2:] == size for output in outputs.values()):
        return {name: (Fraction(1),) * len(size) for name in outputs}
    seen: list[_Sizes] = []
    for other in () if fixed else _other_sizes(size, outputs, rule or [(1, 1)] * len(size)):
        try:
            second = run(resize_tile(tile, other))
        except ModelError:  # the network does not accept this size
            continue
        if second.keys() == outputs.keys():
            seen.append(_Sizes(other, {name: output.shape[2:] for name, output in second.items()}))
        scales = {name: _scales(output.shape[2:], size, name, seen) for name, output in outputs.items()}
        if all(scale is not None for scale in scales.values()):
            return cast("dict[str, Scale]", scales)
    if seen:
        others = ", ".join(f"{_texts(sizes.outputs.values())} for {_text(sizes.tile)}" for sizes in seen[:3])
        raise ModelOutputError(
            f"the model returned {_texts(output.shape[2:] for output in outputs.values())} voxels for tiles of {_text(size)}, "
            f"{others}, and no scale fits all of these: return an array (B, C, (Z), Y, X), channels first; if the model does, {_REMEDY}"
        )
    return {name: tuple(map(_scale_by_one_size, output.shape[2:], size)) for name, output in outputs.items()}


class _Sizes(NamedTuple):
    """Sizes of a tile and of the outputs for it, `(z,) y, x`."""

    tile: tuple[int, ...]
    outputs: Mapping[str, tuple[int, ...]]


def _other_sizes(size: tuple[int, ...], outputs: Outputs, rule: Sequence[tuple[int, int]]) -> Iterator[tuple[int, ...]]:
    """Yield sizes that differ along all axes, then sizes that differ only along the axes where an output differs from the tile."""
    differs = [any(output.shape[2 + axis] != side for output in outputs.values()) for axis, side in enumerate(size)]
    for varied in dict.fromkeys([(True,) * len(size), tuple(differs)]):
        for change in _CHANGES:
            other = tuple(
                side + _voxels(side, change, step) if is_varied else side
                for side, is_varied, (_, step) in zip(size, varied, rule, strict=True)
            )
            if all(side >= least for side, (least, _) in zip(other, rule, strict=True)):
                yield other


def _voxels(side: int, change: Fraction | int, step: int) -> int:
    """Return a change in voxels: a multiple of the step, if there is one, else of 12 for a fraction, as most strides divide 12."""
    voxels = Fraction(change) if isinstance(change, int) else side * change
    if step == 1 and (isinstance(change, int) or (voxels.denominator == 1 and abs(voxels) >= 2)):
        return int(voxels)
    whole = 12 if step == 1 else step
    return (1 if change > 0 else -1) * whole * max(1, round(abs(voxels) / whole))


def _scales(out: Sequence[int], size: Sequence[int], name: str, seen: Sequence[_Sizes]) -> Scale | None:
    """Find the scale of an output along each axis; None if more sizes are needed."""
    scales = []
    for axis, (voxels, side) in enumerate(zip(out, size, strict=True)):
        steps = [(sizes.tile[axis] - side, sizes.outputs[name][axis] - voxels) for sizes in seen]
        steps = [step for step in steps if step[0]]
        scale = _scale(voxels, side, steps) if steps else Fraction(1) if voxels == side else None
        if scale is None:
            return None
        scales.append(scale)
    return tuple(scales)


def _scale(out: int, size: int, steps: Sequence[tuple[int, int]]) -> Fraction | None:
    """Find the scale along one axis from changes of the tile size and of the output size; None if not exactly one fits.

    Networks may round sizes, so an output that is smaller by a factor may be off by less than a voxel. A factor fits if it fits all
    changes. If several fit, the one that fits a change exactly is taken.
    """
    tile, output = steps[0]
    larger = Fraction(output, tile)
    # A network may round up: 17 voxels for 33 are a scale of 1/2, too.
    factors = [Fraction(1, factor) for factor in range(2, -(-size // max(out, 1)) + 1)]
    possible = [larger] if larger >= 1 and larger.denominator == 1 and out <= size * larger else []
    possible = [factor for factor in possible if all(change * factor == seen for change, seen in steps)] + [
        factor for factor in factors if all(abs(change * factor - seen) < 1 for change, seen in steps)
    ]
    if len(possible) > 1 and len(steps) > 1:
        possible = [
            factor for factor in possible if any(change * factor == seen and abs(seen) > 1 for change, seen in steps)
        ]
    return possible[0] if len(possible) == 1 else None


def _scale_by_one_size(out: int, size: int) -> Fraction:
    """Infer the scale if no second size is accepted: outputs are larger than the tile, or lack what can only be a margin."""
    if out >= size:
        return Fraction(-(-out // size))
    if size % out == 0:
        raise ModelOutputError(
            f"the model returned {out} voxels for tiles of {size} and accepts no other size: its scale is {Fraction(out, size)}, or "
            f"it has a margin; {_REMEDY}"
        )
    return Fraction(1)


def _check_whole_steps(
    run: Callable[[NDArray[Any]], Outputs], tile: NDArray[Any], outputs: Outputs, output_specs: Sequence[OutputSpec]
) -> None:
    """Check that voxels that an output lacks are its margin, and not the remainder of the tile size divided by a stride.

    A tile that is shorter by the remainder has an output of the same size. One voxel may remain: a stride of 2 after a valid
    convolution of 3 voxels leaves one, as its margin of 1/2 on both sides is not whole.
    """
    for axis, side in enumerate(tile.shape[2:]):
        lacking = [spec for spec in output_specs if spec.margin[axis]]
        unused = _n_unused(run, tile, axis, {spec.name: outputs[spec.name].shape[2 + axis] for spec in lacking})
        if unused > 1:
            scales = {spec.name: spec.scale for spec in output_specs}
            size = _size_with_whole_margins(run, tile, scales)
            raise ModelOutputError(
                f"the model does not use {unused} of the {side} voxels along {spatial_axes(tile.ndim - 2)[axis]}: use a patch_size that, "
                f"without the margin, is a multiple of its stride{'' if size is None else f', such as patch_size={size}'}; if it uses "
                f"all voxels, {_REMEDY}"
            )


def _n_unused(run: Callable[[NDArray[Any]], Outputs], tile: NDArray[Any], axis: int, sides: Mapping[str, int]) -> int:
    """Return the number of voxels, at most 2, by which a tile can be shorter along an axis without a change of the size of an output."""
    for unused in range(2 if sides else 0):
        shorter = [side - (unused + 1) * (other == axis) for other, side in enumerate(tile.shape[2:])]
        try:
            second = run(resize_tile(tile, shorter))
        except ModelError:
            return unused
        if not any(name in second and second[name].shape[2 + axis] == side for name, side in sides.items()):
            return unused
    return 2 if sides else 0


def _size_with_whole_margins(
    run: Callable[[NDArray[Any]], Outputs], tile: NDArray[Any], scales: Mapping[str, Scale]
) -> tuple[int, ...] | None:
    """Return the next smaller or larger size for which all margins are whole numbers of voxels and all voxels but one are used."""
    for change in (change for step in range(1, _MOST_CHANGE) for change in (-step, step)):
        size = tuple(side + change for side in tile.shape[2:])
        resized = resize_tile(tile, size) if min(size) > 0 else None
        try:
            outputs = {} if resized is None else run(resized)
            specs = [infer_output_spec(name, output, size, scales[name]) for name, output in outputs.items()]
        except (ModelError, LookupError):
            continue
        if specs and not any(
            _n_unused(
                run,
                resize_tile(tile, size),
                axis,
                {spec.name: outputs[spec.name].shape[2 + axis] for spec in specs if spec.margin[axis]},
            )
            > 1
            for axis in range(len(size))
        ):
            return size
    return None


def _check_centered(
    run: Callable[[NDArray[Any]], Outputs], tile: NDArray[Any], outputs: Outputs, output_specs: Sequence[OutputSpec]
) -> None:
    """Check that margins are the same on both sides: that a changed voxel of the tile changes the output around its position.

    The response of a network need not be symmetric. It counts as shifted only if the center of all voxels that change, and the
    voxel that changes most, are off by the same whole number, for two neighboring voxels of the tile.
    """
    sides = tile.shape[2:]
    for quarter in (2, 1, 3):
        position = [side * quarter // 4 for side in sides]
        shifts = _shifts(run, tile, outputs, output_specs, position)
        if shifts is not None:
            break
    else:  # no output responds to any of them
        return
    if not shifts:
        return
    for step in (1, -1):
        again = _shifts(
            run,
            tile,
            outputs,
            output_specs,
            [min(max(at + step, 0), side - 1) for at, side in zip(position, sides, strict=True)],
        )
        for (name, axis), shift in shifts.items():
            if again is not None and again.get((name, axis)) == shift:
                raise ModelOutputError(
                    f"the margin of {f'output {name!r}' if name else 'the output'} differs on the two sides along {axis}, so that it "
                    f"would be shifted by {abs(shift)} voxel(s): crop or pad it to the same margin on both sides, or declare scale in a "
                    "ModelDescription if the shift is intended"
                )


def _shifts(
    run: Callable[[NDArray[Any]], Outputs],
    tile: NDArray[Any],
    outputs: Outputs,
    output_specs: Sequence[OutputSpec],
    position: Sequence[int],
) -> dict[tuple[str, str], int] | None:
    """Return how far the response to a changed voxel is from its position, in voxels of the input, by output and axis.

    Shifts of 0 are left out. None if no output responds.
    """
    changed = run(_with_changed_voxel(tile, position))
    found: dict[tuple[str, str], int] = {}
    responds = False
    for spec in output_specs:
        before, after = outputs[spec.name][0], changed[spec.name][0] if spec.name in changed else None
        if after is None or after.shape != before.shape:
            continue
        difference = _difference(before, after)
        if not difference.any():
            continue
        responds = True
        peak = np.unravel_index(int(difference.argmax()), difference.shape)
        for axis, (factor, margin) in enumerate(zip(spec.scale, spec.margin, strict=True)):
            if margin and factor.denominator == 1:
                scale, expected = int(factor), position[axis] - margin
                touched = np.flatnonzero(
                    difference.any(axis=tuple(other for other in range(difference.ndim) if other != axis))
                )
                middle = Fraction(int(touched[0] + touched[-1]) - (scale - 1), 2 * scale)
                shift = int(peak[axis]) // scale - expected
                if shift and middle - expected == shift:
                    found[spec.name, spatial_axes(len(position))[axis]] = shift
    return found if responds else None


def _with_changed_voxel(tile: NDArray[Any], position: Sequence[int]) -> NDArray[Any]:
    """Return a copy of a tile in which one voxel has the lowest or the highest value of the tile."""
    changed = tile.copy()
    voxel = changed[(slice(None), slice(None), *(slice(at, at + 1) for at in position))]
    lowest, highest = tile.min(), tile.max()
    if lowest == highest:
        voxel[...] = np.logical_not(voxel)
    else:
        voxel[...] = np.where(voxel == highest, lowest, highest)
    return changed


def _difference(before: NDArray[Any], after: NDArray[Any]) -> NDArray[np.float64]:
    """Return the change of each voxel, of the channel that changed most; NaN that stays NaN does not count."""
    wide = np.complex128 if before.dtype.kind == "c" else np.float64
    with np.errstate(invalid="ignore", over="ignore"):
        change = np.abs(after.astype(wide) - before.astype(wide))
    return np.asarray(np.nan_to_num(change, nan=0).max(axis=0))


def _texts(sizes: Iterable[Sequence[int]]) -> str:
    return " and ".join(dict.fromkeys(map(_text, sizes)))


def _text(size: Sequence[int]) -> str:
    return " × ".join(map(str, size))
