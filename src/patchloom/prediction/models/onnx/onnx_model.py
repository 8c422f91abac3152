"""Networks in ONNX files, run by onnxruntime."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from patchloom.argument_checks import file_path, instance, instances, shown, whole_number
from patchloom.axes import spatial_axes
from patchloom.errors import ArgumentError, ArgumentTypeError, ModelError, ModelNotFoundError
from patchloom.local_paths import normalize_path
from patchloom.prediction.models.devices import Precision, check_precision, parse_devices
from patchloom.prediction.models.model import check_batch
from patchloom.prediction.models.onnx.describing import (
    check_channel_order,
    describe_network,
    input_shapes,
    spatial_places,
)
from patchloom.prediction.models.onnx.graph import FirstConvolution, OnnxGraph, find_first_convolution, read_graph
from patchloom.prediction.models.onnx.inputs import choose_inputs
from patchloom.prediction.models.onnx.layout_evidence import check_layout, find_layout
from patchloom.prediction.models.onnx.onnx_files import external_files, onnx_digest
from patchloom.prediction.models.onnx.outputs import choose_outputs
from patchloom.prediction.models.onnx.session import available_providers, find_onnx_device, one_line, open_session
from patchloom.prediction.models.onnx.tensors import (
    cast_batch,
    check_scale,
    declared_names,
    declared_sizes,
    tensor_dtype,
)
from patchloom.prediction.models.tensor_layout import TensorLayout, shape_text

_MOST_THREADS = 2**16


class NetworkGraph(NamedTuple):
    """The graph of a network, and what is needed to follow tensors through it."""

    graph: OnnxGraph
    shapes: Mapping[str, tuple[int, ...]]
    """Shapes of all inputs for one tile; free spatial sizes are 1."""

    image: str
    """Name of the input for the image."""

    axes: tuple[int, ...]
    """Its spatial axes, `(z,) y, x`."""

    outputs: tuple[str, ...]
    """Names of the outputs that are used."""


class OnnxModel:
    """A network in an ONNX file, as a callable `(B, C, (Z), Y, X) -> (B, C', (Z), Y, X)`.

    The file is read when the model is made, and again when a pickled model is loaded in another process.

    Parameters
    ----------
    source : path or bytes
        The ONNX file, or its content. Weights in other files, as PyTorch writes them, must be in the folder of the file.
    layout : str, optional
        Axes of the input, outermost first, such as `"NCHW"`; see `TensorLayout`. If None, they are inferred from the first
        convolution, else from the names of symbolic sizes (`"batch"`, `"channels"`, `"height"`, …), else from the declared
        sizes; see `infer_layout`. An output must have the same axes, or lack the channel axis. Its size may differ.
    inputs : mapping of str to number or array, optional
        Values of inputs other than the image, by name. A number, or an axis of size 1, is repeated to the declared shape; a
        symbolic size that the image has, too, such as that of the batch, is the size of the image. An input with a default in
        the file needs no value. The input that is left takes the image.
    output : str or sequence of str, optional
        Name of the output to use, or several names. If None, all outputs. Several outputs are returned by name.
    scale : float or "dtype", optional
        Factor by which a batch is multiplied. `"dtype"` divides integers by the largest value of their dtype, and leaves floats
        as they are. If None, values are not scaled.
    channel_order : sequence of int, optional
        Indices of the image's channels, in the order in which the network takes them: `(2, 1, 0)` turns RGB into BGR.
    threads : int, optional
        Number of threads that an operator may use on the CPU. If None, the number of cores.
    device : str
        Where the network runs: `"cpu"`, `"cuda:0"`, …, `"mps"`, or `"auto"` for the best that this build of onnxruntime has.
    providers : sequence of str, optional
        For experts: execution providers of onnxruntime in place of those of the device, the preferred one first. TensorRT is
        used only if it is named here, as it compiles the network for each size of a tile.
    name : str, optional
        Name of the model in messages. If None, its path.

    Raises
    ------
    ArgumentError
        If a value of an input does not fit, there is no such device, or this build of onnxruntime has no provider for it.
    ModelNotFoundError
        If there is no such file.
    ModelError
        If the file is not an ONNX model, weights are missing, its layout is ambiguous, several inputs have no value, or its input
        or output is not an image.
    MissingExtraError
        If onnx or onnxruntime is not installed.

    Notes
    -----
    Sizes: if height, width and depth of the input are fixed, the model accepts tiles of that size only, and declares it as
    `description.patch_size`. If they are symbolic, the sizes that the network accepts and its stride are found from the shapes of
    its tensors, and declared as `min_size`, `size_step` and `origin_multiple`; if not all shapes can be found, nothing is
    declared. If the batch size is fixed, or there is no batch axis, a batch is run in portions of that size; the last one is
    filled up with copies of its last tile.

    Dtypes: the batch is cast to the dtype of the input. An input of floats accepts any image, rounded to its precision; a
    value beyond its range is an error. An input of integers accepts images whose dtype fits into its own.

    Examples
    --------
    >>> from onnx import parser
    >>> network = parser.parse_model('''
    ...     <ir_version: 8, opset_import: ["": 17]>
    ...     negate (float[N, 1, H, W] x) => (float[N, 1, H, W] y) { y = Neg(x) }
    ... ''')
    >>> model = OnnxModel(network.SerializeToString(), scale="dtype")
    >>> model(np.full((1, 1, 2, 2), 255, np.uint8)).tolist()
    [[[[-1.0, -1.0], [-1.0, -1.0]]]]
    >>> model.description.in_channels, model.description.patch_size, model.description.size_step
    (1, None, (1, 1))
    """

    def __init__(
        self,
        source: str | PathLike[str] | bytes,
        *,
        layout: str | None = None,
        inputs: Mapping[str, Any] | None = None,
        output: str | Sequence[str] | None = None,
        scale: float | Literal["dtype"] | None = None,
        channel_order: Sequence[int] | None = None,
        threads: int | None = None,
        device: str = "cpu",
        providers: Sequence[str] | None = None,
        name: str | None = None,
    ) -> None:
        for text, value in (("layout", layout), ("name", name)):
            if value is not None:
                instance(text, value, str)
        outputs = _output_names(output)
        values = dict(
            instance("inputs", {} if inputs is None else inputs, Mapping, "give values by the names of inputs")
        )
        if threads is not None:
            whole_number("threads", threads, most=_MOST_THREADS)
        device = _one_device(device)
        if providers is not None:
            providers = instances("providers", providers, str, "a sequence of names, such as ['CPUExecutionProvider']")
        if not isinstance(source, bytes):
            file_path("source", source)
            name = name or str(source)
            source = Path(normalize_path(source)).absolute()  # a worker may run in another directory
            if not source.is_file():
                raise ModelNotFoundError(f"there is no model file {name}: check the path")
        self._name = name or "the ONNX model"
        self._reopen = partial(
            type(self),
            source,
            layout=layout,
            inputs=values,
            output=output,
            scale=scale,
            channel_order=channel_order,
            threads=threads,
            device=device,
            providers=None if providers is None else tuple(providers),
            name=self._name,
        )
        graph = read_graph(source, self._name)
        self._session = open_session(source, self._name, device=device, threads=threads, providers=providers)
        self._input, self._bound = choose_inputs(self._session.session, values, self._name)
        self._dtype = tensor_dtype(self._input, self._name)
        convolution = _first_convolution(graph, self._input)
        self._layout = self._input_layout(layout, convolution)
        self._outputs = choose_outputs(self._session.session, outputs, self._layout, self._name)
        self._precision = graph.precision or (self._dtype.name if self._dtype.kind == "f" else None)
        check_scale(scale, self._dtype, self._name)
        self._scale = scale
        sizes = declared_sizes(self._input) or (None,) * len(self._layout.letters)
        self._shape = self._layout.batch_shape(sizes)
        self._channel_order = check_channel_order(channel_order, self._shape[1], self._name)
        chosen = None if output is None else ",".join(outputs or ())
        parts = [
            onnx_digest(source)[:16],
            layout,
            chosen,
            scale,
            channel_order,
            *(bound.digest for bound in self._bound),
        ]
        self.description = describe_network(
            graph,
            image=self._input,
            bound=self._bound,
            layout=self._layout,
            outputs=self._outputs,
            in_channels=self._shape[1]
            or (convolution.n_channels if convolution else None)
            or (len(self._channel_order) if self._channel_order else None),
            identity=" ".join(map(str, parts)),
        )

    @property
    def identity(self) -> str:
        """The digest of the network and its weights, and the options that change what it computes."""
        return self.description.identity

    @property
    def layout(self) -> TensorLayout:
        """The axes of the network's input."""
        return self._layout

    @property
    def device(self) -> str:
        """The device on which the network runs."""
        return self._session.device

    @property
    def files(self) -> tuple[Path, ...]:
        """The files of the network and its weights; empty if the network was given as bytes."""
        (source,) = self._reopen.args
        if isinstance(source, bytes):
            return ()
        return (source, *external_files(source, source.read_bytes()))

    def network_graph(self) -> NetworkGraph | None:
        """Read the graph of the network again; None if its number of channels is not known, or another input has the size of the image."""
        (source,) = self._reopen.args
        shapes = input_shapes(self._input, self._bound, self._layout, self.description.in_channels)
        if shapes is None:
            return None
        names = tuple(output.name for output in self._outputs)
        axes = tuple(spatial_places(self._layout))
        return NetworkGraph(read_graph(source, self._name), shapes, self._input.name, axes, names)

    def on(self, device: str | None, precision: Precision | None, /) -> OnnxModel:
        """Return the network on a device; see `RunsOnDevice`.

        Parameters
        ----------
        device : str, optional
            As `device` of `OnnxModel`. If None, the network stays where it is.
        precision : {"float32", "bfloat16", "float16"}, optional
            Dtype in which the network computes. The file fixes it, so only this one is allowed.

        Raises
        ------
        ArgumentError
            If this build of onnxruntime has no provider for the device, or the file has another precision.
        """
        if check_precision(precision) not in (None, self._precision):
            raise ArgumentError(
                f"precision is {precision!r}, but {self._name} computes in {self._precision or self._dtype}, as its file fixes it: "
                "leave precision out, or convert the file"
            )
        (source,), options = self._reopen.args, self._reopen.keywords
        if device is None or options["providers"] is not None:
            return self
        wanted = _one_device(device)
        if find_onnx_device(wanted, available_providers()) == self.device:  # opening a network takes time
            return self
        session = open_session(source, self._name, device=wanted, threads=options["threads"])
        if session.device == self.device:
            return self
        moved = copy.copy(self)
        moved._session = session  # noqa: SLF001  # of its own class
        moved._reopen = partial(self._reopen, device=session.device)  # noqa: SLF001
        return moved

    def __reduce__(self) -> tuple[partial[OnnxModel], tuple[()]]:
        return self._reopen, ()

    def __call__(self, batch: NDArray[Any], /) -> Any:
        """Predict a batch; see `Model`.

        Returns
        -------
        array or dict of str to array
            The output, or several outputs by name.

        Raises
        ------
        ModelError
            If the batch does not fit the network's input, or onnxruntime fails.
        ModelOutputError
            If the network does not return one image for each tile.
        """
        self._check_batch(batch)
        if self._channel_order is not None:
            batch = batch[:, self._channel_order]
        batch = cast_batch(batch, self._dtype, self._scale, self._name)
        portion = self.description.batch_size
        if portion is None or portion == len(batch):
            predicted = self._run(batch)
        else:
            portions = [
                self._run_portion(batch[start : start + portion], portion) for start in range(0, len(batch), portion)
            ]
            predicted = [np.concatenate(of_output) for of_output in zip(*portions, strict=True)]
        if len(predicted) == 1:
            return predicted[0]
        return {output.name: array for output, array in zip(self._outputs, predicted, strict=True)}

    def _run_portion(self, batch: NDArray[Any], portion: int) -> list[NDArray[Any]]:
        """Run at most `portion` tiles through a network that takes exactly `portion` tiles."""
        missing = portion - len(batch)
        full = np.concatenate([batch, *[batch[-1:]] * missing]) if missing else batch
        return [predicted[: len(batch)] for predicted in self._run(full)]

    def _run(self, batch: NDArray[Any]) -> list[NDArray[Any]]:
        tensor = self._layout.from_batch(batch)
        constants = {bound.name: bound.for_image(tensor.shape) for bound in self._bound}
        try:
            predicted = self._session.run(
                [output.name for output in self._outputs], {self._input.name: tensor}, constants
            )
        except Exception as error:  # onnxruntime's errors have no base class of their own
            raise ModelError(f"{self._name} failed on a tensor of shape {tensor.shape}: {one_line(error)}") from error
        return [
            output.to_batch(array, batch, tensor.shape, self._name)
            for output, array in zip(self._outputs, predicted, strict=True)
        ]

    def _input_layout(self, given: str | None, convolution: FirstConvolution | None) -> TensorLayout:
        sizes = declared_sizes(self._input)
        try:
            layout = find_layout(given, sizes, declared_names(self._input), convolution)
            check_layout(layout, sizes, convolution)
        except ModelError as error:
            raise ModelError(f"{self._name}: {error}") from None
        return layout

    def _check_batch(self, batch: NDArray[Any]) -> None:
        axes = ("B", "C", *spatial_axes(self._layout.n_dims))
        check_batch(batch)
        if batch.ndim != len(axes):
            raise ModelError(
                f"batch has shape {batch.shape}: {self._name} is a {self._layout.n_dims}D model and takes batches "
                f"({', '.join(axes)})"
            )
        described = self.description
        if described.in_channels not in (None, batch.shape[1]):
            raise ModelError(
                f"batch has {batch.shape[1]} channel(s): {self._name} takes {described.in_channels}, as its input has shape "
                f"{shape_text(declared_sizes(self._input))}, read as {self._layout.letters}; select channels of the image, or give another "
                "layout="
            )
        for axis, size, fixed in zip(axes[2:], batch.shape[2:], self._shape[2:], strict=True):
            if fixed not in (None, size):
                raise ModelError(f"batch has size {size} along {axis}: {self._name} takes tiles of size {fixed}")


def _output_names(output: Any) -> list[str] | None:
    """Return the names of outputs that are chosen; None for all."""
    if output is None:
        return None
    if isinstance(output, str):
        return [output]
    names = instances("output", output, str, "the name of an output, or a sequence of names")
    if not names or len(set(names)) < len(names):
        raise ArgumentError(f"output is {shown(output)}: name at least one output, and each once")
    return names


def _one_device(device: Any) -> str:
    found = parse_devices(device)
    if len(found) != 1:
        error = ArgumentTypeError if device is None else ArgumentError
        raise error(f"device is {shown(device)}: name one device, such as 'cpu'")
    return found[0]


def _first_convolution(graph: OnnxGraph, image: Any) -> FirstConvolution | None:
    """Find the first convolution; the number of axes of an input without a declared shape is that of its weights."""
    n_axes = len(image.shape)
    tried = (n_axes,) if n_axes else (4, 5, 3, 2)
    found = (find_first_convolution(graph, image.name, count) for count in tried)
    return next((convolution for convolution in found if convolution is not None), None)
