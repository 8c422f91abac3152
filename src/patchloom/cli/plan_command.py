"""`patchloom plan`: say what a prediction would do, without doing it."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from patchloom.cli import options
from patchloom.cli.reporting import as_shape, as_size, print_json, reported_errors
from patchloom.prediction import PredictionPlan, plan
from patchloom.prediction.models import load_model
from patchloom.prediction.planning.source_cost import source_bytes_by_block
from patchloom.prediction.planning.summary import summarize
from patchloom.prediction.skip_rules import SkipDark


def plan_command(
    sources: options.Sources,
    model: Annotated[
        str | None, typer.Option(help="Ask this model for its tile size, overlap and channels; it is not run.")
    ] = None,
    axes: options.Axes = None,
    patch_size: options.PatchSize = None,
    overlaps: options.Overlaps = None,
    blend: options.Blend = None,
    seams: options.Seams = None,
    origin_multiple: options.OriginMultiple = None,
    padding: options.Padding = "reflect",
    batch_size: options.BatchSize = None,
    dtype: options.Dtype = None,
    postprocess: options.Postprocess = None,
    normalize: options.Normalize = None,
    percentiles: options.Percentiles = None,
    per: options.Per = None,
    skip_dark: options.SkipDarker = None,
    memory_limit: options.MemoryLimit = None,
    layout: options.Layout = None,
    bgr: options.Bgr = None,
    as_json: options.AsJson = False,
    debug: options.Debug = False,
) -> None:
    """Show the tiles, blocks, bytes and memory of a prediction without running it."""
    with reported_errors(debug=debug):
        prepared = plan(
            sources if len(sources) > 1 else sources[0],
            model=None if model is None else load_model(model, layout=layout, bgr=bgr),
            axes=axes,
            patch_size=patch_size,
            overlaps=overlaps,
            blend=blend,
            seams=seams,
            origin_multiple=options.one_or_each(origin_multiple),
            padding=padding,
            batch_size=batch_size,
            dtype=dtype,
            postprocess=postprocess,
            normalize=normalize,
            percentiles=percentiles,
            per=per,
            skip=None if skip_dark is None else SkipDark(skip_dark),
            memory_limit=memory_limit,
        )
        if as_json:
            print_json(summarize(prepared))
        else:
            _print_plan(prepared)


def _print_plan(prepared: PredictionPlan) -> None:
    console = Console(highlight=False, soft_wrap=True)
    for data_idx, stack in enumerate(prepared.stacks):
        console.print(str(stack.source), style="bold", markup=False)
        console.print(_image_line(prepared, data_idx))
    tiling = prepared.tiling
    again = prepared.n_tiles_computed / prepared.n_tiles - 1
    measured = summarize(prepared)["normalize"]
    assumed = "" if prepared.output_known else ", if the model gives one channel of float32"
    facts = {
        "tile": f"{as_shape(prepared.patch_size)}, overlap {as_shape(tiling.overlaps)}, {_seams(prepared)}{_stride(prepared)}",
        "tiles": f"{prepared.n_tiles}" + (f", {again:.1%} of them computed again for a second block" if again else ""),
        "blocks": f"{prepared.n_blocks}, each written once",
        **({"normalized": " and ".join(dict.fromkeys(measured))} if measured else {}),
        "images, decoded": _decoded(prepared),
        "read into tiles": as_size(prepared.tile_bytes),
        "output": as_size(prepared.output_bytes) + assumed,
        "peak memory": f"{as_size(prepared.memory.total)} and what the model needs itself{assumed}",
        "fingerprint": prepared.fingerprint,
    }
    width = max(map(len, facts))
    for name, value in facts.items():
        console.print(f"{name:<{width}}  {value}")


def _image_line(prepared: PredictionPlan, data_idx: int) -> str:
    stack, output_shape = prepared.images[data_idx], prepared.output_shapes[data_idx][0]
    parts = (
        f"{stack.original_axes} {as_shape(stack.original_data_shape)} {stack.data_dtype}",
        f"{as_shape(prepared.tiling.grid_shape(data_idx))} tiles{' in each slice' if stack is not prepared.stacks[data_idx] else ''}",
        f"output {'SCYX' if len(output_shape) == 4 else 'SCZYX'} {as_shape(output_shape)}",
    )
    return "  " + ", ".join(parts)


def _decoded(prepared: PredictionPlan) -> str:
    """Size of the images, and of all that blocks need of them where they share chunks."""
    whole, by_block = prepared.source_bytes, source_bytes_by_block(prepared)
    return as_size(whole) + (f", {as_size(by_block)} if each block decodes its chunks anew" if by_block > whole else "")


def _stride(prepared: PredictionPlan) -> str:
    multiples = prepared.tiling.origin_multiple
    return f", starts on multiples of {as_shape(multiples)}" if max(multiples) > 1 else ""


def _seams(prepared: PredictionPlan) -> str:
    return f"seams {prepared.seams}" if prepared.blend is None else f"blended ({prepared.blend})"
