"""Weights inside objects of PyTorch, onnxruntime and numba, without importing these."""

from __future__ import annotations

import io
import re
import sys
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from patchloom.digests import array_digest, text_digest
from patchloom.prediction.models.onnx.onnx_files import onnx_digest


@dataclass(frozen=True, slots=True)
class ForeignWeights:
    """The weights and attributes of an object of another library.

    Parameters
    ----------
    digest : str
        Digest of the weights.
    attributes : mapping of str to object
        Other objects that it computes with.
    unknown : str
        The reason why it cannot be identified; empty if it can.
    """

    digest: str = ""
    attributes: Mapping[str, Any] = field(default_factory=dict)
    unknown: str = ""


def foreign_weights(value: Any) -> ForeignWeights | None:
    """Read the weights of an object of another library, which are not among its attributes in Python.

    Parameters
    ----------
    value : object
        Any object.

    Returns
    -------
    ForeignWeights or None
        None if it is not an object of such a library.
    """
    library = {kind.__module__.partition(".")[0] for kind in type(value).__mro__} & _READERS.keys()
    for name in sorted(library):
        try:
            found = _READERS[name](value)
        except Exception as error:  # noqa: BLE001  # other versions have other attributes and errors
            return ForeignWeights(unknown=f"is a {type(value).__qualname__} whose weights cannot be read ({error})")
        if found is not None:
            return found
    return None


def _from_torch(value: Any) -> ForeignWeights | None:
    torch = sys.modules.get("torch")
    if torch is None:
        return None
    if isinstance(value, torch.Tensor):
        return ForeignWeights(_tensor_digest(torch, value))
    if isinstance(value, (torch.jit.ScriptModule, torch.jit.ScriptFunction)):
        return ForeignWeights(_script_digest(torch, value))
    if isinstance(value, torch.nn.Module):
        return _module_weights(value)
    return None


def _tensor_digest(torch: Any, tensor: Any) -> str:
    plain = tensor.detach().cpu()
    plain = (plain.dequantize() if plain.is_quantized else plain).resolve_conj().resolve_neg().reshape(-1)
    plain = plain if plain.stride() == (1,) else plain.clone(memory_format=torch.contiguous_format)
    elements = plain.view(torch.uint8).numpy() if plain.numel() else plain.numpy()
    # On another kind of device, the results have other bits.
    device = "" if tensor.device.type == "cpu" else f"{tensor.device.type} "
    return f"{device}{tensor.dtype} {tuple(tensor.shape)} {array_digest(elements)}"


def _script_digest(torch: Any, value: Any) -> str:
    """Return the digest of a saved TorchScript program, without its debug information."""
    buffer = io.BytesIO()
    torch.jit.save(value, buffer)
    with zipfile.ZipFile(buffer) as archive:
        members = {
            info.filename.partition("/")[2]: _without_accidents(info, archive)
            for info in archive.infolist()
            if not info.filename.endswith((".debug_pkl", "serialization_id"))
        }
    return text_digest(repr(sorted(members.items())))


def _without_accidents(info: zipfile.ZipInfo, archive: zipfile.ZipFile) -> Any:
    """Return what identifies a member, without what differs between two saves or between devices of one kind."""
    if info.filename.endswith(".py"):
        return _in_order(archive.read(info))
    if info.filename.endswith("/data.pkl"):
        return re.sub(rb"cuda:\d+", b"cuda", archive.read(info))
    return info.CRC


def _in_order(code: bytes) -> list[bytes]:
    """Sort the constants of a class: PyTorch writes them in random order."""
    return sorted(code.splitlines(), key=lambda line: line if b" : Final[" in line else b"")


def _module_weights(module: Any) -> ForeignWeights:
    state = dict(vars(module))
    children = state.pop("_modules")
    if "_orig_mod" in children:  # torch.compile wraps the module with a cache
        return ForeignWeights(attributes={"module": children["_orig_mod"]})
    inside = {**state.pop("_parameters"), **state.pop("_buffers"), **children}
    code = getattr(module, "code", None) if "_graph" in state else None  # made by torch.fx or torch.export
    derived = {"_graph", "_code"} if code else set()
    named = {f"{name!r}": item for name, item in inside.items()}
    attributes = {
        f"attribute {name!r}": _without_handles(name, state[name])
        for name in sorted(state.keys() - derived)
        if not (name.startswith("_") and isinstance(state[name], (dict, type(None))) and not state[name])
    }
    return ForeignWeights(f"{list(children)} {code}", {**named, **attributes})


def _without_handles(name: str, item: Any) -> Any:
    """Return hooks without their numbers, which differ between processes."""
    return list(item.values()) if name.startswith("_") and "hooks" in name and isinstance(item, dict) else item


def _from_onnxruntime(value: Any) -> ForeignWeights | None:
    if type(value).__name__ != "InferenceSession":
        return None
    content, path = getattr(value, "_model_bytes", None), getattr(value, "_model_path", None)
    if content is not None:
        return ForeignWeights(f"{onnx_digest(bytes(content))} {value.get_providers()}")
    return None if path is None else ForeignWeights(f"{onnx_digest(Path(path))} {value.get_providers()}")


def _from_numba(value: Any) -> ForeignWeights | None:
    function = getattr(value, "py_func", None)
    return None if function is None else ForeignWeights(attributes={"function": function})


_READERS = {"torch": _from_torch, "onnxruntime": _from_onnxruntime, "numba": _from_numba}
