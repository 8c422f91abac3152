"""Sessions of onnxruntime on a device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from patchloom._optional import require
from patchloom.errors import ArgumentError, ModelError, ModelNotFoundError

CPU = "CPUExecutionProvider"

PROVIDERS = {"cuda": "CUDAExecutionProvider", "mps": "CoreMLExecutionProvider", "cpu": CPU}
"""The execution provider of onnxruntime for each kind of device, the best first."""

_REMEDIES = {
    "cuda": "install onnxruntime-gpu in place of onnxruntime",
    "mps": "use the onnxruntime of macOS",
}

_FATAL = 4
"""The level of onnxruntime's log: its errors are raised, and its warnings are for the authors of a network."""


@dataclass(frozen=True)
class OnnxSession:
    """A network that onnxruntime has opened on a device; made by `open_session`."""

    session: Any
    """The `onnxruntime.InferenceSession`, which has no types."""

    device: str
    """`"cpu"`, `"cuda:0"`, … or `"mps"`; that of its first provider if providers were given by name."""

    is_bound: bool
    """Whether inputs and outputs are bound to the device: constants are copied to it once."""

    _constants: dict[str, tuple[NDArray[Any], Any]] = field(default_factory=dict, repr=False)
    """Constants on the device, by the name of their input, with the array that each was copied from."""

    def run(
        self, outputs: Sequence[str], image: Mapping[str, NDArray[Any]], constants: Mapping[str, NDArray[Any]]
    ) -> list[NDArray[Any]]:
        """Run the network.

        Parameters
        ----------
        outputs : sequence of str
            Names of the outputs to return.
        image, constants : mapping of str to array
            Values of the inputs by name: the image, and the constants, which are the same in each call.

        Returns
        -------
        list of array
            The outputs.
        """
        if not self.is_bound:
            returned: list[NDArray[Any]] = self.session.run(list(outputs), {**image, **constants})
            return returned
        binding = self.session.io_binding()
        for name, array in image.items():
            binding.bind_cpu_input(name, array)
        for name, array in constants.items():
            binding.bind_ortvalue_input(name, self._on_device(name, array))
        for name in outputs:
            binding.bind_output(name)
        self.session.run_with_iobinding(binding)
        return [output.numpy() for output in binding.get_outputs()]

    def _on_device(self, name: str, array: NDArray[Any]) -> Any:
        """Return a constant on the device; it is copied again only if it is another array."""
        held = self._constants.get(name)
        if held is None or held[0] is not array:
            kind, _, index = self.device.partition(":")
            ort = require("onnxruntime", extra="onnx")
            value = ort.OrtValue.ortvalue_from_numpy(array, "cuda" if kind == "cuda" else "cpu", int(index or 0))
            held = self._constants[name] = (array, value)
        return held[1]


def find_onnx_device(device: str, available: Sequence[str]) -> str:
    """Return a device for which onnxruntime has an execution provider.

    Parameters
    ----------
    device : str
        As `parse_devices` returns it. `"auto"` is the best device of this build.
    available : sequence of str
        The providers of this build of onnxruntime.

    Raises
    ------
    ArgumentError
        If this build has no provider for the device.

    Examples
    --------
    >>> find_onnx_device("auto", ["CUDAExecutionProvider", "CPUExecutionProvider"])
    'cuda:0'
    >>> find_onnx_device("cuda:1", ["CPUExecutionProvider"])
    Traceback (most recent call last):
        ...
    patchloom.errors.ArgumentError: device is 'cuda:1', and this build of onnxruntime has no CUDAExecutionProvider: install
    onnxruntime-gpu in place of onnxruntime, or take device='cpu'
    """
    if device == "auto":
        best = next((kind for kind, provider in PROVIDERS.items() if provider in available), "cpu")
        return "cuda:0" if best == "cuda" else best
    kind = device.partition(":")[0]
    if PROVIDERS[kind] not in available:
        raise ArgumentError(
            f"device is {device!r}, and this build of onnxruntime has no {PROVIDERS[kind]}: {_REMEDIES[kind]}, or take device='cpu'"
        )
    return device


def available_providers() -> list[str]:
    """Return the execution providers that the build of onnxruntime has.

    Raises
    ------
    MissingExtraError
        If onnxruntime is not installed.
    """
    names: list[str] = require("onnxruntime", extra="onnx").get_available_providers()
    return names


def open_session(
    source: Path | bytes, name: str, *, device: str, threads: int | None, providers: Sequence[str] | None = None
) -> OnnxSession:
    """Open a network.

    Parameters
    ----------
    source : Path or bytes
        The ONNX file, or its content.
    name : str
        Name of the network in messages.
    device : str
        As `parse_devices` returns it.
    threads : int, optional
        Number of threads that an operator may use. If None, the number of cores.
    providers : sequence of str, optional
        Execution providers, the preferred one first, instead of the ones of the device.

    Raises
    ------
    ArgumentError
        If onnxruntime has no provider for the device, or cannot start it.
    ModelNotFoundError
        If there is no such file.
    ModelError
        If it is not an ONNX model, or a provider is missing.
    MissingExtraError
        If onnxruntime is not installed.
    """
    if threads is not None and threads < 1:
        raise ModelError(f"threads is {threads}: it must be at least 1")
    if isinstance(source, Path) and not source.is_file():
        raise ModelNotFoundError(f"there is no model file {name}: check the path")
    onnxruntime = require("onnxruntime", extra="onnx")
    available = available_providers()
    if providers is not None:
        if not providers or not set(providers) <= set(available):
            raise ModelError(
                f"providers is {list(providers)}: choose one or more of {available}, which this build of onnxruntime has"
            )
        kind = next((kind for kind, provider in PROVIDERS.items() if provider == providers[0]), "cpu")
        return OnnxSession(_open(onnxruntime, source, name, threads, list(providers)), kind, is_bound=False)
    found = find_onnx_device(device, available)
    kind, _, index = found.partition(":")
    if kind == "cpu":
        return OnnxSession(_open(onnxruntime, source, name, threads, [CPU]), "cpu", is_bound=False)
    wanted = (PROVIDERS[kind], {"device_id": index} if kind == "cuda" else {})
    session = _open(onnxruntime, source, name, threads, [wanted, CPU])
    if PROVIDERS[kind] in session.get_providers():
        return OnnxSession(session, found, is_bound=kind == "cuda")
    if device == "auto":  # the build has a provider whose device or driver is missing
        return OnnxSession(session, "cpu", is_bound=False)
    raise ArgumentError(
        f"device is {device!r}, and onnxruntime cannot start its {PROVIDERS[kind]}: check that the device is there and that its "
        "driver and libraries have the versions that this build of onnxruntime needs, or take device='cpu'"
    )


def _open(onnxruntime: Any, source: Path | bytes, name: str, threads: int | None, providers: list[Any]) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0  # 0: the number of cores
    options.log_severity_level = _FATAL
    try:
        # By its path, so that onnxruntime finds weights in files beside it.
        return onnxruntime.InferenceSession(
            source if isinstance(source, bytes) else str(source), options, providers=providers
        )
    except Exception as error:  # onnxruntime's errors have no base class of their own
        raise ModelError(f"{name} is not an ONNX model, or it is damaged: {one_line(error)}") from error


def one_line(error: Exception) -> str:
    """Return the text of an error in one line."""
    return " ".join(str(error).split())
