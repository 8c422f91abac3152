"""Networks in packages of bioimage.io, with the processing that these describe."""

from __future__ import annotations

import copy
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from patchloom.argument_checks import file_path, flag, instance, one_of
from patchloom.errors import ModelError
from patchloom.local_paths import normalize_path
from patchloom.prediction.models.bioimageio.description import PackageDescription, read_description
from patchloom.prediction.models.bioimageio.networks import layout_of, open_network
from patchloom.prediction.models.bioimageio.package import Package, WeightsFormat
from patchloom.prediction.models.bioimageio.processing import (
    final_dtype,
    prepare_postprocessing,
    prepare_preprocessing,
)
from patchloom.prediction.models.bioimageio.sizes import check_tile, describe_sizes
from patchloom.prediction.models.bioimageio.tensors import FileReference, Tensor
from patchloom.prediction.models.devices import Precision, check_precision, parse_devices
from patchloom.prediction.models.expected_outputs import ExpectedOutputs
from patchloom.prediction.models.model import ModelDescription, check_batch


class BioimageioModel:
    """A network in a package of bioimage.io, as a callable `(B, C, (Z), Y, X) -> (B, C', (Z), Y, X)`.

    The description of the package is applied: its sizes, halo, axes and channels, and its pre- and postprocessing. Statistics of
    images (`zero_mean_unit_variance`, `scale_range`) are measured over whole images by the run, never over tiles:
    `description.normalize` declares them, and the model gets tiles that are normalized already. All other steps run on tiles.

    Parameters
    ----------
    path : path
        A folder, a `.zip` file, or the `rdf.yaml` or `bioimageio.yaml` of a folder; of format 0.4 or 0.5.
    weights : {"onnx", "torchscript", "pytorch_state_dict"}, optional
        The format of the weights that are used. If None, the first of these that the package contains.
    trust : bool
        Whether code of the package is run, which weights of the format `pytorch_state_dict` need.
    device, precision : optional
        As in `predict`.

    Raises
    ------
    ModelNotFoundError
        If there is no such file or folder.
    ModelError
        If it is not a package, or it is damaged or not safe, or it describes what cannot be run on tiles.
    MissingExtraError
        If bioimageio.spec, or the library that runs the weights, is not installed.

    Notes
    -----
    Nothing is downloaded, files outside the package are not read, and a file whose SHA-256 is not the declared one is refused. An
    archive is unpacked into a temporary folder that is removed with the model.

    Examples
    --------
    >>> BioimageioModel("affable-shark.zip")
    Traceback (most recent call last):
        ...
    patchloom.errors.ModelNotFoundError: there is no bioimage.io package affable-shark.zip: check the path
    """

    def __init__(
        self,
        path: str | PathLike[str],
        *,
        weights: WeightsFormat | None = None,
        trust: bool = False,
        device: str | None = None,
        precision: Precision | None = None,
    ) -> None:
        path = Path(normalize_path(file_path("path", path)))
        if weights is not None:
            one_of("weights", weights, get_args(WeightsFormat))
        flag("trust", trust)
        self._package = Package(path)
        try:
            self._described = _check(read_description(self._package.content))
            source = self._described.inputs[0]
            self._preprocessing = prepare_preprocessing(source)
            self._postprocessing = [prepare_postprocessing(output) for output in self._described.outputs]
            sizes = describe_sizes(source, self._described.outputs)
        except ModelError as error:
            raise ModelError(f"{path} cannot be run: {error}") from error
        self._network = open_network(self._package, self._described, weights, trust=trust)
        self._sizes = sizes
        # Absolute, as another process that opens the model again may run in another directory.
        self._reopen = partial(type(self), self._package.path, weights=weights, trust=trust)
        self._place(device, check_precision(precision))

    def _place(self, device: str | None, precision: Precision | None) -> None:
        """Put the network on a device, and describe the model."""
        parse_devices(device)
        if device is not None or precision is not None:
            self._network = self._network.on(device, precision)
            given = {"device": device, "precision": precision}
            self._reopen = partial(self._reopen, **{name: value for name, value in given.items() if value is not None})
        used_precision = self._reopen.keywords.get("precision") or ""
        self.description = ModelDescription(
            **self._sizes,
            out_dtype=self._out_dtype(),
            normalize=self._preprocessing.normalize,
            identity=f"{self._package.digest[:16]} {self._network.digest} {used_precision}".rstrip(),
        )

    def _out_dtype(self) -> str | None:
        """Return the dtype of a single output; None if it has a scale or margin, which are inferred with the dtype."""
        outputs = self._described.outputs
        return None if len(outputs) > 1 or "scale" in self._sizes else final_dtype(outputs[0])

    @property
    def identity(self) -> str:
        """The digests of the description, the weights and the code."""
        return self.description.identity

    @property
    def files(self) -> tuple[Path, ...]:
        """The archive, or the files of the folder that are used."""
        path = self._package.path
        return (path,) if path.suffix.lower() == ".zip" else (path, *self._network.files)

    def on(self, device: str | None, precision: Precision | None, /) -> BioimageioModel:
        """Return the model on a device; see `RunsOnDevice`."""
        if device is not None:
            instance("device", device, str)
        moved = copy.copy(self)
        moved._place(device, check_precision(precision))  # noqa: SLF001  # of the same class
        return moved

    def close(self) -> None:
        """Remove the temporary folder of an archive; the model cannot be opened again by another process afterwards."""
        self._package.close()

    def __reduce__(self) -> tuple[partial[BioimageioModel], tuple[()]]:
        return self._reopen, ()

    def __call__(self, batch: NDArray[Any], /) -> Any:
        """Predict a batch; see `Model`.

        Raises
        ------
        ModelError
            If the batch does not fit the input of the package.
        ModelOutputError
            If the network returns something else than the package describes.
        """
        check_batch(batch)
        source = self._described.inputs[0]
        check_tile(batch.shape[2:], source)
        self._check_dtype(batch.dtype)
        for operation in self._preprocessing.operations:
            batch = operation(batch)
        outputs = []
        for array, operations in zip(self._network(np.ascontiguousarray(batch)), self._postprocessing, strict=True):
            result = array
            for operation in operations:
                result = operation(result)
            outputs.append(result)
        if len(outputs) == 1:
            return outputs[0]
        return {output.name: array for output, array in zip(self._described.outputs, outputs, strict=True)}

    def _check_dtype(self, dtype: np.dtype[Any]) -> None:
        """Refuse images whose values would be changed by the dtype that the package describes."""
        wanted = self._preprocessing.image_dtype
        if wanted is None or self._preprocessing.normalize is not None or wanted.kind == "f":
            return
        if not np.can_cast(dtype, wanted, "safe"):
            raise ModelError(
                f"batch has dtype {dtype}, and the package takes images of {wanted}, into which it does not fit: convert the image first"
            )

    def expected_outputs(self) -> ExpectedOutputs | None:
        """Return the test tensors of the package, or None if it has none.

        Raises
        ------
        ModelError
            If they cannot be read, or are not those of the description.
        """
        source, outputs = self._described.inputs[0], self._described.outputs
        tensors = [source, *outputs]
        if any(tensor.test_tensor is None for tensor in tensors):
            return None
        image, *expected = (self._read_test_tensor(tensor, tensor.test_tensor) for tensor in tensors)
        names = [output.name if len(outputs) > 1 else "" for output in outputs]
        return ExpectedOutputs(image, dict(zip(names, expected, strict=True)), self._described.tolerance)

    def _read_test_tensor(self, tensor: Tensor, file: FileReference | None) -> NDArray[Any]:
        if file is None:
            raise ModelError(f"tensor {tensor.name!r} has no test tensor")
        path = self._package.file(file.name, f"the test tensor of {tensor.name!r}", file.sha256)
        try:
            array = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise ModelError(f"{self._package.path}: the test tensor {file.name} cannot be read: {error}") from error
        layout = layout_of(tensor)
        if not isinstance(array, np.ndarray) or array.ndim != len(layout.letters):
            raise ModelError(
                f"{self._package.path}: the test tensor {file.name} does not have the axes {', '.join(tensor.letters)}"
            )
        batch = layout.to_batch(array)
        n_dims = self.description.n_dims or 2
        return batch[:, :, 0] if batch.ndim == n_dims + 3 else batch


def _check(described: PackageDescription) -> PackageDescription:
    """Check that a package has one input, and that inputs and outputs are images."""
    source, *others = described.inputs
    for other in others:
        if not other.is_optional:
            raise ModelError(
                f"it has the inputs {', '.join(repr(tensor.name) for tensor in described.inputs)}: only networks with one image as "
                "input are run on tiles"
            )
    for tensor in (source, *described.outputs):
        tensor.check()
    return described
