"""The network of a package, from weights in one of several formats."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

from numpy.typing import NDArray

from patchloom._optional import require
from patchloom.digests import text_digest
from patchloom.errors import ModelError, ModelOutputError
from patchloom.prediction.models.bioimageio.description import PackageDescription, Weights
from patchloom.prediction.models.bioimageio.package import Package, WeightsFormat, file_sha256
from patchloom.prediction.models.bioimageio.tensors import Tensor
from patchloom.prediction.models.devices import Precision, move_model
from patchloom.prediction.models.model import Model
from patchloom.prediction.models.onnx.onnx_model import OnnxModel
from patchloom.prediction.models.outputs import as_array, as_outputs
from patchloom.prediction.models.pytorch.pickled_file import read_pickled
from patchloom.prediction.models.pytorch.script_file import open_script
from patchloom.prediction.models.pytorch.torch_model import TorchModel
from patchloom.prediction.models.tensor_layout import TensorLayout

"""Formats of weights that are run, the preferred one first."""

_LETTERS = dict(zip("bczyx", "NCDHW", strict=True))


@dataclass(frozen=True)
class Network:
    """A network with the axes of its tensors, as a callable `(B, C, (Z), Y, X) -> arrays with the same axes`, one for each output.

    Parameters
    ----------
    model : callable
        The network. It takes tensors in the order of the package if `is_laid_out` is false, else batches.
    source : Tensor
        The input.
    outputs : tuple of Tensor
        The outputs.
    is_laid_out : bool
        Whether `model` orders the axes itself.
    digest : str
        Digest of weights and code.
    files : tuple of Path
        The files of the package that it was made of.
    """

    model: Model
    source: Tensor
    outputs: tuple[Tensor, ...]
    is_laid_out: bool
    digest: str
    files: tuple[Path, ...]

    def on(self, device: str | None, precision: Precision | None) -> Network:
        """Return the network on a device; see `RunsOnDevice`."""
        return replace(self, model=move_model(self.model, device, precision))

    def __call__(self, batch: NDArray[Any], /) -> list[NDArray[Any]]:
        """Run the network on a batch."""
        layout = layout_of(self.source)
        inserted = layout.n_dims == 3 and batch.ndim == 4
        whole = batch[:, :, None] if inserted else batch  # an axis z of size 1
        returned = as_outputs(self.model(whole if self.is_laid_out else layout.from_batch(whole)))
        if len(returned) < len(self.outputs):
            raise ModelOutputError(
                f"the network returned {len(returned)} output(s), and its package describes {len(self.outputs)}: export it again"
            )
        return [
            self._to_batch(as_array(array), tensor, batch.ndim)
            for array, tensor in zip(returned.values(), self.outputs, strict=False)
        ]

    def _to_batch(self, array: NDArray[Any], tensor: Tensor, n_axes: int) -> NDArray[Any]:
        layout = layout_of(tensor)
        if not self.is_laid_out:
            if array.ndim != len(layout.letters):
                raise ModelOutputError(
                    f"output {tensor.name!r} has shape {array.shape}, and its package describes the axes {', '.join(tensor.letters)}"
                )
            array = layout.to_batch(array)
        if array.ndim == n_axes:
            return array
        if array.ndim == n_axes + 1 and array.shape[2] == 1:
            return array[:, :, 0]
        raise ModelOutputError(f"output {tensor.name!r} has shape {array.shape}: it must have the axes of the input")


def layout_of(tensor: Tensor) -> TensorLayout:
    """Return the layout of a tensor.

    Parameters
    ----------
    tensor : Tensor
        An input or output.
    """
    return TensorLayout("".join(_LETTERS[letter] for letter in tensor.letters))


def open_network(
    package: Package, description: PackageDescription, wanted: WeightsFormat | None, *, trust: bool
) -> Network:
    """Open the network of a package.

    Parameters
    ----------
    package : Package
        The package.
    description : PackageDescription
        Its description.
    wanted : {"onnx", "torchscript", "pytorch_state_dict"}, optional
        The format of the weights. If None, the first of these that the package contains.
    trust : bool
        Whether code of the package is run.

    Raises
    ------
    ModelError
        If the package has no weights in such a format, they cannot be loaded, or code is needed and `trust` is false.
    MissingExtraError
        If onnxruntime or PyTorch is needed and not installed.
    """
    formats = [wanted] if wanted else get_args(WeightsFormat)
    entry = next((description.weights[name] for name in formats if name in description.weights), None)
    if entry is None:
        raise ModelError(
            f"{package.path} contains weights as {' and '.join(description.weights)}, and not as {' or '.join(formats)}: "
            f"{'leave weights (--weights) out' if wanted else 'get a package with such weights'}"
        )
    source = description.inputs[0]
    files = {"the file of weights": entry.source, "the file of external data": entry.external_data}
    files["the code of the network"] = entry.architecture
    paths = tuple(package.file(file.name, what, file.sha256) for what, file in files.items() if file is not None)
    digest = text_digest(" ".join([entry.format, *map(file_sha256, paths), entry.callable, repr(entry.arguments)]))
    if entry.format == "onnx":
        model: Model = _open_onnx(paths, entry, source, description.outputs, package)
    else:
        _check_torch_axes(source, package)
        model = TorchModel(_open_torch(package, entry, paths, trust=trust))
    return Network(model, source, description.outputs, entry.format == "onnx", digest, paths)


def _open_onnx(
    paths: Sequence[Path], entry: Weights, source: Tensor, outputs: Sequence[Tensor], package: Package
) -> OnnxModel:
    for output in outputs:
        if output.letters not in (source.letters, source.letters.replace("c", "")):
            raise ModelError(
                f"{package.path}: output {output.name!r} has the axes {', '.join(output.letters)}, and the input has "
                f"{', '.join(source.letters)}: ONNX networks must keep the order of the axes"
            )
    if entry.external_data is not None and paths[1].parent != paths[0].parent:
        raise ModelError(f"{package.path}: the external data of the network are in another folder than the network")
    name = f"{package.path}: {entry.source.name}"
    names = _output_names(paths[0])
    if names is not None and len(names) < len(outputs):
        raise ModelError(
            f"{name} has {len(names)} output(s), and the package describes {len(outputs)}: export it again"
        )
    # Outputs have the order of the network. Outputs that the package does not describe are left out.
    chosen = None if names is None else names[: len(outputs)]
    return OnnxModel(paths[0], layout=layout_of(source).letters, output=chosen, name=name)


def _output_names(path: Path) -> list[str] | None:
    """Return the names of the outputs of an ONNX network; None if it cannot be read; `OnnxModel` then raises the error."""
    onnx = require("onnx", extra="bioimageio")
    try:
        return [output.name for output in onnx.ModelProto.FromString(path.read_bytes()).graph.output]
    except Exception:  # noqa: BLE001  # of damaged files, Protocol Buffers raise any error
        return None


def _check_torch_axes(source: Tensor, package: Package) -> None:
    if len(source.letters) not in (4, 5):
        raise ModelError(
            f"{package.path}: input {source.name!r} has the axes {', '.join(source.letters)}: networks of PyTorch need b, c and the "
            "spatial axes"
        )


def _open_torch(package: Package, entry: Weights, paths: Sequence[Path], *, trust: bool) -> Any:
    if entry.format == "torchscript":
        try:
            return open_script(paths[0], trust=trust)
        except ModelError as error:
            raise ModelError(f"{package.path}: {error}") from error
    where = f"the file {entry.architecture.name}" if entry.architecture else f"the installed {entry.callable}"
    if not trust:
        raise ModelError(
            f"{package.path} has weights without a network, whose code is {where}: run it with trust=True (--trust) if you trust this "
            "code, or take a package with ONNX or TorchScript"
        )
    network = _call_architecture(package, entry, paths)
    try:
        network.load_state_dict(_read_state_dict(paths[0]), strict=entry.is_strict)
    except Exception as error:  # of a damaged file, any error
        raise ModelError(
            f"{package.path}: {entry.source.name} is not a state dict of this network, or it is damaged: {_one_line(error)}"
        ) from error
    return network.eval()


def _read_state_dict(path: Path) -> Mapping[str, Any]:
    if path.suffix == ".safetensors":
        loaded: Mapping[str, Any] = require("safetensors.torch", extra="torch").load_file(path)
        return loaded
    state: Mapping[str, Any] = read_pickled(path)
    return state


def _call_architecture(package: Package, entry: Weights, paths: Sequence[Path]) -> Any:
    """Run the code of the package that makes the network; it is trusted."""
    torch = require("torch", extra="torch")
    module_name, _, name = entry.callable.rpartition(".")
    try:
        module = _import_file(paths[-1]) if entry.architecture else importlib.import_module(module_name)
        network = getattr(module, name)(**entry.arguments)
    except Exception as error:  # code of the package may raise any error
        raise ModelError(
            f"{package.path}: the code {entry.callable} of its network fails ({type(error).__name__}: {error})"
        ) from error
    if not isinstance(network, torch.nn.Module):
        raise ModelError(f"{package.path}: {entry.callable} makes a {type(network).__name__}, not a torch.nn.Module")
    return network


def _import_file(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"patchloom_{path.stem}_{file_sha256(path)[:8]}", path)
    if spec is None or spec.loader is None:
        raise ModelError(f"{path.name} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
