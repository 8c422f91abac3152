"""What a user asks of a prediction: every argument of `predict`, `plan` and the command line, parsed and checked once.

Nothing here opens a file. What has to be looked at (images, model, memory) is found out later, by the survey.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, Self, get_args

import numpy as np

from patchloom.argument_checks import file_path, flag, function, instance, one_of, real_number, shown, whole_number
from patchloom.errors import ArgumentError, ArgumentTypeError, GeometryError, SinkError
from patchloom.geometry.blend_weights import BlendWindow, check_blend
from patchloom.geometry.checks import PerAxis, per_axis
from patchloom.geometry.padding import Padding, check_padding
from patchloom.geometry.tile_rule import Seams
from patchloom.local_paths import normalize_path
from patchloom.prediction.image_region import ImageRegion, parse_region
from patchloom.prediction.image_selection import (
    Channels,
    VoxelSize,
    parse_channels,
    parse_pixel_size,
    parse_sizes,
)
from patchloom.prediction.models.model import ModelDescription
from patchloom.prediction.normalization.methods import NormalizationMethod, parse_method
from patchloom.prediction.normalization.normalization import Normalization
from patchloom.prediction.postprocessing.chain import PostprocessingChain, parse_postprocessing
from patchloom.prediction.postprocessing.denormalization import Denormalize
from patchloom.prediction.postprocessing.steps import AsDtype, Postprocessing
from patchloom.prediction.skip_rules import SkipDark, SkipRule, parse_skip_rule
from patchloom.sinks import OmeZarr, OmeZarrVersion, Pyramid


def _parse_normalization(value: Any) -> NormalizationMethod | tuple[Normalization, ...] | None:
    if value is None or isinstance(value, (str, NormalizationMethod)):
        return None if value is None else parse_method("normalize", value)
    if isinstance(value, Sequence) and value and all(isinstance(measured, Normalization) for measured in value):
        return tuple(value)
    raise ArgumentTypeError(
        f"normalize is {shown(value)}: give MeanStd(), Percentiles(1, 99.8), or a list of one Normalization for each image"
    )


def _parse_postprocessing(value: Any) -> Postprocessing | None:
    if value is None:
        return None
    parsed = parse_postprocessing(value) if isinstance(value, str) else value
    known: Postprocessing = instance(
        "postprocess",
        parsed,
        Postprocessing,
        "give one, such as Argmax(), or a text, such as 'threshold:0.5|uint8*255'",
    )
    return known


def _parse_memory_limit(value: Any) -> int:
    try:
        return whole_number("memory_limit", value, least=1)
    except GeometryError as error:
        raise type(error)(
            f"memory_limit is {shown(value)}: it must be a positive whole number of bytes, such as 2 * 2**30"
        ) from None


PARSERS: dict[str, Callable[[Any], Any]] = {
    "channels": parse_channels,
    "region": parse_region,
    "voxel_size": partial(parse_sizes, "voxel_size"),
    "pixel_size": parse_pixel_size,
    "patch_size": partial(per_axis, "patch_size", least=1),
    "overlaps": partial(per_axis, "overlaps", least=0),
    "halo": partial(per_axis, "halo", least=0),
    "origin_multiple": partial(per_axis, "origin_multiple", least=1),
    "blend": lambda value: None if value is None else check_blend(value),
    "seams": lambda value: None if value is None else one_of("seams", value, get_args(Seams)),
    "padding": check_padding,
    "n_draws": lambda value: None if value is None else whole_number("n_draws", value, least=2, most=2**31),
    "batch_size": lambda value: None if value is None else whole_number("batch_size", value, least=1, most=2**31),
    "normalize": _parse_normalization,
    "denormalize": lambda value: None if value is None else flag("denormalize", value),
    "skip": parse_skip_rule,
    "postprocess": _parse_postprocessing,
    "memory_limit": lambda value: None if value is None else _parse_memory_limit(value),
}
"""What turns each argument into its value, or refuses it."""


_DECLARED_BY_MODELS = ("normalize", "blend", "postprocess")
"""Arguments whose default a model may declare; `"none"` declines it."""


def _is_none(value: Any) -> bool:
    return isinstance(value, str) and value == "none"


@dataclass(frozen=True, kw_only=True)
class PredictionRequest:
    """What is to be computed: the arguments of `plan`, parsed and checked.

    Equal requests, for the same images and the same model, are the same run.

    Examples
    --------
    >>> PredictionRequest.parse(patch_size=[64, 64], normalize="percentiles:1,99/channel").normalize
    Percentiles(lower=1.0, upper=99.0, per='channel', eps=0.0)
    """

    channels: Channels | None = None
    region: ImageRegion | None = None
    voxel_size: VoxelSize | None = None
    pixel_size: VoxelSize | str | None = None
    patch_size: PerAxis | None = None
    overlaps: PerAxis | None = None
    halo: PerAxis | None = None
    origin_multiple: PerAxis | None = None
    blend: BlendWindow | None = None
    seams: Seams | None = None
    padding: Padding = "reflect"
    batch_size: int | None = None
    n_draws: int | None = None
    """If the model draws: its outputs are a mean and a standard deviation, and `postprocess` is part of the model."""
    normalize: NormalizationMethod | tuple[Normalization, ...] | None = None
    denormalize: bool | None = None
    skip: SkipRule | None = None
    postprocess: Postprocessing | None = None
    memory_limit: int | None = field(default=None, compare=False)
    declined: tuple[str, ...] = field(default=(), compare=False)
    """Arguments that were given as `"none"`: what the model declares is not used for them."""

    @property
    def dtype(self) -> np.dtype[Any] | None:
        """Dtype to which predictions are converted, if nothing else is done to them."""
        step = None if self.n_draws else self.postprocess
        is_conversion = isinstance(step, AsDtype) and step.scale == 1 and not self.denormalize
        return np.dtype(step.dtype) if isinstance(step, AsDtype) and is_conversion else None

    @property
    def block_postprocess(self) -> Postprocessing | None:
        """What is done to finished blocks; None if predictions are at most converted to another dtype."""
        if self.denormalize:
            return (
                Denormalize()
                if self.postprocess is None or self.n_draws
                else PostprocessingChain((Denormalize(), self.postprocess))
            )
        return None if self.dtype is not None or self.n_draws else self.postprocess

    @property
    def fill(self) -> float:
        """Value of the output where tiles are skipped."""
        return 0 if self.skip is None else self.skip.fill

    @classmethod
    def parse(cls, **arguments: Any) -> Self:
        """Parse and check arguments of `plan`; those left out have their defaults.

        Parameters
        ----------
        **arguments
            As in `predict`.

        Raises
        ------
        ArgumentError
            If one is of another type, or has a value that is not allowed.
        """
        declined = tuple(name for name in _DECLARED_BY_MODELS if _is_none(arguments.get(name)))
        given = {name: value for name, value in arguments.items() if name not in declined}
        return cls(**{name: PARSERS[name](value) for name, value in given.items()}, declined=declined)

    def for_model(self, description: ModelDescription) -> Self:
        """Return the request with what the model declares for what was not asked for.

        Parameters
        ----------
        description : ModelDescription
            What the model declares.

        Raises
        ------
        ArgumentError
            If it declares a normalization or postprocessing that does not exist, or there is no normalization to undo.
        """
        chosen = {
            name: PARSERS[name](getattr(description, name))
            if getattr(self, name) is None and name not in self.declined
            else getattr(self, name)
            for name in _DECLARED_BY_MODELS
        }
        is_normalized, denormalize = chosen["normalize"] is not None, self.denormalize
        if denormalize is None:
            denormalize = description.denormalize and is_normalized
        elif denormalize and not is_normalized:
            raise GeometryError(
                "denormalize is True, and the image is not normalized, so there is nothing to undo: give normalize, or leave "
                "denormalize out"
            )
        return replace(self, **chosen, denormalize=denormalize)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values that go to JSON; a rule or postprocessing of your own is represented by its `identity`."""
        plain = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        plain |= dict.fromkeys(plain.pop("declined"), "none")
        normalize, skip, postprocess = self.normalize, self.skip, self.postprocess
        if isinstance(normalize, tuple):
            plain["normalize"] = [measured.to_dict() for measured in normalize]
        elif normalize is not None:
            plain["normalize"] = str(normalize)
        plain["region"] = None if self.region is None else str(self.region)
        plain["skip"] = None if skip is None else [skip.identity, skip.fill]
        if postprocess is not None:
            plain["postprocess"] = postprocess.identity
        return plain

    @classmethod
    def from_dict(
        cls, values: Mapping[str, Any], *, skip: SkipRule | None = None, postprocess: Postprocessing | None = None
    ) -> Self:
        """Return the request that `to_dict` was made of.

        Parameters
        ----------
        values : mapping
            What `to_dict` returned, before or after JSON.
        skip : SkipRule, optional
            The rule of the request; needed unless it is a `SkipDark`.
        postprocess : Postprocessing, optional
            The postprocessing of the request; needed unless it is one of Patchloom's.

        Raises
        ------
        ArgumentError
            If the request has a rule or a postprocessing that is not given, or another one.
        """
        arguments = dict(values)
        if isinstance(arguments["normalize"], list):
            arguments["normalize"] = [Normalization.from_dict(measured) for measured in arguments["normalize"]]
        if arguments["skip"] is not None:
            identity, fill = arguments["skip"]
            arguments["skip"] = SkipDark.from_identity(identity, fill) if skip is None else skip
            _check_same("skip", arguments["skip"], identity)
            _check_fill(arguments["skip"].fill, fill)
        if arguments["postprocess"] not in (None, "none") and postprocess is not None:
            _check_same("postprocess", postprocess, arguments["postprocess"])
            arguments["postprocess"] = postprocess
        return cls.parse(**arguments)


def _check_same(name: str, given: SkipRule | Postprocessing | None, identity: str) -> None:
    if given is None or given.identity != identity:
        raise ArgumentError(
            f"the plan was made with {name} {shown(identity)}, and it is {shown(given)}: give the same {name} again"
        )


def _check_fill(given: float, planned: Any) -> None:
    if given != planned and str(given) != str(planned):  # NaN is not equal to itself
        raise ArgumentError(
            f"the plan was made with a skip rule of fill {shown(planned)}, and it is {shown(given)}: give the same rule again"
        )


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """How a run writes and reports: the arguments of `predict` that no voxel depends on, parsed and checked."""

    path: str | Path | None = None
    """Where the output goes; None for arrays."""
    version: OmeZarrVersion = "0.5"
    pyramid: Pyramid | None = "auto"
    chunks: PerAxis | None = None
    overwrite: bool = False
    resume_anyway: bool = False
    keep_going: bool = False
    progress: bool | Callable[[Any], Any] = True
    stop: Any = None
    report: Callable[[Sequence[Any]], None] | None = None
    certify: bool | Callable[[Any], Any] = False
    tolerance: float | None = None

    @classmethod
    def parse(
        cls,
        *,
        output: Any = None,
        report: Any = None,
        progress: Any = True,
        stop: Any = None,
        certify: Any = False,
        tolerance: Any = None,
        **flags: Any,
    ) -> Self:
        """Parse and check arguments of `predict`; those left out have their defaults.

        Parameters
        ----------
        output, report, progress, stop, certify, tolerance, **flags
            As in `predict`.

        Raises
        ------
        ArgumentError, SinkError
            If one is of another type, or has a value that is not allowed.
        """
        if report is not None:
            function("report", report)
        options: dict[str, Any] = {name: flag(name, value) for name, value in flags.items()}
        if isinstance(output, OmeZarr):
            options |= {name: getattr(output, name) for name in ("path", "version", "pyramid", "chunks")}
        elif output is not None:
            options["path"] = normalize_path(file_path("output", output, error=SinkError))
        options["certify"] = _parse_flag_or_function("certify", certify, "a Certificate")
        options["tolerance"] = None if tolerance is None else real_number("tolerance", tolerance, least=0)
        progress = _parse_flag_or_function("progress", progress, "a Progress")
        return cls(report=report, progress=progress, stop=_parse_stop(stop), **options)


def _parse_flag_or_function(name: str, value: Any, argument: str) -> bool | Callable[[Any], Any]:
    if callable(value) and not isinstance(value, type):
        return value  # type: ignore[no-any-return]  # of the user
    try:
        return flag(name, value)
    except ArgumentError:
        raise ArgumentTypeError(
            f"{name} is {shown(value)}: it must be True, False, or a function that gets {argument}"
        ) from None


def _parse_stop(value: Any) -> Any:
    if value is None or (callable(getattr(value, "is_set", None)) and not isinstance(value, type)):
        return value
    raise ArgumentTypeError(f"stop is {shown(value)}: it must have a method is_set(), as threading.Event() has")
