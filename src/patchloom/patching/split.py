"""A split of the images into a part for training and a part for validation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from patchloom.argument_checks import instance
from patchloom.errors import GeometryError
from patchloom.geometry.checks import one_per_axis, whole_number
from patchloom.geometry.grid_cells import cell_counts
from patchloom.patching.counter_random import CounterRandom, Stream, checked_seed
from patchloom.patching.fixed_patching import FixedPatching
from patchloom.patching.stratified_patching import StratifiedPatching
from patchloom.specs.spec_table import SpecTable


def split_training_validation(
    patching: StratifiedPatching, validation: float, *, seed: int = 0, margin: int | Sequence[int] = 0
) -> tuple[StratifiedPatching, FixedPatching]:
    """Split a patching into training and validation: some of its cells are set aside.

    The cells are drawn from all cells that are not excluded, in proportion to their probabilities, so that validation
    resembles training. Training patches touch neither these cells nor any voxel within the margin around them.

    Parameters
    ----------
    patching : StratifiedPatching
        The patching to split; it is not changed.
    validation : int or float
        Number of cells to set aside, or a fraction of all cells (above 0 and below 1), rounded down.
    seed : int
        The same seed sets the same cells aside.
    margin : int or sequence of int
        Least distance between a training and a validation patch, in voxels; `(z,) y, x`, or one number for all axes. With
        lateral context over `s` scales, a patch of size `P` includes `(2 ** (s - 1) - 1) * P / 2` voxels past its border,
        rounded up. This margin keeps the contexts of training off the validation patches; twice the margin also keeps the
        contexts of both apart.

    Returns
    -------
    training : StratifiedPatching
        The patching without these cells. A margin removes whole cells.
    validation : FixedPatching
        One patch for each cell, in order of stack, sample and position; all inside the images.

    Raises
    ------
    GeometryError
        If there are fewer cells than asked for, or no cell would be left for training.

    Examples
    --------
    >>> patching = StratifiedPatching([(1, 1, 256, 256)], patch_size=(32, 32), seed=7)
    >>> training, validation = split_training_validation(patching, 0.1, seed=1)
    >>> len(patching), len(training), len(validation)
    (64, 58, 6)
    """
    instance("patching", patching, StratifiedPatching)
    margins = one_per_axis("margin", margin, len(patching.patch_size), least=0)
    cells, probabilities = patching.included_cells()
    count = _number_of_cells(validation, int((probabilities > 0).sum()), patching)
    held_out = cells[_drawn(probabilities, count, seed)]
    training = patching.at_epoch(patching.epoch)  # a copy
    for of_sample in _by_sample(held_out):
        data_idx, sample_idx = of_sample[0, :2].tolist()
        training.exclude_patches(data_idx, sample_idx, _with_margin(of_sample[:, 2:], margins, training, data_idx))
    if not len(training):
        raise GeometryError(
            f"no cell is left for training: {count} of {len(cells)} cells are set aside for validation, and the margin of "
            f"{margins} around them: ask for fewer, or take smaller patches or margins"
        )
    return training, _patches_of(held_out, patching.patch_size)


def _number_of_cells(validation: float, available: int, patching: StratifiedPatching) -> int:
    """Return the number of cells to set aside, after checking that there are enough."""
    there_are = f"the images hold {available} cells of size {patching.patch_size} to choose from"
    if isinstance(validation, float):
        if not 0 < validation < 1:
            raise GeometryError(
                f"validation is {validation}: give a fraction above 0 and below 1, or a whole number of cells"
            )
        count = int(validation * available)
        if not count:
            raise GeometryError(
                f"validation is {validation}, which is not one patch: {there_are}; take smaller patches"
            )
        return count
    count = whole_number("validation", validation)
    if not 1 <= count <= available:
        raise GeometryError(
            f"validation is {count}, but {there_are}: ask for 1 to {available}, or take smaller patches"
        )
    return count


def _drawn(probabilities: NDArray[np.float64], count: int, seed: int) -> NDArray[np.int64]:
    """Draw cells without replacement, in proportion to their probabilities; in order.

    Each cell gets a random time, shorter on average the more probable the cell is; the cells with the shortest times are
    drawn [1]_.

    References
    ----------
    .. [1] P. S. Efraimidis, P. G. Spirakis, "Weighted random sampling with a reservoir", Information Processing Letters
       97 (2006), doi:10.1016/j.ipl.2005.11.003
    """
    numbers = np.arange(len(probabilities))
    uniform = (CounterRandom(checked_seed(seed), stream=Stream.HELD_OUT).words(numbers) + 1.0) / (2.0**64 + 1)
    possible = probabilities > 0
    rings = np.full(len(probabilities), np.inf)
    rings[possible] = -np.log(uniform[possible]) / probabilities[possible]
    return np.sort(np.argsort(rings, kind="stable")[:count])


def _by_sample(cells: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    changes = (cells[1:, :2] != cells[:-1, :2]).any(axis=1)
    return np.split(cells, np.flatnonzero(changes) + 1)


def _with_margin(
    cells: NDArray[np.int64], margins: Sequence[int], patching: StratifiedPatching, data_idx: int
) -> NDArray[np.int64]:
    """Return cells of one sample and all cells within the margin around them, one per row."""
    near = np.zeros(cell_counts(patching.data_shapes[data_idx][2:], patching.patch_size), np.bool_)
    near[tuple(cells.T)] = True
    for axis, (margin, patch) in enumerate(zip(margins, patching.patch_size, strict=True)):
        _spread(near, -(-margin // patch), axis)
    return np.argwhere(near)


def _spread(marked: NDArray[np.bool_], reach: int, axis: int) -> None:
    """Mark all cells within reach of a marked cell along an axis, in place.

    Marks that have spread by `width` to both sides can be shifted by up to `width + 1` without leaving a gap, so the number
    of shifts is logarithmic in the reach.
    """
    along = np.moveaxis(marked, axis, 0)
    reach = min(reach, len(along) - 1)
    width = 0
    while width < reach:
        shift = min(reach - width, width + 1)
        before = along.copy()
        along[shift:] |= before[:-shift]
        along[:-shift] |= before[shift:]
        width += shift


def _patches_of(cells: NDArray[np.int64], patch_size: Sequence[int]) -> FixedPatching:
    sizes = np.array(patch_size)
    coords = cells[:, 2:] * sizes
    return FixedPatching(
        SpecTable(
            {
                "data_idx": cells[:, 0],
                "sample_idx": cells[:, 1],
                "coords": coords,
                "patch_size": np.broadcast_to(sizes, coords.shape),
            }
        )
    )
