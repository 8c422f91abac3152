"""Networks in ONNX files, run by onnxruntime."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from patchloom._optional import require
from patchloom.argument_checks import file_path, instance, instances, listed, shown, whole_number
from patchloom.axes import spatial_axes
from patchloom.errors import ModelError, ModelNotFoundError, ModelOutputError
from patchloom.local_paths import normalize_path
from patchloom.prediction.models.model import ModelDescription, check_batch
from patchloom.prediction.models.onnx.onnx_files import external_files, onnx_digest
from patchloom.prediction.models.tensor_layout import TensorLayout, infer_layout, possible_layouts, shape_text

DTYPES = {f"tensor({name})": name for name in ("float16", "uint8", "int8", "uint16", "int16", "uint32", "int32")} | {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(uint64)": "uint64",
    "tensor(int64)": "int64",
    "tensor(bool)": "bool",
}
"""The tensor types of ONNX that NumPy has, by onnxruntime's names."""


_MOST_THREADS = 2**16


class OnnxModel:
    """A network in an ONNX file, as a callable `(B, C, (Z), Y, X) -> (B, C', (Z), Y, X)`.

    The file is read when the model is made, and again when a pickled model is loaded in another process.

    Parameters
    ----------
    source : path or bytes
        The ONNX file, or its content.
    layout : str, optional
        Axes of the input, outermost first, such as `"NCHW"`; see `TensorLayout`. If None, they are inferred from the declared
        shape; see `infer_layout`. The output must have the same axes, or lack the channel axis. Its size may differ.
    output : str, optional
        Name of the output to use. If None, the first one.
    scale : float or "dtype", optional
        Factor by which a batch is multiplied. `"dtype"` divides integers by the largest value of their dtype, and leaves floats
        as they are. If None, values are not scaled.
    channel_order : sequence of int, optional
        Indices of the image's channels, in the order in which the network takes them: `(2, 1, 0)` turns RGB into BGR.
    threads : int, optional
        Number of threads that an operator may use. If None, the number of cores.
    providers : sequence of str
        Execution providers of onnxruntime, the preferred one first. Providers other than the CPU's need another build of
        onnxruntime.
    name : str, optional
        Name of the model in messages. If None, its path.

    Raises
    ------
    ModelNotFoundError
        If there is no such file.
    ModelError
        If the file is not an ONNX model, its layout is ambiguous, it has several inputs, or its input or output is not an image.
    MissingExtraError
        If onnxruntime is not installed.

    Notes
    -----
    Sizes: if height, width and depth of the input are fixed, the model accepts tiles of that size only, and declares it as
    `description.patch_size`. If one of them is symbolic, any tile size is accepted. If the batch size is fixed, or there is no
    batch axis, a batch is run in portions of that size; the last one is filled up with copies of its last tile.

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
    >>> model.description.in_channels, model.description.patch_size
    (1, None)
    """

    def __init__(
        self,
        source: str | PathLike[str] | bytes,
        *,
        layout: str | None = None,
        output: str | None = None,
        scale: float | Literal["dtype"] | None = None,
        channel_order: Sequence[int] | None = None,
        threads: int | None = None,
        providers: Sequence[str] = ("CPUExecutionProvider",),
        name: str | None = None,
    ) -> None:
        for text, value in (("layout", layout), ("output", output), ("name", name)):
            if value is not None:
                instance(text, value, str)
        if threads is not None:
            whole_number("threads", threads, most=_MOST_THREADS)
        providers = instances("providers", providers, str, "a sequence of names, such as ['CPUExecutionProvider']")
        if not isinstance(source, bytes):
            file_path("source", source)
            name = name or str(source)
            source = Path(normalize_path(source)).absolute()  # a worker may run in another directory
        self._name = name or "the ONNX model"
        self._reopen = partial(
            type(self),
            source,
            layout=layout,
            output=output,
            scale=scale,
            channel_order=channel_order,
            threads=threads,
            providers=tuple(providers),
            name=self._name,
        )
        self._session = _open_session(source, self._name, threads, providers)
        self._identity = f"{onnx_digest(source)[:16]} {layout} {output} {scale} {channel_order}"
        self._input = _only_input(self._session, self._name)
        self._output = _choose_output(self._session, output, self._name)
        self._layout = self._input_layout(layout)
        self._shape = self._layout.batch_shape(_sizes(self._input) or (None,) * len(self._layout.letters))
        self._dtype = _tensor_dtype(self._input, self._name)
        _check_scale(scale, self._dtype, self._name)
        self._scale = scale
        self._channel_order = self._check_channel_order(channel_order)
        self.description = self._describe()

    @property
    def identity(self) -> str:
        """The digest of the network and its weights, and the options that change what it computes."""
        return self._identity

    @property
    def files(self) -> tuple[Path, ...]:
        """The files of the network and its weights; empty if the network was given as bytes."""
        (source,) = self._reopen.args
        if isinstance(source, bytes):
            return ()
        return (source, *external_files(source, source.read_bytes()))

    def __reduce__(self) -> tuple[partial[OnnxModel], tuple[()]]:
        return self._reopen, ()

    def __call__(self, batch: NDArray[Any], /) -> NDArray[Any]:
        """Predict a batch; see `Model`.

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
        batch = _cast(batch, self._dtype, self._scale, self._name)
        portion = self.description.batch_size
        if portion is None or portion == len(batch):
            return self._run(batch)
        return np.concatenate(
            [self._run_portion(batch[start : start + portion], portion) for start in range(0, len(batch), portion)]
        )

    def _run_portion(self, batch: NDArray[Any], portion: int) -> NDArray[Any]:
        """Run at most `portion` tiles through a network that takes exactly `portion` tiles."""
        missing = portion - len(batch)
        full = np.concatenate([batch, *[batch[-1:]] * missing]) if missing else batch
        return self._run(full)[: len(batch)]

    def _run(self, batch: NDArray[Any]) -> NDArray[Any]:
        tensor = self._layout.from_batch(batch)
        try:
            (predicted,) = self._session.run([self._output.name], {self._input.name: tensor})
        except Exception as error:  # onnxruntime's errors have no base class of their own
            raise ModelError(f"{self._name} failed on a tensor of shape {tensor.shape}: {_one_line(error)}") from error
        layout = self._output_layout(predicted.ndim)
        if layout is not None:
            result = layout.to_batch(predicted)
            if len(result) == len(batch) and not self._has_channels_elsewhere(predicted, batch):
                return result
        raise ModelOutputError(
            f"{self._name}: output {self._output.name!r} has shape {predicted.shape}, and the input had {tensor.shape} "
            f"({self._layout.letters}): both must have the same batch size, and the same axes except for channels; choose another "
            "output="
        )

    def _has_channels_elsewhere(self, predicted: NDArray[Any], batch: NDArray[Any]) -> bool:
        """Return whether an output has the size of the input only if it has another layout than the input."""
        if predicted.ndim != len(self._layout.letters):
            return False
        fitting = [
            layout
            for layout in possible_layouts(predicted.ndim)
            if layout.to_batch(predicted).shape[2:] == batch.shape[2:]
        ]
        return bool(fitting) and self._layout not in fitting

    def _input_layout(self, layout: str | None) -> TensorLayout:
        sizes = _sizes(self._input)
        try:
            chosen = TensorLayout(layout) if layout is not None else infer_layout(sizes)
        except ModelError as error:
            raise ModelError(f"{self._name}: {error}") from None
        if sizes and len(sizes) != len(chosen.letters):
            raise ModelError(
                f"{self._name}: layout is {chosen.letters}, which does not fit the input of shape {shape_text(sizes)}: name each "
                "of its axes once"
            )
        return chosen

    def _output_layout(self, n_axes: int) -> TensorLayout | None:
        """Return the layout of an output of `n_axes` axes: that of the input, with or without channels; None if neither fits."""
        possible = (self._layout, self._layout.without_channels())
        return next((layout for layout in possible if len(layout.letters) == n_axes), None)

    def _check_channel_order(self, order: Sequence[int] | None) -> list[int] | None:
        if order is None:
            return None
        order = [
            whole_number("channel_order", channel)
            for channel in listed("channel_order", order, "a sequence of channels")
        ]
        n_channels = self._shape[1] or len(order)
        if sorted(order) != list(range(n_channels)):
            raise ModelError(
                f"channel_order is {tuple(order)}: it must contain each of 0 to {n_channels - 1} once, as {self._name} takes "
                f"{n_channels} channels"
            )
        return list(order)

    def _describe(self) -> ModelDescription:
        batch_size, in_channels, *space = self._shape
        fixed = [size for size in space if size is not None]
        return ModelDescription(
            patch_size=tuple(fixed) if len(fixed) == len(space) else None,
            batch_size=batch_size,
            n_dims=self._layout.n_dims,
            in_channels=in_channels or (len(self._channel_order) if self._channel_order else None),
            out_channels=self._count_out_channels(),
            out_dtype=_tensor_dtype(self._output, self._name).name,
            identity=self._identity,
        )

    def _count_out_channels(self) -> int | None:
        sizes = _sizes(self._output)
        if not sizes:  # not declared
            return None
        layout = self._output_layout(len(sizes))
        if layout is None:
            raise ModelError(
                f"{self._name}: output {self._output.name!r} of shape {shape_text(sizes)} is not an image like the input of shape "
                f"{shape_text(_sizes(self._input))}: choose one of {_names(self._session.get_outputs())} with output="
            )
        return layout.batch_shape(sizes)[1]

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
                f"{shape_text(_sizes(self._input))}, read as {self._layout.letters}; select channels of the image, or give another "
                "layout="
            )
        for axis, size, fixed in zip(axes[2:], batch.shape[2:], self._shape[2:], strict=True):
            if fixed not in (None, size):
                raise ModelError(f"batch has size {size} along {axis}: {self._name} takes tiles of size {fixed}")


def _open_session(
    source: Path | bytes, name: str, threads: int | None, providers: Sequence[str]
) -> Any:  # an onnxruntime.InferenceSession, which has no types
    if threads is not None and threads < 1:
        raise ModelError(f"threads is {threads}: it must be at least 1")
    if isinstance(source, Path) and not source.is_file():
        raise ModelNotFoundError(f"there is no model file {name}: check the path")
    onnxruntime = require("onnxruntime", extra="onnx")
    available = onnxruntime.get_available_providers()
    if not providers or not set(providers) <= set(available):
        raise ModelError(
            f"providers is {list(providers)}: choose one or more of {available}, which this build of onnxruntime has"
        )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0  # 0: the number of cores
    options.log_severity_level = 3  # errors only: warnings are for the authors of the network
    try:
        # By its path, so that onnxruntime finds weights in files beside it.
        return onnxruntime.InferenceSession(
            source if isinstance(source, bytes) else str(source), options, providers=list(providers)
        )
    except Exception as error:  # onnxruntime's errors have no base class of their own
        raise ModelError(f"{name} is not an ONNX model, or it is damaged: {_one_line(error)}") from error


def _only_input(session: Any, name: str) -> Any:
    inputs = session.get_inputs()
    if len(inputs) != 1:
        raise ModelError(f"{name} has {len(inputs)} inputs ({_names(inputs)}): export a network with one input")
    return inputs[0]


def _choose_output(session: Any, wanted: str | None, name: str) -> Any:
    outputs = session.get_outputs()
    for output in outputs:
        if wanted in (None, output.name):
            return output
    raise ModelError(f"output is {wanted!r}, and {name} has {_names(outputs)}: choose one of these")


def _names(tensors: Sequence[Any]) -> str:
    return ", ".join(repr(tensor.name) for tensor in tensors)


def _sizes(tensor: Any) -> tuple[int | None, ...]:
    """Return the declared sizes, with None for symbolic ones; an empty tuple if the file does not declare the shape."""
    return tuple(size if isinstance(size, int) else None for size in tensor.shape)


def _tensor_dtype(tensor: Any, name: str) -> np.dtype[Any]:
    if tensor.type not in DTYPES:
        raise ModelError(
            f"{name}: {tensor.name!r} is of type {tensor.type}, which NumPy does not have: export the network with floats"
        )
    return np.dtype(DTYPES[tensor.type])


def _check_scale(scale: object, dtype: np.dtype[Any], name: str) -> None:
    if scale is None:
        return
    is_number = isinstance(scale, (int, float)) and not isinstance(scale, bool) and math.isfinite(scale)
    if not is_number and not (isinstance(scale, str) and scale == "dtype"):
        raise ModelError(f"scale is {shown(scale)}: it must be a finite number or 'dtype'")
    if dtype.kind != "f":
        raise ModelError(
            f"scale is {scale!r}, which is for networks that take floats: leave it out, as {name} takes {dtype}"
        )


def _cast(batch: NDArray[Any], dtype: np.dtype[Any], scale: float | Literal["dtype"] | None, name: str) -> NDArray[Any]:
    """Scale a batch and cast it to the dtype of a network; refuse dtypes and values that would overflow."""
    fits = batch.dtype.kind in "biuf" if dtype.kind == "f" else np.can_cast(batch.dtype, dtype, "safe")
    if not fits:
        raise ModelError(
            f"batch has dtype {batch.dtype}, which does not fit into {dtype}, the input of {name}: convert the image first"
        )
    try:
        with np.errstate(over="raise"):
            return _scaled(batch, scale, np.result_type(dtype, np.float32)).astype(dtype, copy=False)
    except FloatingPointError:
        raise ModelError(f"batch has values that are too large for {dtype}, the input of {name}: use scale=") from None


def _scaled(batch: NDArray[Any], scale: float | Literal["dtype"] | None, dtype: np.dtype[Any]) -> NDArray[Any]:
    if scale == "dtype":
        return np.divide(batch, float(np.iinfo(batch.dtype).max), dtype=dtype) if batch.dtype.kind in "iu" else batch
    return batch if scale is None else np.multiply(batch, scale, dtype=dtype)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
