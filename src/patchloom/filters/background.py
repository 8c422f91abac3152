"""Background cells, found by their scores: excluded from a patching, or drawn rarely."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from patchloom.argument_checks import instance, real_number
from patchloom.errors import GeometryError
from patchloom.filters.score_map import ScoreMap
from patchloom.patching import StratifiedPatching


def exclude_below(patching: StratifiedPatching, score_map: ScoreMap, threshold: float) -> None:
    """Exclude all cells below a threshold from a patching: patches no longer contain any of their voxels.

    Patches that are partly background are lost as well; `downweight_below` keeps them.

    Parameters
    ----------
    patching : StratifiedPatching
        The patching to change.
    score_map : ScoreMap
        Scores of the same images, for cells of the patching's `patch_size`.
    threshold : float
        Lowest score that is kept, the same for the whole series.

    Raises
    ------
    GeometryError
        If the scores belong to other images or cells.

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
    """Draw background patches rarely: patches in cells that are all below a threshold.

    A patch that starts in a cell may extend into the next cell along each axis. It is a background patch if none of these
    cells reaches the threshold.

    Parameters
    ----------
    patching : StratifiedPatching
        The patching to change.
    score_map : ScoreMap
        Scores of the same images, for cells of the patching's `patch_size`.
    threshold : float
        Lowest score of the foreground, the same for the whole series.
    probability : float
        Probability of a background patch relative to others, from 0 to 1.

    Raises
    ------
    GeometryError
        If the scores belong to other images or cells, or the probability is not from 0 to 1.

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
    """Return, for each cell in which patches start, whether it and all cells that they extend into are below."""
    for axis in range(below.ndim):
        along = np.moveaxis(below, axis, 0)
        both = np.concatenate([along[:-1] & along[1:], along[-1:]])
        below = np.moveaxis(both, 0, axis)
    return below[tuple(map(slice, grid))]


def check_fits(patching: StratifiedPatching, score_map: ScoreMap) -> None:
    """Check that scores belong to the cells of a patching.

    Raises
    ------
    GeometryError
        If the cells have another size than the patches, or the images differ in number, samples or size.
    """
    instance("patching", patching, StratifiedPatching)
    instance("score_map", score_map, ScoreMap, "score_cells makes them")
    if score_map.cell_size != patching.patch_size:
        raise GeometryError(
            f"score_map has cells of size {score_map.cell_size}, and patching has patches of size {patching.patch_size}: "
            f"call score_cells with cell_size={patching.patch_size}"
        )
    scored, planned = ([(shape[0], *shape[2:]) for shape in of.data_shapes] for of in (score_map, patching))
    for data_idx, (one, other) in enumerate(zip(scored, planned, strict=False)):
        if one != other:
            raise GeometryError(
                f"image stack {data_idx} has shape S(Z)YX {one} in score_map and {other} in patching: "
                "make both from the same series"
            )
    if len(scored) != len(planned):
        raise GeometryError(
            f"score_map has {len(scored)} image stacks, and patching has {len(planned)}: make both from the same series"
        )
