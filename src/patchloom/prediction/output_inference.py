"""What a model makes of a tile, inferred by running it on a few.

The size of an output depends on the size P of a tile by ``scale * (P - 2 * margin)``. One size does not separate scale and
margin: 32 voxels for a tile of 64 are half the scale, or a margin of 16. So where an output is not as large as the tile, the
model is run on a tile of a second size, and the slope is the scale::

    output                     slope 1, intercept -32: a margin of 16
      |            . 32
      |        . 16            slope 1/2, intercept 0: half the scale
      |    .
      +---------------- tile
          32  48  64

An output as large as the tile is taken as it is. A model that takes tiles of one size only, and returns a whole fraction of it,
is refused: it has to declare its scale. So is one whose margin differs on the two sides, which no size shows where the total
is even: then a voxel in the middle of the tile is changed, and the output has to change in its middle as well.
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
from patchloom.prediction.models.model import Model
from patchloom.prediction.models.outputs import OutputSpec, infer_output_spec
from patchloom.prediction.planning.tile_layout import TileLayout
from patchloom.prediction.running.tile_reading import read_tiles, specs_in_images
from patchloom.specs.patch_specs import TileSpecs

Outputs = Mapping[str, NDArray[Any]]
"""`(B, C, (Z), Y, X)` for each output."""

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
"""Second sizes that are tried, as changes of the first: fractions of it, or voxels. Small tiles first, which take less memory."""

_REMEDY = "declare its scale in a ModelDescription, such as scale=(Fraction(1, 2), Fraction(1, 2))"


def infer_outputs(
    layout: TileLayout, stacks: Sequence[ImageStack], model: Model, *, keep_going: bool = False
) -> tuple[tuple[OutputSpec, ...], ...]:
    """Infer the outputs of a model by running it on the first tile of an image of each dtype.

    Parameters
    ----------
    layout : TileLayout
        The tiles, while the outputs are not known.
    stacks : sequence of ImageStack
        The series as the model is run on it.
    model : callable
        The model.
    keep_going : bool
        Whether an image that fails is skipped if another one of its dtype does not.

    Returns
    -------
    tuple of tuple of OutputSpec
        The outputs for each image.

    Raises
    ------
    ModelError
        If the model fails.
    ModelOutputError
        If what it returns fits no scale and margin, or several; the message names the tile.
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
    outputs = run(tile.copy())  # a batch is the model's to change
    if declared is not None:
        scales = dict.fromkeys(outputs, declared)
    else:
        scales = infer_scales(run, tile, outputs, fixed=is_fixed)
    specs = tuple(infer_output_spec(name, output, tile.shape[2:], scales[name]) for name, output in outputs.items())
    if declared is None and any(any(spec.margin) for spec in specs):
        if not is_fixed:
            _check_whole_steps(run, tile, outputs, specs)
        _check_centered(run, tile, outputs, specs)
    return specs


def infer_scales(
    run: Callable[[NDArray[Any]], Outputs], tile: NDArray[Any], outputs: Outputs, *, fixed: bool
) -> dict[str, Scale]:
    """Infer the scale of each output from a second size of tiles, where its size is not that of the tile.

    Parameters
    ----------
    run : callable
        Runs the model on a batch.
    tile : array
        `(1, C, (Z), Y, X)`.
    outputs : mapping of str to array
        What the model returned for it.
    fixed : bool
        Whether the model takes tiles of this size only.

    Raises
    ------
    ModelOutputError
        If the sizes fit no scale, or several.

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
    for other in () if fixed else _other_sizes(size, outputs):
        try:
            second = run(_resized(tile, other))
        except ModelError:  # the network does not take this size
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
            f"{others}: that fits no scale; {_REMEDY}"
        )
    return {name: tuple(map(_scale_by_one_size, output.shape[2:], size)) for name, output in outputs.items()}


class _Sizes(NamedTuple):
    """Sizes of a tile and of what a model returned for it, `(z,) y, x`."""

    tile: tuple[int, ...]
    outputs: Mapping[str, tuple[int, ...]]


def _other_sizes(size: tuple[int, ...], outputs: Outputs) -> Iterator[tuple[int, ...]]:
    """Yield sizes that differ from a size along all axes; then along those only along which an output differs from the tile."""
    differs = [any(output.shape[2 + axis] != side for output in outputs.values()) for axis, side in enumerate(size)]
    for varied in dict.fromkeys([(True,) * len(size), tuple(differs)]):
        for change in _CHANGES:
            other = tuple(
                side + _voxels(side, change) if is_varied else side
                for side, is_varied in zip(size, varied, strict=True)
            )
            if min(other) >= 1:
                yield other


def _voxels(side: int, change: Fraction | int) -> int:
    """Turn a change into voxels: a fraction that is not whole becomes a multiple of 12, which most strides divide."""
    if isinstance(change, int):
        return change
    voxels = side * change
    if voxels.denominator == 1 and abs(voxels) >= 2:
        return int(voxels)
    return (1 if change > 0 else -1) * 12 * max(1, round(abs(voxels) / 12))


def _resized(tile: NDArray[Any], size: Sequence[int]) -> NDArray[Any]:
    """Cut a tile, or continue it by its mirror image, to another size."""
    cut = tile[(slice(None), slice(None), *map(slice, size))]
    missing = [(0, side - there) for side, there in zip(size, cut.shape[2:], strict=True)]
    return np.pad(cut, [(0, 0), (0, 0), *missing], mode="symmetric")


def _scales(out: Sequence[int], size: Sequence[int], name: str, seen: Sequence[_Sizes]) -> Scale | None:
    """Find the scale of an output along each axis; None if other sizes are needed for it."""
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
    """Find the scale along one axis by changes of a tile and of its output; None if not exactly one fits.

    Networks may round sizes, so that an output that is smaller by a factor is off by less than a voxel. A factor fits if all
    changes do; of several that fit, the one that some change shows exactly.
    """
    tile, output = steps[0]
    larger = Fraction(output, tile)
    factors = [Fraction(1, factor) for factor in range(2, size // max(out, 1) + 1)]
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
    """Infer a scale where no second size is taken: only outputs larger than the tile, or less by a clear margin."""
    if out >= size:
        return Fraction(-(-out // size))
    if size % out == 0:
        raise ModelOutputError(
            f"the model returned {out} voxels for tiles of {size} and takes no other size: that is {Fraction(out, size)} of the "
            f"scale, or a margin; {_REMEDY}"
        )
    return Fraction(1)


def _check_whole_steps(
    run: Callable[[NDArray[Any]], Outputs], tile: NDArray[Any], outputs: Outputs, output_specs: Sequence[OutputSpec]
) -> None:
    """Check that what an output lacks is a margin, and not what a stride leaves over at the end of the tile.

    A tile that is shorter by one voxel gives a shorter output then, or is not taken.
    """
    for axis, side in enumerate(tile.shape[2:]):
        strided = [
            output_spec
            for output_spec in output_specs
            if output_spec.scale[axis].denominator > 1 and output_spec.margin[axis]
        ]
        if not strided:
            continue
        shorter = [other - (number == axis) for number, other in enumerate(tile.shape[2:])]
        try:
            second = run(_resized(tile, shorter))
        except ModelError:
            continue
        for output_spec in strided:
            if (
                output_spec.name in second
                and second[output_spec.name].shape[2 + axis] == outputs[output_spec.name].shape[2 + axis]
            ):
                raise ModelOutputError(
                    f"the model makes tiles smaller by {output_spec.scale[axis].denominator} and leaves over some of the {side} voxels "
                    f"along {spatial_axes(len(output_specs[0].scale))[axis]}: take a patch_size that its stride divides, with the margin "
                    f"taken off; if it leaves none over, {_REMEDY}"
                )


def _check_centered(
    run: Callable[[NDArray[Any]], Outputs], tile: NDArray[Any], outputs: Outputs, output_specs: Sequence[OutputSpec]
) -> None:
    """Check that margins are the same on both sides: that a voxel changed in a tile changes the output around its place.

    A shift is taken as one only if the voxels that change at all and the voxel that changes most show the same shift, for two
    neighboring voxels. The answer of a network need not be symmetric, but it is not shifted by the same whole number everywhere.
    """
    sides = tile.shape[2:]
    for quarter in (2, 1, 3):
        place = [side * quarter // 4 for side in sides]
        answer = _shifts(run, tile, outputs, output_specs, place)
        if answer is not None:
            break
    else:  # the model answers to none of them
        return
    if not answer:
        return
    for step in (1, -1):
        again = _shifts(
            run,
            tile,
            outputs,
            output_specs,
            [min(max(at + step, 0), side - 1) for at, side in zip(place, sides, strict=True)],
        )
        for (name, axis), shift in answer.items():
            if again is not None and again.get((name, axis)) == shift:
                raise ModelOutputError(
                    f"the model takes more from one side of a tile than from the other along {axis}, so that its output"
                    f"{f' {name!r}' if name else ''} would be shifted by {abs(shift)} voxel(s): crop or pad it to the same "
                    "margin on both sides; if the shift is meant, declare scale in a ModelDescription"
                )


def _shifts(
    run: Callable[[NDArray[Any]], Outputs],
    tile: NDArray[Any],
    outputs: Outputs,
    output_specs: Sequence[OutputSpec],
    place: Sequence[int],
) -> dict[tuple[str, str], int] | None:
    """Find the distance in voxels of the input, by output and axis, between a changed voxel and the answer to it, if there is one.

    None if no output answers.
    """
    changed = run(_with_changed_voxel(tile, place))
    found: dict[tuple[str, str], int] = {}
    answers = False
    for output_spec in output_specs:
        before, after = (
            outputs[output_spec.name][0],
            changed[output_spec.name][0] if output_spec.name in changed else None,
        )
        if after is None or after.shape != before.shape:
            continue
        difference = _difference(before, after)
        if not difference.any():
            continue
        answers = True
        peak = np.unravel_index(int(difference.argmax()), difference.shape)
        for axis, (factor, margin) in enumerate(zip(output_spec.scale, output_spec.margin, strict=True)):
            if margin and factor.denominator == 1:
                scale, expected = int(factor), place[axis] - margin
                touched = np.flatnonzero(
                    difference.any(axis=tuple(other for other in range(difference.ndim) if other != axis))
                )
                middle = Fraction(int(touched[0] + touched[-1]) - (scale - 1), 2 * scale)
                shift = int(peak[axis]) // scale - expected
                if shift and middle - expected == shift:
                    found[output_spec.name, spatial_axes(len(place))[axis]] = shift
    return found if answers else None


def _with_changed_voxel(tile: NDArray[Any], place: Sequence[int]) -> NDArray[Any]:
    """Return a tile with the opposite value in one voxel."""
    changed = tile.copy()
    voxel = changed[(slice(None), slice(None), *(slice(at, at + 1) for at in place))]
    lowest, highest = tile.min(), tile.max()
    if lowest == highest:
        voxel[...] = np.logical_not(voxel)
    else:
        voxel[...] = np.where(voxel == highest, lowest, highest)
    return changed


def _difference(before: NDArray[Any], after: NDArray[Any]) -> NDArray[np.float64]:
    """How much each voxel changed, the channel that changed most; NaN that stays NaN did not."""
    wide = np.complex128 if before.dtype.kind == "c" else np.float64
    with np.errstate(invalid="ignore", over="ignore"):
        change = np.abs(after.astype(wide) - before.astype(wide))
    return np.asarray(np.nan_to_num(change, nan=0).max(axis=0))


def _texts(sizes: Iterable[Sequence[int]]) -> str:
    return " and ".join(dict.fromkeys(map(_text, sizes)))


def _text(size: Sequence[int]) -> str:
    return " × ".join(map(str, size))
