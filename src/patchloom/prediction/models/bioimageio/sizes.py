"""From the axes of a package to what `ModelDescription` declares: sizes of tiles, overlap, multiples, scale and channels."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from math import ceil
from typing import Any, NamedTuple

from patchloom.errors import ModelError
from patchloom.prediction.models.bioimageio.tensors import Tensor, TensorAxis, n_channels

_USUAL_SIZE = {2: 512, 3: 96}
"""Size of a tile along an axis without a fixed size, if other axes have a fixed size."""


class Coupling(NamedTuple):
    """A size of the input that another one determines: `size = reference * factor + offset`."""

    axis: int
    reference: int
    """Indices of spatial axes, `(z,) y, x`."""
    factor: Fraction
    offset: int

    def size(self, sizes: Sequence[int]) -> int:
        """Return the size that the sizes of a tile require."""
        return int(sizes[self.reference] * self.factor + self.offset)


def couplings(tensor: Tensor) -> tuple[Coupling, ...]:
    """Return the spatial axes of an input whose size another spatial axis determines.

    Parameters
    ----------
    tensor : Tensor
        The input.
    """
    letters = tensor.spatial_letters
    return tuple(
        Coupling(index, letters.index(axis.reference[1]), axis.factor or Fraction(1), axis.offset)
        for index, axis in enumerate(_spatial_axes(tensor))
        if axis.reference is not None and axis.reference[0] == tensor.name and axis.reference[1] in letters
    )


def _spatial_axes(tensor: Tensor) -> list[TensorAxis]:
    return [axis for letter in tensor.spatial_letters if (axis := tensor.axis(letter)) is not None]


def describe_sizes(source: Tensor, outputs: Sequence[Tensor]) -> dict[str, Any]:
    """Return what `ModelDescription` declares of sizes and channels.

    Parameters
    ----------
    source : Tensor
        The input.
    outputs : sequence of Tensor
        The outputs.

    Raises
    ------
    ModelError
        If an output is not an image of the input's region.
    """
    n_dims = len(source.spatial_letters)
    described: dict[str, Any] = {"n_dims": n_dims, "in_channels": n_channels(source)}
    described |= _tile_sizes(source)
    batch = source.axis("b")
    if batch is None or batch.is_singleton or any(output.axis("b") is None for output in outputs):
        described["batch_size"] = 1
    relations = [[_relation(source, output, letter) for letter in source.spatial_letters] for output in outputs]
    for output in outputs:
        if not set(output.spatial_letters) <= set(source.spatial_letters):
            raise ModelError(f"output {output.name!r} has an axis z that the input does not have")
    described |= _scale_and_overlaps(relations)
    if len(outputs) == 1:
        described["out_channels"] = n_channels(outputs[0])
        names = _channel_names(outputs[0])
        described["out_channel_names"] = names if len(names) == described["out_channels"] else ()
    pixel_size = [axis.pixel_size for axis in _spatial_axes(source)]
    if all(pixel_size):
        described["pixel_size"] = tuple(pixel_size)
    return described


def _tile_sizes(source: Tensor) -> dict[str, tuple[int, ...]]:
    rules = _size_rules(source)
    if all(step == 0 for _, step in rules):
        return {"patch_size": tuple(least for least, _ in rules)}
    steps = tuple(max(step, 1) for _, step in rules)
    if any(step == 0 for _, step in rules):  # one size along some axes, which a rule cannot express
        usual = _USUAL_SIZE[len(rules)]
        sizes = (least + (-(-max(0, usual - least) // step) * step if step else 0) for least, step in rules)
        return {"preferred_patch_size": tuple(sizes), "origin_multiple": steps}
    return {"min_size": tuple(least for least, _ in rules), "size_step": steps, "origin_multiple": steps}


def _size_rules(source: Tensor) -> list[tuple[int, int]]:
    """Return the least size and the step along each spatial axis; the step is 0 if there is one size only."""
    rules: dict[str, tuple[int, int]] = {}
    axes = _spatial_axes(source)
    for axis in axes:
        if axis.reference is None:
            rules[axis.letter] = (axis.size, 0) if axis.size is not None else (axis.least, axis.step)
    for axis in axes:
        if axis.reference is not None:
            if axis.reference[1] not in rules:
                raise ModelError(
                    f"the size of {axis.letter} of tensor {source.name!r} refers to {'.'.join(axis.reference)}, which is not another "
                    "spatial axis of this input with a size of its own"
                )
            least, step = rules[axis.reference[1]]
            factor = axis.factor or Fraction(1)
            rules[axis.letter] = (int(least * factor + axis.offset), int(step * factor))
    return [rules[axis.letter] for axis in axes]


class _Relation(NamedTuple):
    """An axis of an output beside that of the input."""

    factor: Fraction | None
    """Voxels of the output for one voxel of the input; None if it is not declared."""
    margin: Fraction
    """Voxels of the input that the output lacks on each side."""
    halo: Fraction
    """Voxels of the input on each side for which the output is not valid."""


def _relation(source: Tensor, output: Tensor, letter: str) -> _Relation:
    entry, result = source.axis(letter), output.axis(letter)
    if entry is None or result is None:
        raise ModelError(f"output {output.name!r} has no axis {letter}, and is not an image like the input")
    factor, offset = result.factor, result.offset
    if result.reference is None:
        if entry.size is None or result.size is None:
            raise ModelError(
                f"axis {letter} of output {output.name!r} has the fixed size {result.size}, and that of the input is not fixed: such an "
                "output is not an image like the input"
            )
        factor, offset = _fixed_relation(entry.size, result.size)
    elif entry.reference is not None and result.reference == entry.reference and factor is not None:
        # Both sizes are determined by a third one, r: out = r * factor + offset, and in = r * entry.factor + entry.offset.
        factor /= entry.factor or Fraction(1)
        offset -= int(entry.offset * factor)
    elif result.reference != (source.name, letter):
        raise ModelError(
            f"axis {letter} of output {output.name!r} refers to {'.'.join(result.reference)}: only axis {letter} of the input is "
            "understood"
        )
    if factor is None:
        return _Relation(None, Fraction(0), Fraction(result.halo))
    if factor <= 0 or min(factor.as_integer_ratio()) != 1:
        raise ModelError(
            f"axis {letter} of output {output.name!r} has {factor} voxels for one of the input: only a whole number, or one over a "
            "whole number, can be stitched"
        )
    margin = Fraction(-offset) / (2 * factor)
    if margin < 0:
        raise ModelError(
            f"axis {letter} of output {output.name!r} is larger than that of the input by {offset} voxels: such outputs cannot be "
            "stitched"
        )
    return _Relation(factor, margin, result.halo / factor)


def _fixed_relation(size: int, out: int) -> tuple[Fraction | None, int]:
    """Return factor and offset of two fixed sizes; the factor is None if the difference may be a margin or a scale."""
    if size == out:
        return Fraction(1), 0
    if out > size or size % out == 0:
        return (Fraction(out, size), 0) if out % size == 0 else (None, 0)
    return Fraction(1), out - size


def _scale_and_overlaps(relations: Sequence[Sequence[_Relation]]) -> dict[str, Any]:
    described: dict[str, Any] = {}
    scales = {tuple(relation.factor for relation in of_output) for of_output in relations}
    is_plain = scales == {(Fraction(1),) * len(relations[0])} and not any(
        relation.margin for of_output in relations for relation in of_output
    )
    # A scale of 1 without margin is inferred; several scales or one that is not declared have to be.
    if len(scales) == 1 and not is_plain and all(factor is not None for factor in next(iter(scales))):
        described["scale"] = next(iter(scales))
    n_axes = range(len(relations[0]))
    margin = tuple(max(ceil(of_output[axis].margin) for of_output in relations) for axis in n_axes)
    halo = tuple(max(ceil(of_output[axis].halo) for of_output in relations) for axis in n_axes)
    if any(halo):
        described["halo"] = halo
    if any(halo) or any(margin):
        described["overlaps"] = tuple(2 * (lost + unused) for lost, unused in zip(margin, halo, strict=True))
    return described


def _channel_names(tensor: Tensor) -> tuple[str, ...]:
    axis = tensor.axis("c")
    return () if axis is None else axis.names


def check_tile(sizes: Sequence[int], source: Tensor) -> None:
    """Check the sizes of a tile against sizes that depend on each other.

    Parameters
    ----------
    sizes : sequence of int
        `(z,) y, x`.
    source : Tensor
        The input.

    Raises
    ------
    ModelError
        If an axis does not have the size that another one determines.
    """
    letters = source.spatial_letters
    for letter, size, (least, step) in zip(letters, sizes, _size_rules(source), strict=True):
        if size < least or (size - least) % max(step, 1) or (size > least and not step):
            allowed = f"{least} and more in steps of {step}" if step else f"{least} only"
            raise ModelError(
                f"a tile has the size {size} along {letter}: the package takes {allowed}; give such a patch_size"
            )
    for coupling in couplings(source):
        wanted = coupling.size(sizes)
        if sizes[coupling.axis] != wanted:
            raise ModelError(
                f"a tile has the size {sizes[coupling.axis]} along {letters[coupling.axis]} and {sizes[coupling.reference]} along "
                f"{letters[coupling.reference]}: the package requires {wanted} along {letters[coupling.axis]}; give such a patch_size"
            )
