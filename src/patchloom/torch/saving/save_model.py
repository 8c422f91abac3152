"""Save a network with what prediction needs, in one file that `load_model` reads."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from torch import nn

from patchloom.argument_checks import flag, instance, instances, shown
from patchloom.axes import spatial_axes
from patchloom.errors import ArgumentError, GeometryError
from patchloom.geometry.checks import one_per_axis
from patchloom.prediction.image_selection import parse_sizes
from patchloom.prediction.models.callables import names_callable
from patchloom.prediction.models.model import ModelDescription
from patchloom.prediction.models.pytorch.saved_network import SavedDescription
from patchloom.prediction.normalization.methods import NormalizationMethod, parse_method
from patchloom.torch.datasets.microsplit_dataset import MicroSplitDataset
from patchloom.torch.datasets.patch_dataset import PatchDataset
from patchloom.torch.saving.network_parts import LateralContextTiles, with_fixed_normalization
from patchloom.torch.saving.program_export import export_program
from patchloom.torch.saving.saved_files import PROGRAM, check_path, code_versions, write_program, write_weights
from patchloom.torch.saving.size_rule import find_size_rule
from patchloom.torch.saving.training_facts import HowNormalized, TrainingFacts


def save_model(
    path: str | Path,
    network: nn.Module,
    dataset: PatchDataset | MicroSplitDataset,
    *,
    normalize: str | NormalizationMethod | None = None,
    denormalize: bool = False,
    patch_size: int | Sequence[int] | None = None,
    overlaps: int | Sequence[int] | None = None,
    origin_multiple: int | Sequence[int] | None = None,
    voxel_size: float | Sequence[float] | None = None,
    out_channel_names: Sequence[str] = (),
    factory: str | None = None,
    arguments: Mapping[str, Any] | None = None,
    code_version: str = "",
) -> Path:
    """Save a network with what prediction needs, in one file that `load_model` reads.

    A `.pt2` contains the network as a program of `torch.export`: it needs no code of yours to be loaded. A `.pt` contains weights,
    and the name of the function that makes the network: for networks that cannot be exported. Channels, normalization, voxel
    size and number of axes are taken from the dataset, and the tile sizes that the network accepts are found by trying. Nothing
    in the file is unpickled as code. The network is not changed: a copy of it is saved in evaluation mode.

    Parameters
    ----------
    path : str or Path
        The file, `.pt2` or `.pt`. A file that this function wrote is replaced; another one is not.
    network : Module
        The trained network; it takes inputs as the dataset returns them.
    dataset : PatchDataset or MicroSplitDataset
        The dataset that it was trained on. If each of its images was normalized by its own statistics
        (`measure_normalization`), `load_model` measures each image that is predicted; fixed numbers become a part of the
        network.
    normalize : MeanStd, Percentiles or str, optional
        How images were normalized, if not by the dataset, such as by its transform; see `predict`.
    denormalize : bool, default False
        Whether predictions are gray values once the normalization of the targets is undone (of the inputs, without targets).
        If each target was normalized by its own statistics, those of the image that is predicted are used.
    patch_size : int or sequence of int, optional
        The only tile size to predict with, in voxels: one number, or `(z,) y, x`. If None, any that the network accepts, and
        the size of the patches if it accepts no other.
    overlaps : int or sequence of int, optional
        Voxels that neighboring tiles share; see `predict`. If None, a quarter of the tile.
    origin_multiple : int or sequence of int, optional
        Stride of the network, in voxels; see `predict`. If None, the step between tile sizes that it accepts.
    voxel_size : float or sequence of float, optional
        Size of a voxel in micrometers: one number, or `(z,) y, x`. If None, as the metadata of the dataset's images declare.
    out_channel_names : sequence of str
        Names of the channels of the output.
    factory : str, optional
        Function or class that makes the network, as `module:name`; required for a `.pt`.
    arguments : mapping of str to object, optional
        Keyword arguments of the factory: numbers, texts, truth values, None, and lists or mappings of these.
    code_version : str
        Version of your own code, such as a commit; stored for people.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    ArgumentError
        If an argument does not fit, or the dataset's normalization cannot be applied to other images.
    ModelError
        If the network cannot be exported.
    SinkError
        If the file cannot be written, or was not written by this function.

    Examples
    --------
    >>> import numpy as np
    >>> import patchloom as pl
    >>> from patchloom.torch import PatchDataset, save_model
    >>> images = pl.open_stacks(np.random.default_rng(0).poisson(50, (200, 200)).astype(np.uint16), axes="YX")
    >>> patching = pl.StratifiedPatching([image.data_shape for image in images], patch_size=(32, 32))
    >>> measured = [pl.measure_normalization(image) for image in images]
    >>> dataset = PatchDataset(images, patching, normalization=measured)
    >>> network = nn.Conv2d(1, 1, 3, padding=1)
    >>> save_model("denoiser.pt2", network, dataset, denormalize=True)
    PosixPath('denoiser.pt2')
    >>> model = pl.load_model("denoiser.pt2")
    >>> model.description.normalize, model.description.denormalize, model.description.size_step
    ('mean_std', True, (1, 1))
    """
    place = check_path(path)
    saved = _checked_code(place, factory, arguments)
    facts = TrainingFacts.of(dataset)
    inputs = facts.inputs if normalize is None else HowNormalized(str(parse_method("normalize", normalize)))
    undone = _normalization_to_undo(inputs, facts.targets) if flag("denormalize", denormalize) else HowNormalized()
    tile = facts.patch_size if patch_size is None else _per_axis("patch_size", patch_size, facts, least=1)
    whole = _Whole.of(instance("network", network, nn.Module), facts, inputs, undone, tile)

    sizes = _declared_sizes(whole, facts, overlaps, origin_multiple, is_fixed=patch_size is not None)
    names = instances("out_channel_names", out_channel_names, str, "a sequence of texts, one for each output channel")
    description = ModelDescription(
        **sizes,
        **whole.outputs(),
        in_channels=whole.in_channels,
        out_channel_names=tuple(names),
        normalize=inputs.method or None,
        denormalize=bool(undone.method),
        pixel_size=_voxel_size(voxel_size, facts),
    )
    instance("code_version", code_version, str)
    known = {"axes": spatial_axes(len(tile)), "channels": facts.channels, "channel_names": facts.channel_names}
    training = {**known, "patch_size": facts.patch_size, "code_version": code_version, **code_versions()}
    saved = replace(saved, model=description, training=training)
    if place.suffix.lower() == PROGRAM:
        program, exported = export_program(whole.network, whole.in_channels, whole.tile, description)
        write_program(place, program, replace(saved, model=exported))
    elif whole.is_bare:
        write_weights(place, whole.network, saved)
    else:
        raise ArgumentError(
            f"path is {place}, and the network needs parts around it (fixed normalization or lateral context), which weights alone "
            "do not contain: save a program, with the suffix .pt2"
        )
    return place


def _checked_code(path: Path, factory: str | None, arguments: Mapping[str, Any] | None) -> SavedDescription:
    """Return how the network is made; what has no effect is refused.

    Raises
    ------
    ArgumentError
        If weights are saved alone, or a program with a function that makes the network.
    """
    for name, value in (("factory", factory), ("arguments", arguments)):
        if path.suffix.lower() == PROGRAM and value is not None:
            raise ArgumentError(
                f"{name} is {shown(value)}, and path is {str(path)!r}, a program, which needs no code: leave {name} out"
            )
    if path.suffix.lower() == PROGRAM:
        return SavedDescription(ModelDescription())
    if factory is None:
        raise ArgumentError(
            f"path is {str(path)!r}, and weights alone do not make a network: give factory='module:name', the function or class that makes "
            f"it, or save a program, {path.with_suffix(PROGRAM).name}"
        )
    if not names_callable(instance("factory", factory, str, "such as 'package.module:Network'")):
        raise ArgumentError(f"factory is {factory!r}: it must be module:name or path/to/file.py:name")
    given = (
        {} if arguments is None else instance("arguments", arguments, Mapping, "give values by the names of arguments")
    )
    saved = SavedDescription(ModelDescription(), factory=factory, arguments=dict(given))
    if any(not isinstance(name, str) for name in given):
        raise ArgumentError(f"arguments is {shown(arguments)}: its keys must be the names of arguments")
    saved.to_json()  # raises for values that are not plain
    return saved


@dataclass(frozen=True, slots=True)
class _Whole:
    """A copy of a network in evaluation mode, with the parts around it that prediction needs."""

    network: nn.Module
    in_channels: int
    tile: tuple[int, ...]
    """A tile size that it accepts, `(z,) y, x`, in voxels."""
    margin: tuple[int, ...]
    """What the output lacks of a tile along each axis, in voxels: the lateral context."""
    is_bare: bool
    """Whether there are no parts around the network."""

    @classmethod
    def of(
        cls,
        network: nn.Module,
        facts: TrainingFacts,
        inputs: HowNormalized,
        undone: HowNormalized,
        patch: tuple[int, ...],
    ) -> _Whole:
        plain: nn.Module = copy.deepcopy(getattr(network, "_orig_mod", network))  # what torch.compile was given
        plain = plain.cpu().eval()
        n_dims, tile, in_channels = len(patch), patch, facts.in_channels
        inner = plain
        if facts.n_scales > 1:
            inner, in_channels = LateralContextTiles(plain, facts.n_scales, patch), 1
            tile = tuple(size * 2 ** (facts.n_scales - 1) for size in patch)
        whole = with_fixed_normalization(inner, inputs, undone, n_dims).eval()
        margin = tuple(size - kept for size, kept in zip(tile, patch, strict=True))
        return cls(whole, in_channels, tile, margin, is_bare=whole is plain)

    def outputs(self) -> dict[str, Any]:
        """Run the network on one tile, and return what it makes of it.

        Raises
        ------
        ArgumentError
            If it fails.
        """
        tile = torch.zeros(1, self.in_channels, *self.tile)
        try:
            with torch.no_grad():
                output = self.network(tile)
        except Exception as error:  # networks raise errors of any type
            raise ArgumentError(
                f"network fails for an input of shape {tuple(tile.shape)} ({type(error).__name__}: {error}): give the dataset that it "
                "was trained on, or another patch_size"
            ) from error
        if not isinstance(output, torch.Tensor) or output.ndim != tile.ndim:
            return {}
        if any(self.margin):  # which is inferred by running the network
            return {"out_channels": output.shape[1], "scale": (Fraction(1),) * len(self.tile)}
        return {"out_channels": output.shape[1], "out_dtype": str(output.numpy().dtype)}


def _per_axis(name: str, value: int | Sequence[int], facts: TrainingFacts, least: int) -> tuple[int, ...]:
    return one_per_axis(name, value, len(facts.patch_size), least=least)


def _voxel_size(value: Any, facts: TrainingFacts) -> tuple[float, ...] | None:
    size, n_dims = parse_sizes("voxel_size", value), len(facts.patch_size)
    if size is None:
        return facts.voxel_size
    sizes = size if isinstance(size, tuple) else (size,) * n_dims
    if len(sizes) != n_dims:
        raise GeometryError(f"voxel_size is {shown(value)}: give one number, or one for each of {spatial_axes(n_dims)}")
    return sizes


def _declared_sizes(
    whole: _Whole,
    facts: TrainingFacts,
    overlaps: int | Sequence[int] | None,
    origin_multiple: int | Sequence[int] | None,
    *,
    is_fixed: bool,
) -> dict[str, Any]:
    """Return what is declared of the sizes of tiles."""
    shared = None if overlaps is None else _per_axis("overlaps", overlaps, facts, least=0)
    multiple = None if origin_multiple is None else _per_axis("origin_multiple", origin_multiple, facts, least=1)
    if any(whole.margin):
        patch = [size - lost for size, lost in zip(whole.tile, whole.margin, strict=True)]
        shared = shared or tuple(size // 4 for size in patch)
        shared = tuple(own + lost for own, lost in zip(shared, whole.margin, strict=True))
        return {"patch_size": whole.tile, "overlaps": shared, "origin_multiple": multiple}
    rule = None if is_fixed else find_size_rule(whole.network, whole.in_channels, whole.tile)
    if rule is None:
        return {"patch_size": whole.tile, "overlaps": shared, "origin_multiple": multiple}
    return {**rule._asdict(), "overlaps": shared, "origin_multiple": multiple or rule.size_step}


def _normalization_to_undo(inputs: HowNormalized, targets: HowNormalized | None) -> HowNormalized:
    """Return how predictions are normalized, if it can be undone.

    Raises
    ------
    GeometryError
        If they are not normalized, or by statistics that are not known in prediction.
    """
    normalized = inputs if targets is None else targets
    if not normalized.method and not normalized.scale:
        what = "inputs" if targets is None else "targets"
        raise GeometryError(f"denormalize is True, and the {what} of the dataset are not normalized: leave it out")
    if normalized.method and normalized.method != inputs.method:
        raise GeometryError(
            f"denormalize is True, and targets were normalized by {normalized.method}, but inputs by {inputs.method or 'nothing'}: "
            "predictions are denormalized by the statistics of the inputs, so measure both by the same method, or leave it out"
        )
    return normalized
