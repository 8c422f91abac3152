"""What a user asks of a prediction: every argument of `predict`, `plan` and the command line, parsed and checked once.

Nothing here opens a file. What has to be looked at (images, model, memory) is found out later, by the survey.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any, Self, get_args

import numpy as np

from patchloom.argument_checks import file_path, flag, function, instance, one_of, shown, whole_number
from patchloom.errors import ArgumentError, GeometryError, SinkError
from patchloom.geometry.blend_weights import BlendWindow, check_blend
from patchloom.geometry.checks import spatial_tuple
from patchloom.geometry.padding import Padding, check_padding
from patchloom.geometry.tile_rule import Seams
from patchloom.local_paths import normalize_path
from patchloom.prediction.normalization.methods import NormalizationMethod, parse_normalization
from patchloom.prediction.normalization.normalization import Normalization
from patchloom.prediction.postprocessing import AsDtype, Postprocessing
from patchloom.prediction.postprocessing_text import parse_postprocessing
from patchloom.prediction.skip_rules import SkipDark, SkipRule, parse_skip_rule
from patchloom.sinks import SINK_SUFFIXES, OmeZarrVersion, Pyramid, check_pyramid, output_kind, zarr_format_of

PerAxis = int | tuple[int, ...]
"""One number for all spatial axes, or one for each, `(z,) y, x`."""


def per_axis(name: str, value: int | Sequence[int] | None, *, least: int) -> PerAxis | None:
    """Parse one number for all spatial axes, or one for each; None stays None.

    Parameters
    ----------
    name : str
        Name of the argument, for the message.
    value : int or sequence of int, optional
        What was given.
    least : int
        The smallest value allowed.

    Raises
    ------
    GeometryError, NotIntegerError
        If it is something else, or too small.

    Examples
    --------
    >>> per_axis("overlaps", 32, least=0), per_axis("overlaps", [8, 32, 32], least=0)
    (32, (8, 32, 32))
    """
    if value is None:
        return None
    if hasattr(value, "__index__") and not getattr(value, "ndim", 0):
        return whole_number(name, value, least=least, most=2**62)
    return spatial_tuple(name, value, least=least)  # type: ignore[arg-type]  # refuses anything else


def _parse_postprocessing(value: Any) -> Postprocessing | None:
    if value is None:
        return None
    parsed = parse_postprocessing(value) if isinstance(value, str) else value
    known: Postprocessing = instance(
        "postprocess", parsed, Postprocessing, "parse_postprocessing reads one from a text"
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
    "patch_size": partial(per_axis, "patch_size", least=1),
    "overlaps": partial(per_axis, "overlaps", least=0),
    "origin_multiple": partial(per_axis, "origin_multiple", least=1),
    "blend": lambda value: None if value is None else check_blend(value),
    "seams": lambda value: None if value is None else one_of("seams", value, get_args(Seams)),
    "padding": check_padding,
    "batch_size": lambda value: None if value is None else whole_number("batch_size", value, least=1, most=2**31),
    "normalize": parse_normalization,
    "skip": parse_skip_rule,
    "postprocess": _parse_postprocessing,
    "memory_limit": lambda value: None if value is None else _parse_memory_limit(value),
}
"""What turns each argument into its value, or refuses it."""


@dataclass(frozen=True, kw_only=True)
class PredictionRequest:
    """What is to be computed: the arguments of `plan`, parsed and checked.

    Equal requests, for the same images and the same model, are the same run.

    Examples
    --------
    >>> PredictionRequest.parse(patch_size=[64, 64], normalize="percentiles:1,99/channel").normalize
    Percentiles(lower=1.0, upper=99.0, per='channel')
    """

    patch_size: PerAxis | None = None
    overlaps: PerAxis | None = None
    origin_multiple: PerAxis | None = None
    blend: BlendWindow | None = None
    seams: Seams | None = None
    padding: Padding = "reflect"
    batch_size: int | None = None
    normalize: NormalizationMethod | tuple[Normalization, ...] | None = None
    skip: SkipRule | None = None
    postprocess: Postprocessing | None = None
    memory_limit: int | None = field(default=None, compare=False)

    @property
    def dtype(self) -> np.dtype[Any] | None:
        """Dtype to which predictions are converted, if nothing else is done to them."""
        step = self.postprocess
        return np.dtype(step.dtype) if isinstance(step, AsDtype) and step.scale == 1 else None

    @property
    def block_postprocess(self) -> Postprocessing | None:
        """What is done to finished blocks; None if predictions are at most converted to another dtype."""
        return None if self.dtype is not None else self.postprocess

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
        return cls(**{name: PARSERS[name](value) for name, value in arguments.items()})

    def to_dict(self) -> dict[str, Any]:
        """Return plain values that go to JSON; a rule or postprocessing of your own is represented by its `identity`."""
        plain = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        normalize, skip, postprocess = self.normalize, self.skip, self.postprocess
        if isinstance(normalize, tuple):
            plain["normalize"] = [measured.to_dict() for measured in normalize]
        elif normalize is not None:
            plain["normalize"] = str(normalize)
        plain["skip"] = None if skip is None else [skip.identity, skip.fill]
        plain["postprocess"] = None if postprocess is None else postprocess.identity
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
        if arguments["postprocess"] is not None and postprocess is not None:
            _check_same("postprocess", postprocess, arguments["postprocess"])
            arguments["postprocess"] = postprocess
        return cls.parse(**arguments)


def _check_same(name: str, given: SkipRule | Postprocessing | None, identity: str) -> None:
    if given is None or given.identity != identity:
        raise ArgumentError(
            f"the plan was made with {name} {shown(identity)}, and it is {shown(given)}: give the same {name} again"
        )


@dataclass(frozen=True, slots=True)
class OmeZarr:
    """An OME-Zarr to be written: `output` of `predict`, if a plain path is not enough.

    Parameters
    ----------
    path : str or Path
        A name ending in `.ome.zarr` or `.zarr`; for a series a folder, which gets one `.ome.zarr` for each image.
    version : {"0.5", "0.4"}
        0.5 is Zarr v3 with shards, 0.4 is Zarr v2.
    pyramid : {"auto", "mean", "mode", "nearest"} or None
        How a voxel of a lower level is made from 2 voxels along each axis: their mean, the most common of them (for labels)
        or the first. `"auto"` takes the mode of labels and the mean of intensities. Labels are the results of `argmax` and
        `threshold`, truth values, and integers that a model returns, unless these have 8 or 16 bits and the dtype of the
        batches it is given. If None, there are no lower levels.
    chunks : int or sequence of int, optional
        Size of a chunk in voxels, one number for all spatial axes or `(z,) y, x`. A chunk divides a block, so the nearest
        divisor is taken. By default 256 in 2D and 64 in 3D.

    Raises
    ------
    ArgumentError
        If an option is not one of those allowed.
    SinkError
        If the name is that of another kind of output.

    Examples
    --------
    >>> OmeZarr("cells.ome.zarr", pyramid="mode")
    OmeZarr(path='cells.ome.zarr', version='0.5', pyramid='mode', chunks=None)
    """

    path: str | Path
    version: OmeZarrVersion = "0.5"
    pyramid: Pyramid | None = "auto"
    chunks: PerAxis | None = None

    def __post_init__(self) -> None:
        path = normalize_path(file_path("path", self.path, error=SinkError))
        if str(path).lower().endswith(SINK_SUFFIXES) and not output_kind(path).resumable:
            raise SinkError(
                f"path is {str(path)!r}, which is not an OME-Zarr: take a name ending in .ome.zarr, or give the path alone as output"
            )
        zarr_format_of(self.version)
        check_pyramid(self.pyramid)
        object.__setattr__(self, "path", path)
        object.__setattr__(self, "chunks", per_axis("chunks", self.chunks, least=1))


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
    progress: bool = True
    report: Callable[[Sequence[Any]], None] | None = None

    @classmethod
    def parse(cls, *, output: Any = None, report: Any = None, **flags: Any) -> Self:
        """Parse and check arguments of `predict`; those left out have their defaults.

        Parameters
        ----------
        output, report, **flags
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
        return cls(report=report, **options)
