"""The description of a package, validated by bioimageio.spec and brought to one form for both formats, 0.4 and 0.5."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from patchloom._optional import require
from patchloom.errors import ModelError
from patchloom.prediction.models.bioimageio.tensors import LETTERS, FileReference, Step, Tensor, TensorAxis
from patchloom.prediction.models.expected_outputs import Tolerance

_FORMATS = ("0.4", "0.5")
_MICROMETERS = {
    "nanometer": 1e-3,
    "micrometer": 1.0,
    "millimeter": 1e3,
    "centimeter": 1e4,
    "meter": 1e6,
    "angstrom": 1e-4,
}


@dataclass(frozen=True)
class Weights:
    """The weights of a network in one format."""

    format: str
    source: FileReference
    external_data: FileReference | None = None
    architecture: FileReference | None = None
    """The file of code of a state dict; None if the code is in an installed package."""
    callable: str = ""
    """Name of the callable that makes the network, dotted with its package if it is installed."""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    is_strict: bool = True


@dataclass(frozen=True)
class PackageDescription:
    """The description of a package."""

    name: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    weights: Mapping[str, Weights]
    tolerance: Tolerance


def read_description(content: Mapping[str, Any]) -> PackageDescription:
    """Validate the content of a description and return it in one form.

    Nothing is downloaded and no other file is read.

    Parameters
    ----------
    content : mapping
        The content of `bioimageio.yaml`.

    Raises
    ------
    ModelError
        If it is not a model of format 0.4 or 0.5, or it is not valid.
    MissingExtraError
        If bioimageio.spec is not installed.
    """
    version = str(content.get("format_version", ""))
    if content.get("type") != "model" or ".".join(version.split(".")[:2]) not in _FORMATS:
        raise ModelError(
            f"it describes a {content.get('type')!r} of format {version!r}: only models of the formats 0.4 and 0.5 are read"
        )
    _check_before_validation(content)
    described = _validate(content)
    read = _read_v04 if version.startswith("0.4") else _read_v05
    try:
        return read(described)
    except (ValueError, TypeError, ArithmeticError, AttributeError) as error:
        if isinstance(error, ModelError):
            raise
        raise ModelError(f"its description cannot be read: {error}") from error


def _validate(content: Mapping[str, Any]) -> Any:
    spec = require("bioimageio.spec", extra="bioimageio")
    # Without checks of files, neither files nor URLs are opened.
    context = spec.ValidationContext(perform_io_checks=False, log_warnings=False)
    described = spec.build_description(content, context=context)
    if isinstance(described, spec.InvalidDescr):
        errors = [
            f"{'.'.join(map(str, entry.loc))}: {entry.msg}"
            for detail in described.validation_summary.details
            for entry in detail.errors
        ]
        raise ModelError(
            f"its description is not valid: {'; '.join(errors[:3]) or described.validation_summary.status}"
        )
    return described


def _check_before_validation(content: Mapping[str, Any]) -> None:
    """Refuse what bioimageio.spec would download, and steps that it does not know, by their names."""
    for tensor, key in _raw_tensors(content):
        if tensor.get("output_of") is not None:
            raise ModelError(
                f"its input {tensor.get('id')!r} is the output of another model, {tensor['output_of']!r}: run that model first, and "
                "take a package whose input is an image"
            )
        for step in tensor.get(key) or ():
            name = step.get("id", step.get("name")) if isinstance(step, Mapping) else step
            if name not in KNOWN_STEPS:
                raise ModelError(f"its {key} has the unknown step {name!r}: known steps are {', '.join(KNOWN_STEPS)}")


KNOWN_STEPS = (
    "binarize",
    "cellpose_flow_dynamics",
    "clip",
    "custom",
    "ensure_dtype",
    "fixed_zero_mean_unit_variance",
    "scale_linear",
    "scale_mean_variance",
    "scale_range",
    "sigmoid",
    "softmax",
    "stardist_postprocessing",
    "zero_mean_unit_variance",
)
"""Steps that the formats define; not all of them can be run on tiles."""


def _raw_tensors(content: Mapping[str, Any]) -> Iterable[tuple[Mapping[str, Any], str]]:
    for kind, key in (("inputs", "preprocessing"), ("outputs", "postprocessing")):
        tensors = content.get(kind)
        for tensor in tensors if isinstance(tensors, list) else ():
            if isinstance(tensor, Mapping):
                yield tensor, key


def _read_v05(described: Any) -> PackageDescription:
    by_name = {str(tensor.id): tensor for tensor in (*described.inputs, *described.outputs)}
    inputs = tuple(
        Tensor(
            str(tensor.id),
            tuple(_axis_v05(axis, by_name) for axis in tensor.axes),
            tuple(_step(step.id, step.kwargs, tensor) for step in tensor.preprocessing),
            _reference(tensor.test_tensor),
            is_optional=tensor.optional,
        )
        for tensor in described.inputs
    )
    outputs = tuple(
        Tensor(
            str(tensor.id),
            tuple(_axis_v05(axis, by_name) for axis in tensor.axes),
            tuple(_step(step.id, step.kwargs, tensor) for step in tensor.postprocessing),
            _reference(tensor.test_tensor),
        )
        for tensor in described.outputs
    )
    weights = {name: _weights_v05(name, entry) for name, entry in described.weights if entry is not None}
    return PackageDescription(described.name, inputs, outputs, weights, _tolerance(described))


def _axis_v05(axis: Any, tensors: Mapping[str, Any]) -> TensorAxis:
    letter = _letter(axis)
    names = tuple(map(str, axis.channel_names)) if axis.type == "channel" else ()
    common: dict[str, Any] = {"letter": letter, "names": names, "halo": getattr(axis, "halo", 0)}
    unit = getattr(axis, "unit", None)
    if unit in _MICROMETERS:
        common["pixel_size"] = axis.scale * _MICROMETERS[unit]
    size = axis.size
    if size is None or isinstance(size, int):
        return TensorAxis(size=size, **common)
    if hasattr(size, "step"):
        return TensorAxis(least=size.min, step=size.step, **common)
    if not hasattr(size, "axis_id"):
        raise ModelError(f"axis {axis.id!r} has a size that depends on the data: such outputs are not images")
    tensor = tensors[str(size.tensor_id)]
    referred = next(other for other in tensor.axes if other.id == size.axis_id)
    factor = Fraction(referred.scale / axis.scale).limit_denominator(4096)
    return TensorAxis(reference=(str(tensor.id), _letter(referred)), factor=factor, offset=size.offset, **common)


def _letter(axis: Any) -> str:
    return LETTERS.get(axis.type) or str(axis.id)


def _step(name: str, kwargs: Any, tensor: Any) -> Step:
    """Return a step of format 0.5, with letters instead of the names of axes."""
    settings = dict(kwargs.model_dump()) if hasattr(kwargs, "model_dump") else {}
    letters = {str(axis.id): _letter(axis) for axis in tensor.axes}
    if settings.get("axes") is not None:
        settings["axes"] = "".join(letters.get(str(axis), "?") for axis in settings["axes"])
    if settings.get("axis") is not None:
        settings["axis"] = letters.get(str(settings["axis"]), "?")
    return Step(name, settings)


def _reference(file: Any) -> FileReference | None:
    return None if file is None else FileReference(str(file.source), None if file.sha256 is None else str(file.sha256))


def _weights_v05(name: str, entry: Any) -> Weights:
    source = FileReference(str(entry.source), None if entry.sha256 is None else str(entry.sha256))
    if name != "pytorch_state_dict":
        return Weights(name, source, _reference(getattr(entry, "external_data", None)))
    code = entry.architecture
    in_file = hasattr(code, "source")
    return Weights(
        name,
        source,
        architecture=_reference(code) if in_file else None,
        callable=str(code.callable) if in_file else f"{code.import_from}.{code.callable}",
        arguments=dict(code.kwargs),
        is_strict=getattr(entry, "strict", True),
    )


def _tolerance(described: Any) -> Tolerance:
    declared: Sequence[Any] = getattr(getattr(described.config, "bioimageio", None), "reproducibility_tolerance", ())
    for entry in declared:
        if hasattr(entry, "absolute_tolerance"):  # not for labels only
            return Tolerance(entry.absolute_tolerance, entry.relative_tolerance, entry.mismatched_elements_per_million)
    return Tolerance()


def _read_v04(described: Any) -> PackageDescription:
    tests = [
        *[FileReference(str(file)) for file in described.test_inputs],
        *[FileReference(str(file)) for file in described.test_outputs],
    ]
    tensors = [*described.inputs, *described.outputs]
    if len(tests) != len(tensors):
        tests = [None] * len(tensors)  # type: ignore[list-item]  # no test tensors
    read = [
        Tensor(tensor.name, _axes_v04(tensor), _steps_v04(tensor, is_input=index < len(described.inputs)), test)
        for index, (tensor, test) in enumerate(zip(tensors, tests, strict=True))
    ]
    weights = {name: _weights_v04(name, entry) for name, entry in described.weights if entry is not None}
    n_inputs = len(described.inputs)
    return PackageDescription(described.name, tuple(read[:n_inputs]), tuple(read[n_inputs:]), weights, Tolerance())


def _axes_v04(tensor: Any) -> tuple[TensorAxis, ...]:
    shape, letters = tensor.shape, tensor.axes
    halos = getattr(tensor, "halo", None) or [0] * len(letters)
    if hasattr(shape, "step"):
        return tuple(
            TensorAxis(letter, size=None if step or letter == "b" else least, least=least, step=step or 1)
            for letter, least, step in zip(letters, shape.min, shape.step, strict=True)
        )
    if not hasattr(shape, "scale"):
        return tuple(
            TensorAxis(letter, size=None if letter == "b" else size, halo=halo)
            for letter, size, halo in zip(letters, shape, halos, strict=True)
        )
    axes = []
    for letter, scale, offset, halo in zip(letters, shape.scale, shape.offset, halos, strict=True):
        if letter == "b":
            axes.append(TensorAxis(letter))
        elif not scale:  # a new axis
            axes.append(TensorAxis(letter, size=int(2 * offset), halo=halo))
        else:
            name, _, other = str(shape.reference_tensor).partition(".")
            factor = Fraction(scale).limit_denominator(4096)
            axes.append(
                TensorAxis(letter, reference=(name, other or letter), factor=factor, offset=int(2 * offset), halo=halo)
            )
    return tuple(axes)


def _steps_v04(tensor: Any, *, is_input: bool) -> tuple[Step, ...]:
    """Return the steps of format 0.4, between which the described dtype and float32 are the dtypes of input and network."""
    steps = [Step("ensure_dtype", {"dtype": tensor.data_type})] if is_input else []
    for step in tensor.preprocessing if is_input else tensor.postprocessing:
        settings = dict(step.kwargs.model_dump())
        name = step.name
        if name == "zero_mean_unit_variance" and settings.get("mode") == "fixed":
            name = "fixed_zero_mean_unit_variance"
        if name in {"fixed_zero_mean_unit_variance", "scale_linear"}:
            settings["axis"] = _complement(tensor.axes, settings.pop("axes", None), settings)
        elif "axes" in settings:
            axes = "".join(settings["axes"] or (letter for letter in tensor.axes if letter != "b"))
            settings["axes"] = f"b{axes}" if settings.get("mode") == "per_dataset" and "b" in tensor.axes else axes
        steps.append(Step(name, settings))
    return (*steps, Step("ensure_dtype", {"dtype": "float32" if is_input else tensor.data_type}))


def _complement(letters: str, axes: str | None, settings: dict[str, Any]) -> str | None:
    """Return the axis along which lists of numbers lie; lists of one number become numbers."""
    lists = {name: value for name, value in settings.items() if isinstance(value, list)}
    if not any(len(value) > 1 for value in lists.values()):
        settings.update({name: value[0] for name, value in lists.items()})
        return None
    others = [letter for letter in letters if letter not in f"b{axes or 'zyx'}"]
    if len(others) != 1:
        raise ModelError(
            f"a step has lists of numbers, and the axes {axes!r} of {letters!r} leave no single axis for them"
        )
    return others[0]


def _weights_v04(name: str, entry: Any) -> Weights:
    source = FileReference(str(entry.source), None if entry.sha256 is None else str(entry.sha256))
    if name != "pytorch_state_dict":
        return Weights(name, source)
    code = entry.architecture
    arguments = dict(entry.kwargs)
    text = str(code)
    if ":" in text:
        file, _, made_by = text.rpartition(":")
        digest = None if entry.architecture_sha256 is None else str(entry.architecture_sha256)
        return Weights(name, source, architecture=FileReference(file, digest), callable=made_by, arguments=arguments)
    return Weights(name, source, callable=text, arguments=arguments)
