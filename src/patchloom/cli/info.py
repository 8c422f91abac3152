"""`patchloom info`: describe images."""

from __future__ import annotations

from typing import Any

from rich.console import Console

from patchloom.cli import options
from patchloom.cli.reporting import print_json, reported_errors
from patchloom.errors import PatchloomError, SeveralImagesError
from patchloom.image_stacks import HasMetadata, HasStorageGrid, ImageStack, open_stacks
from patchloom.prediction.planning.summary import as_shape


def info_command(
    sources: options.Sources,
    axes: options.Axes = None,
    as_json: options.AsJson = False,
    debug: options.Debug = False,
) -> None:
    """Show the axes, shape, dtype, voxel size, channels and chunks of images.

    If a file contains several images, all are shown. No pixels are read.
    """
    with reported_errors(debug=debug):
        facts = [image for source in sources for image in _images(source, axes)]
        if as_json:
            print_json(facts)
            return
        console = Console(highlight=False, soft_wrap=True)
        for image in facts:
            console.print(image.pop("source"), style="bold", markup=False)
            for name, value in image.items():
                if value:
                    console.print(f"  {name.replace('_', ' '):<12} {_readable(value)}", markup=False)


def _images(source: str, axes: str | None) -> list[dict[str, Any]]:
    """Describe all images of a source, also if a file contains several."""
    try:
        return [_facts(stack) for stack in open_stacks(source, axes)]
    except SeveralImagesError as error:
        if not error.images:
            raise
        several = error.images
    facts = []
    for name, described in several.items():
        try:
            facts += [_facts(stack) for stack in open_stacks(name, axes)]
        except PatchloomError as error:
            facts.append({"source": name, "described": described, "problem": str(error)})
    return facts


def _facts(stack: ImageStack) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "source": str(stack.source),
        "axes": stack.original_axes,
        "shape": list(stack.original_data_shape),
        "data_shape": list(stack.data_shape),
        "dtype": str(stack.data_dtype),
    }
    if isinstance(stack, HasMetadata):
        metadata = stack.metadata
        facts["name"] = metadata.name
        facts["voxel_size"] = {
            axis: {"size": size, "unit": metadata.units.get(axis, "")} for axis, size in metadata.voxel_size.items()
        }
        facts["channels"] = list(metadata.channel_names)
    if isinstance(stack, HasStorageGrid):
        facts["chunk_shape"] = list(stack.chunk_shape)
        facts["shard_shape"] = list(stack.shard_shape)
    return facts


def _readable(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{axis} {entry['size']:g} {entry['unit']}".rstrip() for axis, entry in value.items())
    if isinstance(value, list):
        return as_shape(value) if all(isinstance(item, int) for item in value) else ", ".join(value)
    return str(value)
