"""Writing of packages of bioimage.io: the weights of a network, and the description of its input and output."""

from __future__ import annotations

import copy
import shutil
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchloom._optional import require
from patchloom.argument_checks import shown
from patchloom.axes import spatial_axes
from patchloom.errors import ArgumentTypeError, ModelError
from patchloom.prediction.models.bioimageio.networks import layout_of
from patchloom.prediction.models.bioimageio.package import file_sha256
from patchloom.prediction.models.bioimageio.tensors import Tensor, TensorAxis
from patchloom.prediction.models.model import Model
from patchloom.prediction.models.onnx.onnx_model import OnnxModel
from patchloom.prediction.models.outputs import OutputSpec
from patchloom.prediction.models.pytorch.torch_model import TorchModel

_LETTERS = dict(zip("NCDHW", "bczyx", strict=True))
_MOST_CHANNELS = 4096


@dataclass(frozen=True)
class WrittenWeights:
    """Weights that were written into the folder of a package."""

    format: str
    entry: Mapping[str, Any]
    """What the description contains of them."""
    letters: str
    """Axes of the network's tensors."""


@dataclass(frozen=True)
class SizeRule:
    """The sizes of one axis: `least`, and more by a multiple of `step`; only `least` if the step is 0."""

    least: int
    step: int


def write_weights(model: Model, folder: Path, batch: NDArray[Any]) -> WrittenWeights:
    """Write the weights of a model into a folder.

    Parameters
    ----------
    model : OnnxModel or TorchModel
        The model.
    folder : Path
        The folder.
    batch : array
        A batch that the network takes; a network that is not TorchScript is traced with it.

    Raises
    ------
    ArgumentTypeError
        If it is another kind of model.
    ModelError
        If its weights cannot be written.
    """
    if isinstance(model, OnnxModel):
        return _write_onnx(model, folder)
    if isinstance(model, TorchModel):
        return _write_torch(model, folder, batch)
    raise ArgumentTypeError(
        f"model is {shown(model)}: only an OnnxModel of a file, or a TorchModel or torch.nn.Module, can be written as a package"
    )


def _write_onnx(model: OnnxModel, folder: Path) -> WrittenWeights:
    if not model.files:
        raise ModelError("the network was given as bytes: write it to a file, and load that file")
    onnx = require("onnx", extra="bioimageio")
    source, *external = model.files
    if len(external) > 1:
        raise ModelError(f"{source} has its weights in {len(external)} files: save it with one file of external data")
    shutil.copyfile(source, folder / source.name)
    graph = onnx.load(str(source), load_external_data=False)
    versions = [opset.version for opset in graph.opset_import if opset.domain in {"", "ai.onnx"}]
    entry = file_entry(folder / source.name) | {"opset_version": max(versions, default=1)}
    for file in external:
        shutil.copyfile(file, folder / file.name)
        entry["external_data"] = file_entry(folder / file.name)
    return WrittenWeights("onnx", entry, "".join(_LETTERS[letter] for letter in model.layout.letters))


def _write_torch(model: TorchModel, folder: Path, batch: NDArray[Any]) -> WrittenWeights:
    torch = require("torch", extra="torch")
    path = folder / "network.pt"
    try:
        with warnings.catch_warnings(), torch.inference_mode():
            warnings.simplefilter(
                "ignore"
            )  # PyTorch calls the format deprecated, and warns of every comparison of sizes
            network = copy.deepcopy(model.module).to("cpu").eval()
            if not isinstance(network, torch.jit.ScriptModule):
                weight = next(iter(network.parameters()), torch.empty(0))
                network = torch.jit.trace(network, torch.from_numpy(batch).to(weight.dtype), check_trace=False)
            network.save(str(path))
    except Exception as error:  # of code of the network, any error
        raise ModelError(
            f"the network cannot be written as TorchScript ({type(error).__name__}: {' '.join(str(error).split())[:300]}): write it as "
            "ONNX, and load that file"
        ) from error
    version = str(torch.__version__).partition("+")[0]
    letters = "bc" + "".join(spatial_axes(batch.ndim - 2)).lower()
    return WrittenWeights("torchscript", file_entry(path) | {"pytorch_version": version}, letters)


def file_entry(path: Path) -> dict[str, Any]:
    """Describe a file of a package.

    Parameters
    ----------
    path : Path
        The file, in the folder of the package.
    """
    return {"source": path.name, "sha256": file_sha256(path)}


def describe_input(
    letters: str, sizes: Sequence[SizeRule], channels: Sequence[str], pixel_size: Sequence[float] | None
) -> list[dict[str, Any]]:
    """Describe the axes of an input.

    Parameters
    ----------
    letters : str
        The axes.
    sizes : sequence of SizeRule
        Sizes of the spatial axes, `(z,) y, x`.
    channels : sequence of str
        Names of the channels.
    pixel_size : sequence of float, optional
        Size of a voxel in micrometers, `(z,) y, x`.
    """
    spatial = [letter for letter in "zyx" if letter in letters]
    axes = []
    for letter in letters:
        if letter not in spatial:
            axes.append(_other_axis(letter, channels))
            continue
        index = spatial.index(letter)
        rule = sizes[index]
        size = {"min": rule.least, "step": rule.step} if rule.step else rule.least
        axes.append({"type": "space", "id": letter, "size": size} | _unit(pixel_size, index))
    return axes


def describe_output(
    letters: str,
    spec: OutputSpec,
    overlaps: Sequence[int],
    channels: Sequence[str],
    pixel_size: Sequence[float] | None,
) -> list[dict[str, Any]]:
    """Describe the axes of an output by those of the input.

    Parameters
    ----------
    letters : str
        The axes.
    spec : OutputSpec
        Scale and margin.
    overlaps : sequence of int
        Voxels of the input that tiles share, `(z,) y, x`; what of them is not the margin is twice the halo.
    channels : sequence of str
        Names of the channels.
    pixel_size : sequence of float, optional
        Size of a voxel of the input in micrometers, `(z,) y, x`.
    """
    spatial = [letter for letter in "zyx" if letter in letters]
    axes = []
    for letter in letters:
        if letter not in spatial:
            axes.append(_other_axis(letter, channels))
            continue
        index = spatial.index(letter)
        factor, margin = spec.scale[index], spec.margin[index]
        reference: dict[str, Any] = {"tensor_id": "input", "axis_id": letter}
        if margin:
            reference["offset"] = -int(2 * margin * factor)
        axis: dict[str, Any] = {"type": "space", "id": letter, "size": reference}
        halo = max(0, ceil((Fraction(overlaps[index], 2) - margin) * factor))
        if halo:
            axis["halo"] = -(-halo // factor.numerator) * factor.numerator  # a whole number of voxels of the input
        axes.append(axis | _unit(pixel_size, index, factor))
    return axes


def _other_axis(letter: str, channels: Sequence[str]) -> dict[str, Any]:
    return {"type": "batch"} if letter == "b" else {"type": "channel", "channel_names": list(channels)}


def _unit(pixel_size: Sequence[float] | None, index: int, factor: Fraction = Fraction(1)) -> dict[str, Any]:
    if pixel_size is None:
        return {} if factor == 1 else {"scale": float(1 / factor)}
    return {"unit": "micrometer", "scale": float(pixel_size[index] / factor)}


def check_channels(name: str, names: Sequence[str], n_channels: int, default: str) -> list[str]:
    """Return the names of channels, or make some.

    Raises
    ------
    ModelError
        If there are not as many names as channels.
    """
    if not names:
        return [f"{default}{index}" for index in range(min(n_channels, _MOST_CHANNELS))]
    if len(names) != n_channels:
        raise ModelError(f"{name} has {len(names)} names, and there are {n_channels} channels: give one for each")
    return list(names)


def save_tensor(batch: NDArray[Any], letters: str, path: Path) -> dict[str, Any]:
    """Write a batch as a test tensor with the axes of a network, and describe the file."""
    layout = layout_of(Tensor("", tuple(map(TensorAxis, letters))))
    np.save(path, np.ascontiguousarray(layout.from_batch(batch)), allow_pickle=False)
    return file_entry(path)


def describe_statistic(normalize: Any, letters: str) -> list[dict[str, Any]]:
    """Return the preprocessing that measures a statistic of an image.

    Parameters
    ----------
    normalize : MeanStd or Percentiles, or None
        The method. An image of bioimage.io is one sample, so the axis of samples is never measured over.
    letters : str
        Axes of the input.
    """
    if normalize is None:
        return []
    by_channel = normalize.per in {"channel", "sample_channel"}
    names = {"c": "channel"}
    axes = [names.get(letter, letter) for letter in letters if letter != "b" and not (letter == "c" and by_channel)]
    settings: dict[str, Any] = {"axes": axes, "eps": normalize.eps or 1e-6}
    if hasattr(normalize, "lower"):
        settings |= {"min_percentile": normalize.lower, "max_percentile": normalize.upper}
        return [{"id": "scale_range", "kwargs": settings}]
    return [{"id": "zero_mean_unit_variance", "kwargs": settings}]
