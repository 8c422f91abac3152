"""Loading of models: from a file, or by the name of a function."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from patchloom.argument_checks import file_path, flag, instance, instances, shown
from patchloom.errors import ModelError
from patchloom.local_paths import normalize_path
from patchloom.prediction.models.bioimageio.package import WeightsFormat, is_package
from patchloom.prediction.models.callables import load_callable, names_callable
from patchloom.prediction.models.devices import Precision, check_precision, parse_devices
from patchloom.prediction.models.model import Model
from patchloom.prediction.models.monai.bundle import is_bundle
from patchloom.prediction.models.prepare import prepare_model


@dataclass(frozen=True, slots=True)
class ModelKind:
    """A kind of model files."""

    title: str
    """Its name in messages, in the plural."""

    suffixes: tuple[str, ...]
    """Endings of its files, lower case."""

    opener: str
    """What opens a path, as `module:name` within this package. It is imported when such a file is opened; takes options by name."""

    options: frozenset[str] = frozenset()
    """The options of `load_model` that it takes."""

    is_folder: Callable[[Path], bool] | None = None
    """Whether a folder is such a model."""


KINDS = (
    ModelKind("ONNX networks", (".onnx",), "onnx.onnx_model:OnnxModel", frozenset({"layout", "inputs", "output"})),
    ModelKind(
        "ZEISS models", (".czann", ".czseg", ".czmodel"), "zeiss.czann_model:CzannModel", frozenset({"layout", "bgr"})
    ),
    ModelKind(
        "bioimage.io packages",
        (".zip", ".yaml", ".yml"),
        "bioimageio.bioimageio_model:BioimageioModel",
        frozenset({"weights", "trust"}),
        is_package,
    ),
    ModelKind("MONAI bundles", (), "monai.monai_model:MonaiModel", frozenset({"layout", "trust"}), is_bundle),
    ModelKind("CAREamics checkpoints", (".ckpt",), "careamics.careamics_model:CareamicsModel", frozenset({"trust"})),
    ModelKind(
        "networks of PyTorch",
        (".pt", ".pth", ".pt2", ".ts", ".torchscript", ".safetensors", ".ckpt"),
        "pytorch.torch_files:open_torch_file",
        frozenset({"network", "arguments", "inputs", "trust"}),
    ),
)
"""All kinds of model files. The first that a file fits is taken."""

_CHECKS: dict[str, Callable[[Any], Any]] = {
    "layout": lambda value: instance("layout", value, str),
    "inputs": lambda value: instance("inputs", value, Mapping, "give values by the names of inputs"),
    "output": lambda value: (
        value
        if isinstance(value, str)
        else instances("output", value, str, "the name of an output, or a sequence of names")
    ),
    "bgr": lambda value: flag("bgr", value),
    "network": lambda value: instance(
        "network",
        value,
        str,
        "write 'module:name', or load the weights yourself (network.load_state_dict) and give the network to predict",
    ),
    "arguments": lambda value: instance("arguments", value, Mapping, "give keyword arguments by their names"),
    "weights": lambda value: value,  # checked by the package
    "trust": lambda value: flag("trust", value),
}
"""What checks each option before a file is read."""

_SUFFIXES = ", ".join(dict.fromkeys(suffix for kind in KINDS for suffix in kind.suffixes))


def load_model(
    reference: str | Path,
    *,
    layout: str | None = None,
    inputs: Mapping[str, Any] | None = None,
    output: str | Sequence[str] | None = None,
    bgr: bool | None = None,
    weights: WeightsFormat | None = None,
    network: str | None = None,
    arguments: Mapping[str, Any] | None = None,
    trust: bool | None = None,
    device: str | Sequence[str] | None = "auto",
    precision: Precision | None = None,
) -> Model:
    """Load a model.

    Parameters
    ----------
    reference : str or Path
        A model file (`.onnx`, `.czann`, `.czseg`, `.czmodel`), a package of bioimage.io (a folder, `.zip`, or its `rdf.yaml` or
        `bioimageio.yaml`), a MONAI bundle (a folder), a checkpoint of CAREamics (`.ckpt`), or a file of PyTorch: what
        `patchloom.torch.save_model` wrote, a program of `torch.export` (`.pt2`), a network of TorchScript (such as `.pt` or `.ts`),
        or, with `network`, weights (`.pt`, `.pth`, `.ckpt`, `.safetensors`). Or a callable as `module:name` or
        `path/to/file.py:name`. The
        name may be dotted. Modules are searched in the current directory first, as by `python -m`, and a file can import its
        neighbors: both directories are added to `sys.path`.
    layout : str, optional
        Axes of the network's input, outermost first, such as `"NCHW"`; see `TensorLayout`. For model files only. If None, the
        layout is inferred from the file.
    inputs : mapping of str to number or array, optional
        Values of inputs of a network other than the image, by name; see `OnnxModel` and `TorchModel`.
    output : str or sequence of str, optional
        Name of the output of an ONNX network to use, or several names. If None, all outputs.
    bgr : bool, optional
        Whether a ZEISS model takes the first three channels of an image in the order blue, green, red; see `CzannModel`. If
        None, the order that its file declares.
    weights : {"onnx", "torchscript", "pytorch_state_dict"}, optional
        Which weights of a bioimage.io package are used. If None, the first of these that it contains.
    network : str, optional
        The function or class that makes the network of a file with weights alone, as `module:name` or `path/to/file.py:name`: a state
        dict or a checkpoint of `torch.save`, or a file of safetensors. Prefixes that the names of all weights share, such as `module.`,
        are removed. If None, the one that the file names, which needs `trust`.
    arguments : mapping of str to object, optional
        Keyword arguments of this function or class. If None, those in the file, else none.
    trust : bool, optional
        Whether code that comes with a model, or that its file names, is run, such as that of a pickled network. If None, it is
        refused.
    device : str or sequence of str, optional
        Where the model runs; see `predict`.
    precision : {"float32", "bfloat16", "float16"}, optional
        Dtype in which the network computes; see `predict`.

    Returns
    -------
    Model
        A callable from a batch `(B, C, (Z), Y, X)` to `(B, C', (Z), Y, X)`.

    Raises
    ------
    ArgumentError
        If the model cannot run on the device, or not in this precision.
    ModelNotFoundError
        If there is no such file.
    ModelError
        If the file is of an unknown kind or cannot be loaded; if the module cannot be imported, it has no such attribute, or the
        attribute is not callable; or if an option is given that is not for this kind of model.
    MissingExtraError
        If the file is a network, and onnxruntime is not installed.

    Examples
    --------
    >>> load_model("numpy:negative")
    <ufunc 'negative'>
    >>> load_model("network.h5")
    Traceback (most recent call last):
        ...
    patchloom.errors.ModelError: 'network.h5' is not a model that can be loaded: give a file (.onnx, ...), the folder
    of a bioimage.io package or MONAI bundle, or a function that calls the network (module:name or path/to/file.py:name)
    """
    if not isinstance(reference, str) or reference:  # an empty text is refused below
        file_path("reference", reference)
    text = str(normalize_path(reference))
    parse_devices(device), check_precision(precision)  # before a file is read
    options = {"layout": layout, "inputs": inputs, "output": output, "bgr": bgr, "weights": weights, "network": network}
    options |= {"arguments": arguments, "trust": trust}
    given = {name: _CHECKS[name](value) for name, value in options.items() if value is not None}
    kind = _kind_of(Path(text), given)
    model = _load_callable(text, given) if kind is None else _open(kind, text, given)
    return prepare_model(model, device, precision)


def _kind_of(path: Path, given: Mapping[str, Any]) -> ModelKind | None:
    by_suffix = [kind for kind in KINDS if path.suffix.lower() in kind.suffixes]
    folders = [kind for kind in KINDS if kind.is_folder is not None and path.is_dir() and kind.is_folder(path)]
    possible = folders + by_suffix
    # A checkpoint may be of several tools: the options decide.
    return next((kind for kind in possible if given.keys() <= kind.options), next(iter(possible), None))


def _open(kind: ModelKind, text: str, given: Mapping[str, Any]) -> Model:
    for name, value in given.items():
        if name not in kind.options:
            raise ModelError(
                f"{name} is {shown(value)}, which is for {_kinds_with(name)}: leave it out, {text} is one of the {kind.title}"
            )
    module, _, name = kind.opener.partition(":")
    opener = getattr(importlib.import_module(f"{__package__}.{module}"), name)
    return cast("Model", opener(text, **given))


def _kinds_with(option: str) -> str:
    kinds = [kind for kind in KINDS if option in kind.options]
    return " and ".join(f"{kind.title} ({', '.join(kind.suffixes) or 'folders'})" for kind in kinds)


def _load_callable(text: str, given: Mapping[str, Any]) -> Model:
    if not names_callable(text):
        raise ModelError(
            f"{text!r} is not a model that can be loaded: give a file ({_SUFFIXES}), the folder of a bioimage.io package "
            "or MONAI bundle, or a function that calls the network (module:name or path/to/file.py:name)"
        )
    for option, value in given.items():
        raise ModelError(
            f"{option} is {shown(value)}, which is for {_kinds_with(option)}: leave it out, {text} gets (B, C, (Z), Y, X)"
        )
    found = load_callable(text)
    if not _takes_batch(found):
        raise ModelError(
            f"{text} is a function that takes no batch: name the network that it makes, or give a file of weights with network={text!r} "
            f"(--network {text})"
        )
    return cast("Model", found)


def _takes_batch(found: Callable[..., Any]) -> bool:
    try:
        parameters = inspect.signature(found).parameters
    except (TypeError, ValueError):  # some functions in C have no signature
        return True
    return bool(parameters)
