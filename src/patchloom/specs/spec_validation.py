"""Validate specifications, and report all faults in one error."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, cast

from patchloom.argument_checks import listed, shown, whole_number
from patchloom.errors import SpecError
from patchloom.specs.patch_specs import PatchSpecs, is_tile_specs, is_uncorrelated_specs

_Fields = Mapping[str, Any]

_NUMBERS = frozenset({"data_idx", "sample_idx", "total_tiles", "principal_channel"})
_FLAT = frozenset(
    {"coords", "patch_size", "crop_coords", "crop_size", "stitch_coords", "all_data_idx", "all_sample_idx"}
)
_SEQUENCES = _FLAT | {"all_coords"}


def validate_specs(specs: PatchSpecs | Iterable[PatchSpecs], data_shapes: Sequence[Sequence[int]]) -> None:
    """Check specifications against the series that they belong to.

    Numbers must be plain `int`, and indices and positions must exist in the series. Patches may reach beyond the border of an
    image, because the extractor pads them, but the kept part of a tile may not.

    Parameters
    ----------
    specs : PatchSpecs or iterable of PatchSpecs
        One specification of any kind, or many.
    data_shapes : sequence of sequence of int
        Shape of each image stack, `SC(Z)YX`.

    Raises
    ------
    SpecError
        If there is a fault; the message has one line for each.

    Examples
    --------
    >>> spec = {"data_idx": 1, "sample_idx": 0, "coords": (0, 0), "patch_size": (8, 0)}
    >>> validate_specs(spec, [(1, 1, 32, 32)])
    Traceback (most recent call last):
        ...
    patchloom.errors.SpecError: 2 faults in 1 specification:
      data_idx is 1, but the series has 1 image stack
      patch_size[1] is 0: it must be at least 1
    """
    single = isinstance(specs, Mapping)
    rows: list[Any] = [specs] if single else listed("specs", specs, "a specification, or a sequence of them")
    data_shapes = _checked_shapes(data_shapes)
    faults = [
        fault if single else f"specification {position}: {fault}"
        for position, spec in enumerate(rows)
        for fault in _faults(spec, data_shapes)
    ]
    if faults:
        counts = f"{_count(len(faults), 'fault')} in {_count(len(rows), 'specification')}"
        raise SpecError("\n  ".join([f"{counts}:", *faults]))


def _checked_shapes(data_shapes: Any) -> list[tuple[int, ...]]:
    what = "the shape SC(Z)YX of each image stack"
    shapes = [
        tuple(
            whole_number(f"data_shapes[{data_idx}]", size) for size in listed(f"data_shapes[{data_idx}]", shape, what)
        )
        for data_idx, shape in enumerate(listed("data_shapes", data_shapes, what))
    ]
    for data_idx, shape in enumerate(shapes):
        if len(shape) not in (4, 5) or min(shape) < 1:
            raise SpecError(
                f"data_shapes[{data_idx}] is {shown(shape)}: it must be SCYX or SCZYX, each size at least 1"
            )
    return shapes


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + "s" * (number != 1)


def _faults(spec: Any, data_shapes: Sequence[Sequence[int]]) -> Iterator[str]:
    if not isinstance(spec, Mapping):
        yield f"specs has {shown(spec)} of type {type(spec).__name__}: it must be a dictionary, such as a patching returns"
        return
    fields: Mapping[Any, Any] = spec
    needed = ["data_idx", "sample_idx", "coords", "patch_size"]
    is_tile, is_uncorrelated = is_tile_specs(cast("PatchSpecs", spec)), is_uncorrelated_specs(cast("PatchSpecs", spec))
    if is_tile:
        needed += ["total_tiles"]
    if is_uncorrelated:
        needed += ["principal_channel"]
    unknown = [str(name) for name in fields if not isinstance(name, str)]
    if unknown:
        yield f"specs has the fields {unknown}: names of fields must be texts"
        return
    missing = [f"{name} is missing" for name in needed if name not in fields]
    ill_typed = [
        fault for name, value in fields.items() for fault in (*_not_plain(name, value), *_wrong_depth(name, value))
    ]
    if missing or ill_typed:
        yield from missing + ill_typed
        return
    yield from _place_faults(fields, "data_idx", "sample_idx", "coords", data_shapes)
    yield from _length_faults(fields, ["patch_size"])
    yield from _low_faults(fields, "patch_size", 1)
    if is_tile:
        yield from _tile_faults(fields, data_shapes)
    if is_uncorrelated:
        yield from _channel_faults(fields, data_shapes)


def _not_plain(name: str, value: Any) -> Iterator[str]:
    """Yield a fault for each value that is not an `int` or a (nested) sequence of `int`."""
    if isinstance(value, (list, tuple)):
        for position, item in enumerate(value):
            yield from _not_plain(f"{name}[{position}]", item)
    elif type(value) is not int:
        yield f"{name} is {shown(value)} of type {type(value).__name__}: it must be a plain int"


def _wrong_depth(name: str, value: Any) -> Iterator[str]:
    """Yield a fault for a number in place of a sequence, or a sequence in place of a number."""
    if name in _NUMBERS and isinstance(value, (list, tuple)):
        yield f"{name} is {shown(value)}: it must be one number"
    if name in _SEQUENCES and type(value) is int:
        yield f"{name} is {value}: it must be a sequence of numbers"
    if name in _FLAT and isinstance(value, (list, tuple)) and any(isinstance(item, (list, tuple)) for item in value):
        yield f"{name} is {shown(value)}: it must be a sequence of numbers"
    if (
        name == "all_coords"
        and isinstance(value, (list, tuple))
        and not all(isinstance(item, (list, tuple)) for item in value)
    ):
        yield f"{name} is {shown(value)}: it must have a sequence of numbers for each channel"


def _place_faults(
    fields: _Fields, data_name: str, sample_name: str, coords_name: str, data_shapes: Sequence[Sequence[int]]
) -> Iterator[str]:
    """Yield a fault for a stack or sample that does not exist, or coordinates of another dimension."""
    data_idx, sample_idx, coords = fields[data_name], fields[sample_name], fields[coords_name]
    if not 0 <= data_idx < len(data_shapes):
        yield f"{data_name} is {data_idx}, but the series has {_count(len(data_shapes), 'image stack')}"
        return
    shape = data_shapes[data_idx]
    if not 0 <= sample_idx < shape[0]:
        yield f"{sample_name} is {sample_idx}, but image stack {data_idx} has {_count(int(shape[0]), 'sample')}"
    if len(coords) != len(shape) - 2:
        yield f"{coords_name} has {len(coords)} numbers, but image stack {data_idx} is {len(shape) - 2}D"


def _length_faults(fields: _Fields, names: Sequence[str]) -> Iterator[str]:
    n_dims = len(fields["coords"])
    for name in names:
        if len(fields[name]) != n_dims:
            yield f"{name} has {len(fields[name])} numbers, coords has {n_dims}"


def _low_faults(fields: _Fields, name: str, least: int) -> Iterator[str]:
    for axis, value in enumerate(fields[name]):
        if value < least:
            yield f"{name}[{axis}] is {value}: it must be at least {least}"


def _tile_faults(fields: _Fields, data_shapes: Sequence[Sequence[int]]) -> Iterator[str]:
    yield from _length_faults(fields, ["crop_coords", "crop_size", "stitch_coords"])
    if any(_length_faults(fields, ["patch_size", "crop_coords", "crop_size", "stitch_coords"])):
        return
    yield from _low_faults(fields, "crop_coords", 0)
    yield from _low_faults(fields, "crop_size", 1)
    yield from _low_faults(fields, "stitch_coords", 0)
    if fields["total_tiles"] < 1:
        yield f"total_tiles is {fields['total_tiles']}: it must be at least 1"
    inside = 0 <= fields["data_idx"] < len(data_shapes)
    spatial = data_shapes[fields["data_idx"]][2:] if inside else ()
    for axis, (start, size) in enumerate(zip(fields["crop_coords"], fields["crop_size"], strict=True)):
        patch, coord, landing = (fields[name][axis] for name in ("patch_size", "coords", "stitch_coords"))
        if start + size > patch:
            yield f"crop_coords[{axis}] + crop_size[{axis}] is {start + size}, but the tile has size {patch}"
        if coord + start != landing:
            yield f"stitch_coords[{axis}] is {landing}, but coords + crop_coords is {coord + start}"
        if axis < len(spatial) and landing + size > spatial[axis]:
            yield f"stitch_coords[{axis}] + crop_size[{axis}] is {landing + size}, but the image has size {spatial[axis]}"


def _channel_faults(fields: _Fields, data_shapes: Sequence[Sequence[int]]) -> Iterator[str]:
    n_channels = len(fields["all_data_idx"])
    for name in ("all_sample_idx", "all_coords"):
        if len(fields[name]) != n_channels:
            yield f"{name} has {len(fields[name])} entries, all_data_idx has {n_channels}"
            return
    principal = fields["principal_channel"]
    if not 0 <= principal < n_channels:
        yield f"principal_channel is {principal}, but there are {_count(n_channels, 'channel')}"
        return
    for channel in range(n_channels):
        names = {name: f"all_{name}[{channel}]" for name in ("data_idx", "sample_idx", "coords")}
        place = {label: fields[f"all_{name}"][channel] for name, label in names.items()}
        yield from _place_faults(place, names["data_idx"], names["sample_idx"], names["coords"], data_shapes)
    for name in ("data_idx", "sample_idx", "coords"):
        drawn, own = fields[f"all_{name}"][principal], fields[name]
        if (tuple(drawn) != tuple(own)) if name == "coords" else (drawn != own):
            yield f"all_{name}[{principal}] is {drawn}, but {name} of the principal channel is {own}"
