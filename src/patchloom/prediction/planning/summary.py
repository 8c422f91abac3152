"""A plan as plain values, for people and for programs."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np

from patchloom.prediction.normalization.request import NormalizationRequest
from patchloom.prediction.planning.plan import PredictionPlan
from patchloom.prediction.planning.source_cost import source_bytes_by_block


def summarize(plan: PredictionPlan) -> dict[str, Any]:
    """Give what a plan will do as plain values that go to JSON.

    Examples
    --------
    >>> from patchloom.prediction import plan
    >>> summary = summarize(plan(np.zeros((100, 80), np.uint8), axes="YX", patch_size=(64, 64)))
    >>> summary["tiles"], summary["blocks"], summary["sources"][0]["shape"]
    (4, 1, [100, 80])
    """
    return {
        "sources": [
            {
                "source": str(stack.source),
                "axes": stack.original_axes,
                "shape": list(stack.original_data_shape),
                "dtype": str(np.dtype(stack.data_dtype)),
                "tiles": list(plan.tiling.grid_shape(data_idx)),
                "block_shape": list(plan.blocks[data_idx].block_shape),
                "output_shapes": [list(shape) for shape in plan.output_shapes[data_idx]],
            }
            for data_idx, stack in enumerate(plan.stacks)
        ],
        "patch_size": list(plan.patch_size),
        "overlaps": [shared + 2 * margin for shared, margin in zip(plan.tiling.overlaps, plan.margin, strict=True)],
        "origin_multiple": list(plan.tiling.origin_multiple),
        "seams": plan.seams,
        "blend": plan.blend,
        "padding": plan.padding,
        "batch_size": plan.batch_size,
        "tiles": plan.n_tiles,
        "tiles_computed": plan.n_tiles_computed,
        "blocks": plan.n_blocks,
        "output_known": plan.output_known,
        "output_dtypes": [str(plan.stored(form)[1]) for form in plan.output_forms(0)],
        "postprocessing": None if plan.postprocessing is None else plan.postprocessing.identity,
        "source_bytes": plan.source_bytes,
        "source_bytes_by_block": source_bytes_by_block(plan),
        "tile_bytes": plan.tile_bytes,
        "output_bytes": plan.output_bytes,
        "normalize": [str(NormalizationRequest.of(measured)) for measured in plan.normalizations],
        "memory": {**asdict(plan.memory), "total": plan.memory.total, "limit": plan.memory_limit},
        "fingerprint": plan.fingerprint,
    }
