"""A plan for people, as text, and for programs, as plain values."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from math import prod
from typing import Any

from patchloom.prediction.image_region import axis_sizes
from patchloom.prediction.planning.plan import Plan

_UNITS = ("KiB", "MiB", "GiB", "TiB", "PiB")


def summarize_plan(plan: Plan) -> dict[str, Any]:
    """Return all that a plan will do as plain values that go to JSON.

    Parameters
    ----------
    plan : Plan
        The plan.
    """
    layout, request = plan.layout, plan.request
    memory = asdict(plan.memory)
    del memory["wanted_cache"]
    return {
        "sources": [
            {
                "source": facts.source,
                "axes": facts.original_axes,
                "shape": list(facts.original_data_shape),
                "dtype": str(facts.data_dtype),
                "tiles": list(plan.tiling.grid_shape(data_idx)),
                "region": _region(plan, data_idx),
                "block_shape": list(plan.blocks[data_idx].block_shape),
                "output_shapes": [list(shape) for shape in _output_shapes(plan, data_idx)],
            }
            for data_idx, facts in enumerate(layout.stacks)
        ],
        "channels": None if request.channels is None else list(request.channels),
        "region": None if request.region is None else str(request.region),
        "voxel_size": request.voxel_size,
        "pixel_size": request.pixel_size,
        "voxels_per_pixel": plan.survey.pixel_steps and list(map(str, plan.survey.pixel_steps)),
        "network_size": list(layout.network_size),
        "patch_size": list(layout.patch_size),
        "overlaps": list(_overlaps(plan)),
        "halo": list(plan.tiling.halo),
        "origin_multiple": list(plan.tiling.origin_multiple),
        "seams": plan.tiling.seams,
        "blend": request.blend,
        "padding": request.padding,
        "batch_size": layout.batch_size,
        "n_draws": request.n_draws,
        "tiles": plan.n_tiles,
        "tiles_computed": plan.n_tiles_computed,
        "blocks": plan.n_blocks,
        "output_known": layout.outputs_known,
        "output_dtypes": [str(layout.output_channels_and_dtype(spec)[1]) for spec in layout.outputs(0)],
        "postprocess": None if request.postprocess is None else request.postprocess.identity,
        "source_bytes": _source_bytes(plan),
        "source_bytes_by_block": source_bytes_by_block(plan),
        "tile_bytes": _tile_bytes(plan),
        "output_bytes": output_bytes(plan),
        "normalize": _normalize(plan),
        "denormalize": bool(request.denormalize),
        "chosen": plan.survey.chosen or None,
        "is_measured": not layout.is_normalized or bool(plan.survey.normalizations),
        "memory": {**memory, "total": plan.memory.total, "limit": plan.survey.memory_limit},
        "fingerprint": plan_fingerprint(plan),
    }


def describe_briefly(plan: Plan) -> str:
    """Describe a plan in one line: `4 tiles of 64 × 64 in 1 block, 1 image`."""
    return (
        f"{_count(plan.n_tiles, 'tile')} of {as_shape(plan.layout.patch_size)} in {_count(plan.n_blocks, 'block')}, "
        f"{_count(len(plan.layout.stacks), 'image')}, {as_size(plan.memory.total)} of memory"
    )


def describe_plan(plan: Plan) -> str:
    """Describe a plan in a few lines.

    Parameters
    ----------
    plan : Plan
        The plan.

    Examples
    --------
    >>> import numpy as np
    >>> import patchloom as pl
    >>> print(pl.plan(np.zeros((100, 80), np.uint8), axes="YX", patch_size=64))
    array
      YX 100 × 80 uint8, 2 × 2 tiles, output SCYX 1 × ? × 100 × 80
    tile             64 × 64, overlap 16 × 16, seams centered
    tiles            4
    blocks           1, each written once
    images, decoded  7.8 KiB
    read into tiles  16.0 KiB
    output           31.2 KiB, if the model returns one channel of float32
    peak memory      ... plus the memory of the model, if the model returns one channel of float32
    fingerprint      ...
    """
    facts = _facts(plan)
    width = max(map(len, facts))
    images = [line for data_idx in range(len(plan.layout.stacks)) for line in _image_lines(plan, data_idx)]
    return "\n".join([*images, *(f"{name:<{width}}  {value}" for name, value in facts.items())])


def _facts(plan: Plan) -> dict[str, str]:
    again = plan.n_tiles_computed / plan.n_tiles - 1
    request, multiples = plan.request, plan.tiling.origin_multiple
    halo = f", halo {as_shape(plan.tiling.halo)}" if any(plan.tiling.halo) else ""
    stride = f", starts on multiples of {as_shape(multiples)}" if max(multiples) > 1 else ""
    seams = f"seams {plan.tiling.seams}" if request.blend is None else f"blended ({request.blend})"
    assumed = "" if plan.layout.outputs_known else ", if the model returns one channel of float32"
    normalized = " and ".join(dict.fromkeys(_normalize(plan)))
    unmeasured = "" if plan.survey.normalizations else ", not measured yet"
    undone = ", undone in predictions" if request.denormalize else ""
    whole, by_block = _source_bytes(plan), source_bytes_by_block(plan)
    again_by_block = f", {as_size(by_block)} if each block decodes its chunks again" if by_block > whole else ""
    return {
        **({"channels": ", ".join(map(str, request.channels))} if request.channels is not None else {}),
        **_network_facts(plan),
        "tile": f"{as_shape(plan.layout.patch_size)}, overlap {as_shape(_overlaps(plan))}{halo}, {seams}{stride}",
        **({"chosen": plan.survey.chosen} if plan.survey.chosen else {}),
        "tiles": f"{plan.n_tiles}" + (f", {again:.1%} of them computed again for a second block" if again else ""),
        "blocks": f"{plan.n_blocks}, each written once",
        **({"normalized": normalized + unmeasured + undone} if normalized else {}),
        "images, decoded": as_size(whole) + again_by_block,
        "read into tiles": as_size(_tile_bytes(plan)),
        "output": as_size(output_bytes(plan)) + assumed,
        "peak memory": f"{as_size(plan.memory.total)} plus the memory of the model{assumed}",
        "fingerprint": plan_fingerprint(plan),
    }


def _network_facts(plan: Plan) -> dict[str, str]:
    """Describe how tiles are resampled for the network, if they are."""
    steps, size = plan.survey.pixel_steps, as_shape(plan.layout.network_size)
    if steps is None:
        return {}
    ratio = " × ".join(map(str, steps))
    return {"network": f"tiles of {size} pixels, each {ratio} voxels of the image; resampled there and back"}


def _image_lines(plan: Plan, data_idx: int) -> list[str]:
    facts, output_shape = plan.layout.stacks[data_idx], _output_shapes(plan, data_idx)[0]
    parts = (
        f"{facts.original_axes} {as_shape(facts.original_data_shape)} {facts.data_dtype}",
        f"{as_shape(plan.tiling.grid_shape(data_idx))} tiles{' in each slice' if facts.n_planes else ''}",
        f"output {'SCYX' if len(output_shape) == 4 else 'SCZYX'} {as_shape(output_shape)}",
    )
    region = _region(plan, data_idx) or {}
    sizes = axis_sizes(facts.original_axes, facts.original_data_shape, facts.image_shape)
    chosen = [f"{axis} {start}:{stop}" for axis, (start, stop) in region.items() if (start, stop) != (0, sizes[axis])]
    return [facts.source, "  " + ", ".join(parts), *(["  region " + ", ".join(chosen)] if region else [])]


def _region(plan: Plan, data_idx: int) -> dict[str, list[int]] | None:
    """Return the start and stop of the region of an image that is predicted, in voxels; None for the whole image."""
    facts = plan.layout.stacks[data_idx]
    return None if facts.region is None else {axis: list(ends) for axis, ends in facts.output_ranges.items()}


def _overlaps(plan: Plan) -> tuple[int, ...]:
    margin = plan.layout.margin
    return tuple(shared + 2 * lost for shared, lost in zip(plan.tiling.overlaps, margin, strict=True))


def _normalize(plan: Plan) -> list[str]:
    """Return for each image how it is normalized; an empty list if they are not."""
    normalize = plan.request.normalize
    if normalize is None:
        return []
    if isinstance(normalize, tuple):
        return [str(measured.method) for measured in normalize]
    return [str(normalize)] * len(plan.layout.stacks)


def _output_shapes(plan: Plan, data_idx: int) -> list[tuple[int | None, ...]]:
    """Return the shape of each output of an image as `SC(Z)YX`; C is None while it is not known."""
    layout, spatial_shape = plan.layout, plan.blocks[data_idx].spatial_shape
    ranges = layout.stacks[data_idx].output_ranges
    n_samples, n_planes = (
        prod(stop - start for start, stop in map(ranges.__getitem__, axes)) for axes in ("ST", "Z" * ("Z" in ranges))
    )
    is_known = plan.survey.outputs or plan.survey.model.out_channels
    return [
        (
            n_samples,
            layout.output_channels_and_dtype(spec)[0] if is_known else None,
            *([n_planes] if layout.stacks[data_idx].n_planes else []),
            *spec.scale_size(spatial_shape),
        )
        for spec in layout.outputs(data_idx)
    ]


def output_bytes(plan: Plan) -> int:
    """Return the size of the outputs of a plan in bytes, before compression."""
    return sum(
        grid.n_samples * prod(spec.scale_size(grid.spatial_shape)) * channels * dtype.itemsize
        for data_idx, grid in enumerate(plan.blocks)
        for spec in plan.layout.outputs(data_idx)
        for channels, dtype in [plan.layout.output_channels_and_dtype(spec)]
    )


def _tile_bytes(plan: Plan) -> int:
    """Return the size of all tiles that are read, overlaps and padding included."""
    layout = plan.layout
    itemsize = max(layout.batch_dtype(data_idx).itemsize for data_idx in range(len(layout.stacks)))
    return plan.n_tiles_computed * prod(layout.patch_size) * layout.stacks[0].data_shape[1] * itemsize


def _source_bytes(plan: Plan) -> int:
    """Return the size of the images in bytes, decoded, as far as their regions need them."""
    whole = sum(facts.n_bytes for facts in plan.layout.stacks)
    return whole if plan.request.region is None else min(whole, source_bytes_by_block(plan))


def source_bytes_by_block(plan: Plan) -> int:
    """Return what all blocks need of the images, in bytes: what is decoded if no chunk is kept from one block to the next."""
    return sum(
        prod(sum(_sides(plan, data_idx, axis)) for axis in range(len(grid.spatial_shape)))
        * grid.n_samples
        * facts.data_shape[1]
        * facts.data_dtype.itemsize
        for data_idx, (grid, facts) in enumerate(zip(plan.blocks, plan.layout.stacks, strict=True))
    )


def _sides(plan: Plan, data_idx: int, axis: int) -> list[int]:
    """Return for each block along one axis the number of voxels in the chunks that its tiles touch."""
    chunk_shape, margin = plan.layout.stacks[data_idx].chunk_shape, plan.layout.margin[axis]
    chunk = 1 if chunk_shape is None else chunk_shape[2 + axis]
    size = plan.layout.stacks[data_idx].data_shape[2 + axis]
    sides = []
    for start, stop in plan.schedules[data_idx].windows_along(axis):
        first = max(start - margin, 0) // chunk * chunk
        last = min(-(-min(stop + margin, size) // chunk) * chunk, size)
        sides.append(max(last - first, 0))
    return sides


def plan_fingerprint(plan: Plan) -> str:
    """Return a short digest: the same for the same images, request and model."""
    decisions = plan.decisions()
    del decisions["survey"]["memory_limit"]
    request = plan.request.to_dict() | {"memory_limit": None}
    return hashlib.sha256(json.dumps([request, decisions], sort_keys=True).encode()).hexdigest()[:16]


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def as_size(n_bytes: int) -> str:
    """Write a number of bytes as a person reads it.

    Examples
    --------
    >>> as_size(0), as_size(20_249_250), as_size(3 * 2**40)
    ('0 B', '19.3 MiB', '3.0 TiB')
    """
    if n_bytes < 1024:
        return f"{n_bytes} B"
    power = min((n_bytes.bit_length() - 1) // 10, len(_UNITS))
    return f"{n_bytes / 1024**power:.1f} {_UNITS[power - 1]}"


def as_shape(shape: Sequence[int | None]) -> str:
    """Write a shape as a person reads it; `?` for a size that is not known.

    Examples
    --------
    >>> as_shape((1, None, 64, 64))
    '1 × ? × 64 × 64'
    """
    return " × ".join("?" if size is None else str(size) for size in shape)
