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
from patchloom.argument_checks import file_path, instance, instances, listed, whole_number
from patchloom.axes import spatial_axes
from patchloom.errors import ModelError, ModelNotFoundError, ModelOutputError
from patchloom.local_paths import normalize_path
from patchloom.prediction.models.model import ModelDescription, check_batch
from patchloom.prediction.models.onnx_files import external_files, onnx_digest
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

    The file is read when the model is made, and again when a pickled model arrives in another process.

    Parameters
    ----------
    source : path or bytes
        The ONNX file, or its content.
    layout : str, optional
        Axes of the input, such as `"NCHW"`; see `TensorLayout`. By default they are read off the declared shape (see
        `infer_layout`). The output has the same axes, or lacks the channel axis; it may be larger or smaller.
    output : str, optional
        Which output to use; by default the first.
    scale : float or "dtype", optional
        What a batch is multiplied by. `"dtype"` divides integers by the largest value of their dtype, so that they run
        from 0 to 1, and leaves floats alone. By default values go in as they are.
    channel_order : sequence of int, optional
        The image's channels in the order in which the network takes them; `(2, 1, 0)` feeds an RGB image as BGR.
    threads : int, optional
        How many threads an operator may use; by default as many as there are cores.
    providers : sequence of str
        onnxruntime's execution providers, most wanted first. Others than the CPU's need another build of onnxruntime.
    name : str, optional
        What to call the model in messages; by default its path.

    Raises
    ------
    ModelNotFoundError
        If there is no such file.
    ModelError
        If the file is no ONNX model, its layout is ambiguous, it has several inputs, or its input or output is no image.
    MissingExtraError
        If onnxruntime is not installed.

    Notes
    -----
    Sizes: an input of fixed height and width (and depth) takes tiles of that size only, `description.patch_size`; where
    one is symbolic, the tile size is free. Where the batch size is fixed, or there is no batch axis, a batch runs in
    portions of that size, the last of them filled up with copies of its last tile.

    Dtypes: the batch is cast to the dtype of the input. An input of floats takes any image, rounded to its precision; a
    value beyond its range is an error. An input of integers takes images whose dtype fits into its own.

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
        """The digest of the network and its weights, and how it is fed."""
        return self._identity

    @property
    def files(self) -> tuple[Path, ...]:
        """The network's file and those of its weights; empty if the network was given as bytes."""
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
            If what the network returns is not one image for each tile.
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
        """Run at most `portion` tiles through a network that takes exactly so many."""
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
            f"({self._layout.letters}): it has to have the same axes, or no channel axis, and the same batch size"
        )

    def _has_channels_elsewhere(self, predicted: NDArray[Any], batch: NDArray[Any]) -> bool:
        """Whether an output has the size of the input only if its axes are read in another order than the input's."""
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
                f"{self._name}: layout {chosen.letters} does not fit an input of shape {shape_text(sizes)}"
            )
        return chosen

    def _output_layout(self, n_axes: int) -> TensorLayout | None:
        """Axes of an output of so many: those of the input, if need be without channels."""
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
                f"{self._name} takes {n_channels} channels: channel_order must name each of 0 to {n_channels - 1} once, "
                f"not {tuple(order)}"
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
                f"{self._name}: output {self._output.name!r} of shape {shape_text(sizes)} is no image, as the input "
                f"{shape_text(_sizes(self._input))} is: outputs are {_names(self._session.get_outputs())}; "
                "say which with output="
            )
        return layout.batch_shape(sizes)[1]

    def _check_batch(self, batch: NDArray[Any]) -> None:
        axes = ("B", "C", *spatial_axes(self._layout.n_dims))
        check_batch(batch)
        if batch.ndim != len(axes):
            raise ModelError(
                f"{self._name} is a {self._layout.n_dims}D model and takes batches ({', '.join(axes)}), "
                f"not of shape {batch.shape}"
            )
        described = self.description
        if described.in_channels not in (None, batch.shape[1]):
            raise ModelError(
                f"{self._name} takes images of {described.in_channels} channel(s), not {batch.shape[1]} "
                f"(its input is {shape_text(_sizes(self._input))}, read as {self._layout.letters})"
            )
        for axis, size, fixed in zip(axes[2:], batch.shape[2:], self._shape[2:], strict=True):
            if fixed not in (None, size):
                raise ModelError(f"{self._name} takes tiles of size {fixed} along {axis}, not {size}")


def _open_session(
    source: Path | bytes, name: str, threads: int | None, providers: Sequence[str]
) -> Any:  # an onnxruntime.InferenceSession, which has no types
    if threads is not None and threads < 1:
        raise ModelError(f"threads must be at least 1, not {threads}")
    if isinstance(source, Path) and not source.is_file():
        raise ModelNotFoundError(f"there is no model file {name}")
    onnxruntime = require("onnxruntime", extra="onnx")
    available = onnxruntime.get_available_providers()
    if not providers or not set(providers) <= set(available):
        raise ModelError(
            f"providers is {list(providers)}: onnxruntime has {available} here, of which there must be one at least"
        )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0  # 0: as many as there are cores
    options.log_severity_level = 3  # errors only: its warnings are for the network's authors
    try:
        # By its path, so that weights kept in files beside it are found.
        return onnxruntime.InferenceSession(
            source if isinstance(source, bytes) else str(source), options, providers=list(providers)
        )
    except Exception as error:  # onnxruntime's errors have no base class of their own
        raise ModelError(f"cannot load {name} as an ONNX model: {_one_line(error)}") from error


def _only_input(session: Any, name: str) -> Any:
    inputs = session.get_inputs()
    if len(inputs) != 1:
        raise ModelError(f"{name} has {len(inputs)} inputs ({_names(inputs)}): only models of one input can be run")
    return inputs[0]


def _choose_output(session: Any, wanted: str | None, name: str) -> Any:
    outputs = session.get_outputs()
    for output in outputs:
        if wanted in (None, output.name):
            return output
    raise ModelError(f"{name} has no output {wanted!r}: its outputs are {_names(outputs)}")


def _names(tensors: Sequence[Any]) -> str:
    return ", ".join(repr(tensor.name) for tensor in tensors)


def _sizes(tensor: Any) -> tuple[int | None, ...]:
    """List the declared sizes, `None` for symbolic ones; none at all where the file declares no shape."""
    return tuple(size if isinstance(size, int) else None for size in tensor.shape)


def _tensor_dtype(tensor: Any, name: str) -> np.dtype[Any]:
    if tensor.type not in DTYPES:
        raise ModelError(f"{name}: {tensor.name!r} is of type {tensor.type}, which is no image that NumPy can hold")
    return np.dtype(DTYPES[tensor.type])


def _check_scale(scale: object, dtype: np.dtype[Any], name: str) -> None:
    if scale is None:
        return
    if not isinstance(scale, (str, int, float)):
        raise ModelError(f"scale must be a finite number or 'dtype', not {scale!r}")
    if scale != "dtype" and (isinstance(scale, bool) or not (isinstance(scale, (int, float)) and math.isfinite(scale))):
        raise ModelError(f"scale must be a finite number or 'dtype', not {scale!r}")
    if dtype.kind != "f":
        raise ModelError(f"{name} takes {dtype}, and scale={scale!r} is for networks that take floats")


def _cast(batch: NDArray[Any], dtype: np.dtype[Any], scale: float | Literal["dtype"] | None, name: str) -> NDArray[Any]:
    """Scale a batch and cast it to the dtype that a network takes, without a value being lost or wrapped."""
    fits = batch.dtype.kind in "biuf" if dtype.kind == "f" else np.can_cast(batch.dtype, dtype, "safe")
    if not fits:
        raise ModelError(f"{name} takes {dtype}, into which {batch.dtype} does not fit: convert the image first")
    try:
        with np.errstate(over="raise"):
            return _scaled(batch, scale, np.result_type(dtype, np.float32)).astype(dtype, copy=False)
    except FloatingPointError:
        raise ModelError(f"{name} takes {dtype}, and values of the image are too large for it: use scale=") from None


def _scaled(batch: NDArray[Any], scale: float | Literal["dtype"] | None, dtype: np.dtype[Any]) -> NDArray[Any]:
    if scale == "dtype":
        return np.divide(batch, float(np.iinfo(batch.dtype).max), dtype=dtype) if batch.dtype.kind in "iu" else batch
    return batch if scale is None else np.multiply(batch, scale, dtype=dtype)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
