"""What follows from the context that a model declares: no voxel of a prediction is used whose context the tile lacks.

A voxel nearer to the end of a tile than the network looks is wrong, whatever its weight. So it is in the halo, except at the ends
of the image, where the network sees there what it sees of the whole image::

    tile      |––––––|················|––––––|        – halo: the larger of `before` and `after`
    next                       |––––––|················|––––––|

"""

from __future__ import annotations

from collections.abc import Sequence

from patchloom.geometry.checks import one_per_axis
from patchloom.prediction.models.model import ModelDescription, size_rule
from patchloom.prediction.request import PredictionRequest


def wanted_halo(request: PredictionRequest, model: ModelDescription, margin: Sequence[int]) -> tuple[int, ...]:
    """Return the halo that is given, or the larger of the declared one and the declared context, `(z,) y, x`.

    Parameters
    ----------
    request : PredictionRequest
        What was asked for.
    model : ModelDescription
        What the model declares.
    margin : sequence of int
        Voxels that outputs lack at each side of a tile: they are part of the context.
    """
    n_dims = len(margin)
    declared = one_per_axis("halo", model.halo or 0 if request.halo is None else request.halo, n_dims, least=0)
    if request.halo is not None or model.context is None:
        return declared
    return tuple(
        max(voxels, max(context) - lost) for voxels, context, lost in zip(declared, model.context, margin, strict=True)
    )


def fitting_halo(
    request: PredictionRequest,
    model: ModelDescription,
    halo: Sequence[int],
    *,
    size: Sequence[int],
    margin: Sequence[int],
    multiples: Sequence[int],
) -> tuple[int, ...]:
    """Return the halo, of a context no more than a given overlap, or the tile, has room for.

    A given overlap is not changed, and a tile that is smaller than the context is used as well as it can be.

    Parameters
    ----------
    request : PredictionRequest
        What was asked for.
    model : ModelDescription
        What the model declares.
    halo : sequence of int
        The result of `wanted_halo`.
    size, margin, multiples : sequence of int
        The size of the tiles, the voxels that outputs lack, and the stride.
    """
    n_dims = len(size)
    if model.context is None or request.halo is not None:
        return tuple(halo)
    room = [side - 2 * multiple for side, multiple in zip(size, multiples, strict=True)]
    if request.overlaps is not None:
        room = list(map(min, room, one_per_axis("overlaps", request.overlaps, n_dims, least=0)))
    declared = model.halo or (0,) * n_dims
    return tuple(
        max(own, min(voxels, max(0, most // 2 - lost)))
        for own, voxels, most, lost in zip(declared, halo, room, margin, strict=True)
    )


def shrunk_to_image(size: Sequence[int], model: ModelDescription, image_size: Sequence[int]) -> tuple[int, ...]:
    """Return the tile size, along each axis at most the next one that the model accepts after the size of the image.

    The network pads the end of a larger tile where the whole image ends, so the result would differ there. Without a declared
    context or a rule for sizes, the size stays.

    Parameters
    ----------
    size : sequence of int
        The tile size, `(z,) y, x`.
    model : ModelDescription
        What the model declares.
    image_size : sequence of int
        Size of the largest image.

    Examples
    --------
    >>> model = ModelDescription(size_step=(8, 8), context=((5, 5), (5, 5)))
    >>> shrunk_to_image((64, 64), model, (100, 20))
    (64, 24)
    """
    rule = size_rule(model)
    if rule is None or model.context is None:
        return tuple(size)
    return tuple(
        min(side, least + -(-max(0, whole - least) // step) * step)
        for side, whole, (least, step) in zip(size, image_size, rule, strict=True)
    )
