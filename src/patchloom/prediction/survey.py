"""What has to be looked at before a prediction is planned: its images, what the model declares, and free memory.

A survey contains facts, not images: it pickles, goes to JSON and back, and is stored in the ledger of a run, so that a resumed
run measures and infers nothing again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Any, Self

import numpy as np

from patchloom.argument_checks import shown, whole_number
from patchloom.axes import spatial_axes
from patchloom.errors import GeometryError, SourceChangedError, SourceNotFoundError
from patchloom.geometry.checks import PerAxis, series_shapes
from patchloom.image_stacks import (
    ImageStack,
    as_planes,
    check_series,
    open_stacks,
    opened_stack,
)
from patchloom.prediction.free_memory import default_memory_limit
from patchloom.prediction.image_region import region_ranges
from patchloom.prediction.image_selection import Channels, channel_indices, choose_channels, metadata_of
from patchloom.prediction.models.model import ModelDescription
from patchloom.prediction.models.outputs import OutputSpec
from patchloom.prediction.network_pixels import network_pixels
from patchloom.prediction.normalization.measuring import check_measurable
from patchloom.prediction.normalization.normalization import Normalization
from patchloom.prediction.plain_data import parse_fields
from patchloom.prediction.request import PredictionRequest
from patchloom.prediction.stack_facts import StackFacts


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """What was found out before planning; made by `survey_images`."""

    stacks: tuple[StackFacts, ...]
    """The series as the model is run on it."""

    masks: tuple[StackFacts, ...]
    """Images that the skip rule reads."""

    is_series: bool
    """Whether the sources are a series, even of a single image."""

    model: ModelDescription
    """What the model declares."""

    memory_limit: int
    """Bytes that the run may take."""

    outputs: tuple[tuple[OutputSpec, ...], ...] = ()
    """For each image, what the model makes of a tile, declared or inferred; empty while that is not known."""

    pixel_steps: tuple[Fraction, ...] | None = None
    """Voxels of the image for one pixel of the network, `(z,) y, x`, if the tiles are resampled for it."""

    normalizations: tuple[Normalization, ...] = ()
    """For each image, what was measured or given; empty while nothing is measured, or gray values are left as they are."""

    chosen: str = ""
    """What was chosen of the tiles by probing the model, and why; empty if it was not probed."""

    @property
    def n_dims(self) -> int:
        """Number of spatial axes of the tiles."""
        return len(self.stacks[0].data_shape) - 2

    def to_dict(self) -> dict[str, Any]:
        """Return plain values that go to JSON."""
        return {
            "stacks": [facts.to_dict() for facts in self.stacks],
            "masks": [facts.to_dict() for facts in self.masks],
            "is_series": self.is_series,
            "model": asdict(self.model) | {"scale": self.model.scale and list(map(str, self.model.scale))},
            "memory_limit": self.memory_limit,
            "pixel_steps": self.pixel_steps and list(map(str, self.pixel_steps)),
            "outputs": [[spec.to_dict() for spec in of_image] for of_image in self.outputs],
            "normalizations": [measured.to_dict() for measured in self.normalizations],
            "chosen": self.chosen,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Return the survey that `to_dict` was made of, before or after JSON.

        Raises
        ------
        TypeError, ValueError, ArithmeticError
            If it is something else, or its parts contradict each other.
        """
        survey = cls(**parse_fields(cls, values))
        whole_number("memory_limit", survey.memory_limit, least=1)
        series_shapes([facts.data_shape for facts in survey.stacks], survey.n_dims)
        for facts, outputs in zip(survey.stacks, survey.outputs, strict=True) if survey.outputs else ():
            if not outputs or any(len(spec.scale) != survey.n_dims for spec in outputs):
                raise ValueError(f"the outputs for {facts.source} are not {survey.n_dims}D")
        if survey.pixel_steps is not None and not (
            len(survey.pixel_steps) == survey.n_dims and min(survey.pixel_steps) > 0
        ):
            raise ValueError(f"pixel_steps is {survey.pixel_steps}: it must be a positive ratio for each axis")
        if survey.normalizations:
            _check_normalizations(survey.normalizations, [(facts.source, facts.image_shape) for facts in survey.stacks])
        return survey


def survey_images(
    images: Sequence[ImageStack],
    request: PredictionRequest,
    model: ModelDescription,
    *,
    is_series: bool = True,
    states: Sequence[str] | None = None,
) -> tuple[Survey, list[ImageStack]]:
    """Find out what planning needs, without reading a pixel.

    Parameters
    ----------
    images : sequence of ImageStack
        The images.
    request : PredictionRequest
        What was asked for.
    model : ModelDescription
        What the model declares.
    is_series : bool
        Whether the sources are a series.
    states : sequence of str, optional
        For each image, and each that the skip rule reads, its `"quick"` fingerprint, if that is known already.

    Returns
    -------
    survey : Survey
        The facts.
    stacks : list of ImageStack
        What the model is run on: for a 2D model, the Z slices of 3D images are samples.

    Raises
    ------
    ArgumentError
        If the images do not fit together, or the request does not fit the images or the model.
    SourceError
        If an image is to be normalized and has a dtype that cannot be.
    """
    chosen = choose_channels(images, request.channels)
    stacks = stacks_for_network(chosen, request.patch_size, model)
    check_series(stacks)
    check_channels(stacks, model, request.channels)
    if request.skip is not None:
        request.skip.check(chosen)
    given = _given_normalizations(request, images)
    if request.normalize is not None and not given:
        for image in images:
            check_measurable(image)
    masks = () if request.skip is None else request.skip.images
    known: Sequence[str | None] = states or [None] * (len(stacks) + len(masks))
    regions = [_region_of(image, request) for image in images]
    facts = tuple(map(StackFacts.of, [*stacks, *masks], known, [*regions, *(None for _ in masks)]))
    survey = Survey(
        stacks=facts[: len(stacks)],
        masks=facts[len(stacks) :],
        is_series=is_series,
        model=model,
        memory_limit=default_memory_limit() if request.memory_limit is None else request.memory_limit,
        pixel_steps=network_pixels(stacks, request, model),
        outputs=_declared_outputs(model, len(stacks)),
        normalizations=given,
    )
    return survey, stacks


def _region_of(image: ImageStack, request: PredictionRequest) -> dict[str, tuple[int, int]] | None:
    """Return the region of an image that is predicted, in voxels; None for the whole image."""
    if request.region is None and request.voxel_size is None:
        return None
    metadata = metadata_of(image, request.voxel_size)  # checks voxel_size, too
    return None if request.region is None else region_ranges(request.region, image, metadata)


def _declared_outputs(model: ModelDescription, n_images: int) -> tuple[tuple[OutputSpec, ...], ...]:
    """Return the outputs for each image if the model declares all about them."""
    if model.out_channels is None or model.out_dtype is None or model.scale is None:
        return ()
    spec = OutputSpec(model.out_channels, np.dtype(model.out_dtype), model.scale, (0,) * len(model.scale))
    return ((spec,),) * n_images


def _given_normalizations(request: PredictionRequest, images: Sequence[ImageStack]) -> tuple[Normalization, ...]:
    """Return normalizations that were measured before, of the channels that are chosen; empty if none are given."""
    if not isinstance(request.normalize, tuple):
        return ()
    given = [(str(image.source), image.data_shape) for image in images]
    _check_normalizations(request.normalize, given)
    if request.channels is None:
        return request.normalize
    return tuple(
        measured.of_channels(channel_indices(image, request.channels))
        for measured, image in zip(request.normalize, images, strict=True)
    )


def _check_normalizations(given: Sequence[Normalization], images: Sequence[tuple[str, Sequence[int]]]) -> None:
    """Check that normalizations fit images, of which source and shape, `SC(Z)YX`, are given."""
    if len(given) != len(images):
        raise GeometryError(f"normalize has {len(given)} entries and there are {len(images)} images: give one for each")
    for measured, (source, image_shape) in zip(given, images, strict=True):
        shape = (len(measured.scale), len(measured.scale[0]))
        if shape != tuple(image_shape[:2]):
            raise GeometryError(
                f"normalize is of {shape[0]} samples and {shape[1]} channels, and {source} has {image_shape[0]} and "
                f"{image_shape[1]}: measure this image"
            )


def stacks_for_network(
    stacks: Sequence[ImageStack], patch_size: PerAxis | None, description: ModelDescription
) -> list[ImageStack]:
    """Return the stacks that a network is run on: 3D images slice by slice, if it is 2D.

    A network is 2D where it declares that, or where `patch_size` has two numbers.

    Parameters
    ----------
    stacks : sequence of ImageStack
        The images, 2D and 3D mixed.
    patch_size : int or tuple of int, optional
        As in `predict`.
    description : ModelDescription
        What the model declares.

    Raises
    ------
    GeometryError
        If `patch_size` and the model contradict each other, or a network is 3D and an image is not.

    Examples
    --------
    >>> import numpy as np
    >>> from patchloom.image_stacks import ArrayStack
    >>> image = ArrayStack(np.zeros((9, 64, 48)), axes="ZYX")
    >>> [stack.data_shape for stack in stacks_for_network([image], (32, 32), ModelDescription())]
    [(9, 1, 64, 48)]
    """
    n_dims = _network_dims(patch_size, description)
    if n_dims == 2:
        return [as_planes(stack) for stack in stacks]
    for stack in stacks:
        if n_dims is not None and len(stack.data_shape) - 2 != n_dims:
            given = isinstance(patch_size, tuple)
            wanted = f"patch_size is {patch_size}, so the model is 3D" if given else "the model is 3D"
            raise GeometryError(
                f"{wanted}, but {stack.source} has axes {stack.original_axes} without Z: give an image with Z, or use "
                "a 2D model and two numbers in patch_size"
            )
    return list(stacks)


def _network_dims(patch_size: PerAxis | None, description: ModelDescription) -> int | None:
    """Return whether a network is 2D or 3D; None if neither it nor `patch_size` decides."""
    declared = description.n_dims
    if not isinstance(patch_size, tuple):
        return declared
    if declared not in (None, len(patch_size)):
        raise GeometryError(
            f"patch_size is {patch_size}, which has {len(patch_size)} numbers, but the model is {declared}D: give one number "
            f"for each of {', '.join(spatial_axes(declared))}"
        )
    return len(patch_size)


def check_channels(stacks: Sequence[ImageStack], description: ModelDescription, chosen: Channels | None = None) -> None:
    """Check that the images have as many channels as the model takes.

    Parameters
    ----------
    stacks : sequence of ImageStack
        The images, with the channels that are chosen.
    description : ModelDescription
        What the model declares.
    chosen : tuple of int or str, optional
        The argument `channels`, for the message.

    Raises
    ------
    GeometryError
        If they do not.
    """
    channels = int(stacks[0].data_shape[1])
    if description.in_channels not in (None, channels):
        of_images = f"{stacks[0].source} has {channels}" if chosen is None else f"channels chooses {channels}"
        example = [place % int(opened_stack(stacks[0]).data_shape[1]) for place in range(description.in_channels)]
        raise GeometryError(
            f"the model takes {description.in_channels} channel{'s'[: description.in_channels != 1]}, but {of_images}: choose as many with channels= (--channels), "
            f"such as channels={shown(example)}"
        )


def open_again(survey: Survey, sources: Any = None) -> list[ImageStack]:
    """Open the images of a survey again.

    Parameters
    ----------
    survey : Survey
        The facts about them.
    sources : as in `predict`, optional
        The same images, if they are not files; they may lie elsewhere. If None, they are opened by their names.

    Raises
    ------
    SourceNotFoundError
        If an image is not a file, or is gone.
    SourceChangedError
        If an image is another one now.
    """
    if sources is None:
        unnamed = [facts.source for facts in survey.stacks if facts.place is None]
        if unnamed:
            raise SourceNotFoundError(
                f"the plan is for {unnamed[0]!r}, which is not a file: give the same images to run(..., sources=...)"
            )
        images = open_stacks(
            [facts.place for facts in survey.stacks if facts.place], [facts.original_axes for facts in survey.stacks]
        )
    else:
        images = open_stacks(sources, _axes_for(sources, survey))
    if len(images) != len(survey.stacks):
        raise SourceChangedError(
            f"the plan is for {len(survey.stacks)} images, and there are {len(images)}: plan again"
        )
    for image, planned in zip(images, survey.stacks, strict=True):
        now = StackFacts.of(as_planes(image) if planned.n_planes else image)
        if now.identity[1:] != planned.identity[1:] or _without_channels(now) != _without_channels(planned):
            raise SourceChangedError(
                f"{image.source} is {now.identity[1:]}, and was {planned.identity[1:]}: plan again"
            )
        if sources is None and now.state != planned.state:
            raise SourceChangedError(f"{image.source} has changed on disk since the run was planned: plan again")
    return images


def _without_channels(facts: StackFacts) -> tuple[int, ...]:
    """Return the shape of an image without its channels, of which a plan may use some."""
    return (facts.data_shape[0], *facts.data_shape[2:])


def _axes_for(sources: Any, survey: Survey) -> Any:
    """Return the axes of sources that are given again, as `open_stacks` takes them."""
    axes = [facts.original_axes for facts in survey.stacks]
    if isinstance(sources, (list, tuple)) and len(sources) == len(axes):
        return axes
    return axes[0] if len(set(axes)) == 1 else None
