"""From scores to a plan: cells that hold nothing worth training on are drawn never, or seldom."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from patchloom.argument_checks import instance, real_number
from patchloom.errors import GeometryError
from patchloom.filters.score_map import ScoreMap
from patchloom.patching import StratifiedPatching


def exclude_below(patching: StratifiedPatching, score_map: ScoreMap, threshold: float) -> None:
    """Set aside all cells that do not reach a threshold: no voxel of any patch touches them from now on.

    Along the border of what is kept, this loses those patches that are partly background; `downweight_below` keeps them.

    Parameters
    ----------
    patching : StratifiedPatching
        The plan to change.
    score_map : ScoreMap
        Scores of the same images, for cells of the plan's patch size.
    threshold : float
        The least score that is kept; the same for the whole series.

    Raises
    ------
    GeometryError
        If the scores are of other images or cells.

    Examples
    --------
    >>> from patchloom import ArrayStack, MaxFilter, StratifiedPatching, exclude_below, score_cells
    >>> stack = ArrayStack(np.repeat([0, 0, 0, 9], 8).reshape(1, 32) * np.ones((8, 1)), axes="YX")
    >>> patching = StratifiedPatching([stack.data_shape], patch_size=(8, 8), seed=0)
    >>> exclude_below(patching, *score_cells([stack], (8, 8), [MaxFilter()]), threshold=5)
    >>> [spec["coords"] for spec in patching]
    [(0, 24)]
    """
    check_fits(patching, score_map)
    for data_idx, below in enumerate(score_map.below(threshold)):
        for sample_idx, cells in enumerate(below):
            patching.exclude_patches(data_idx, sample_idx, np.argwhere(cells))


def downweight_below(
    patching: StratifiedPatching, score_map: ScoreMap, threshold: float, probability: float = 0.1
) -> None:
    """Draw patches seldom that lie among cells of which none reaches a threshold.

    A patch that starts in a cell may reach into its neighbors below and to the right. It counts as background where none
    of these reaches the threshold either.

    Parameters
    ----------
    patching : StratifiedPatching
        The plan to change.
    score_map : ScoreMap
        Scores of the same images, for cells of the plan's patch size.
    threshold : float
        The least score that is foreground; the same for the whole series.
    probability : float
        How probable a background patch is, compared with others; from 0 to 1.

    Raises
    ------
    GeometryError
        If the scores are of other images or cells, or the probability is not from 0 to 1.

    Examples
    --------
    >>> from patchloom import ArrayStack, MaxFilter, StratifiedPatching, score_cells, downweight_below
    >>> stack = ArrayStack(np.repeat([0, 0, 0, 9], 8).reshape(1, 32) * np.ones((8, 1)), axes="YX")
    >>> patching = StratifiedPatching([stack.data_shape], patch_size=(8, 8), seed=0)
    >>> downweight_below(patching, *score_cells([stack], (8, 8), [MaxFilter()]), threshold=5, probability=0)
    >>> min(patching.at_epoch(epoch)[0]["coords"][1] for epoch in range(100)) >= 16
    True
    """
    check_fits(patching, score_map)
    real_number("probability", probability, least=0, most=1)
    for data_idx, below in enumerate(score_map.below(threshold)):
        grid = patching.grid_shape(data_idx)
        for sample_idx, cells in enumerate(below):
            background = map(tuple, np.argwhere(_nothing_in_reach(cells, grid)).tolist())
            patching.set_region_probs(data_idx, sample_idx, dict.fromkeys(background, probability))


def _nothing_in_reach(below: NDArray[np.bool_], grid: tuple[int, ...]) -> NDArray[np.bool_]:
    """Of each cell that a patch may start in: whether it and all that the patch may reach into are below."""
    for axis in range(below.ndim):
        along = np.moveaxis(below, axis, 0)
        both = np.concatenate([along[:-1] & along[1:], along[-1:]])
        below = np.moveaxis(both, 0, axis)
    return below[tuple(map(slice, grid))]


def check_fits(patching: StratifiedPatching, score_map: ScoreMap) -> None:
    """Refuse scores that are not of a plan's own cells.

    Raises
    ------
    GeometryError
        If the cells have another size than the plan's patches, or the images differ in number, samples or size.
    """
    instance("patching", patching, StratifiedPatching)
    instance("score_map", score_map, ScoreMap, "score_cells makes them")
    if score_map.cell_size != patching.patch_size:
        raise GeometryError(
            f"the scores are of cells of {score_map.cell_size}, and the plan has patches of {patching.patch_size}: "
            f"score with cell_size={patching.patch_size}"
        )
    scored, planned = ([(shape[0], *shape[2:]) for shape in of.data_shapes] for of in (score_map, patching))
    for data_idx, (one, other) in enumerate(zip(scored, planned, strict=False)):
        if one != other:
            raise GeometryError(f"image stack {data_idx} has shape S(Z)YX {one} in the scores and {other} in the plan")
    if len(scored) != len(planned):
        raise GeometryError(f"the scores are of {len(scored)} image stacks, and the plan of {len(planned)}")
