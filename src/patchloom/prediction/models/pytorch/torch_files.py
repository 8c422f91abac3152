"""Files of PyTorch: TorchScript, programs of `torch.export`, and pickles."""

from __future__ import annotations

import copy
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from patchloom._optional import require
from patchloom.digests import file_digest
from patchloom.errors import ModelError
from patchloom.prediction.models.callables import load_callable
from patchloom.prediction.models.devices import Precision
from patchloom.prediction.models.model import ModelDescription
from patchloom.prediction.models.pytorch.exported_program import open_program, read_extra_file
from patchloom.prediction.models.pytorch.pickled_file import check_file, read_pickled
from patchloom.prediction.models.pytorch.program_description import describe_program
from patchloom.prediction.models.pytorch.saved_network import (
    DESCRIPTION,
    ENTRY,
    SavedDescription,
    parse_description,
)
from patchloom.prediction.models.pytorch.script_file import open_script
from patchloom.prediction.models.pytorch.torch_model import TorchModel
from patchloom.prediction.models.pytorch.weights import is_safetensors, load_weights, read_safetensors, weights_in


@dataclass(frozen=True, slots=True)
class TorchFileModel(TorchModel):
    """A network that is opened again in another process, as TorchScript and programs do not pickle."""

    path: Path = Path()
    trust: bool = False

    @property
    def files(self) -> tuple[Path, ...]:
        """The file of the network."""
        return (self.path,)

    def __reduce__(self) -> tuple[Any, ...]:
        reopen = partial(
            _reopened, self.path, self.description, self.precision, dict(self.inputs), self.device, trust=self.trust
        )
        return reopen, ()


def _reopened(
    path: Path,
    description: ModelDescription,
    precision: Precision | None,
    inputs: Mapping[str, Any],
    device: str,
    *,
    trust: bool,
) -> TorchModel:
    again = open_torch_file(path, inputs=inputs, trust=trust)
    return replace(again, description=description).on(device, precision)


def open_torch_file(
    path: str | Path,
    *,
    network: str | None = None,
    arguments: Mapping[str, Any] | None = None,
    inputs: Mapping[str, Any] | None = None,
    trust: bool | None = None,
) -> TorchModel:
    """Open a file of PyTorch as a model.

    Parameters
    ----------
    path : str or Path
        A network of TorchScript, a program of `torch.export`, weights, or, if it is trusted, a pickled network.
    network : str, optional
        For weights: the function or class that makes the network, or a network, as `module:name` or `path/to/file.py:name`. If None,
        the one that the file names, which is imported only if it is trusted.
    arguments : mapping of str to object, optional
        Keyword arguments of this function or class. If None, those in the file, or none.
    inputs : mapping of str to object, optional
        Values of further inputs; see `TorchModel`.
    trust : bool, optional
        Whether Python code that the file contains or names is run. If None, it is refused.

    Raises
    ------
    ModelNotFoundError
        If there is no such file.
    ModelError
        If it contains no network and none is given, is damaged, or needs code and is not trusted.
    """
    file = Path(path).absolute()  # another process may run in another directory
    check_file(file)
    kind = _kind_of(file)
    if kind in ("TorchScript", "program"):
        if network is not None or arguments is not None:
            raise ModelError(f"{file} contains a network with its code: leave network and arguments out")
        if kind == "TorchScript":
            return TorchFileModel(
                open_script(file, trust=bool(trust)), inputs=inputs or {}, path=file, trust=bool(trust)
            )
        return _open_program(file, inputs or {}, trust=bool(trust))
    content = None if kind == "safetensors" else read_pickled(file, trust=bool(trust))
    torch = require("torch", extra="torch")
    if isinstance(content, torch.nn.Module) and network is None:
        return TorchModel(content, inputs=inputs or {})
    saved = _saved_description(file, content)
    weights = read_safetensors(file) if kind == "safetensors" else weights_in(file, content)
    reference = network or (saved.factory if trust else None)
    if reference is None:
        raise ModelError(f"{file} contains weights, and {_remedy(file, saved)}")
    made = make_network(reference, saved.arguments if arguments is None else arguments, inputs or {})
    load_weights(made.module, weights, file)
    description = made.description if saved.model == ModelDescription() else saved.model
    return replace(made, description=description)


def _saved_description(path: Path, content: Any) -> SavedDescription:
    """Return the description in a dictionary of weights; an empty one if there is none."""
    text = content.get(ENTRY) if isinstance(content, Mapping) else None
    return parse_description(path, text) if isinstance(text, str) else SavedDescription(ModelDescription())


def _remedy(path: Path, saved: SavedDescription) -> str:
    if saved.factory:
        return (
            f"names the code that makes its network, {saved.factory!r}: if you trust it, load it with trust=True (--trust), or name it "
            f"yourself with network={saved.factory!r} (--network)"
        )
    return (
        f"no network: name the function or class that makes it, as load_model({path.name!r}, network='module:name'), or --model "
        f"{path.name} --network module:name"
    )


def _kind_of(path: Path) -> str:
    """Return what a file contains, by its content."""
    if is_safetensors(path):
        return "safetensors"
    if path.suffix.lower() == ".pt2":
        return "program"
    if not zipfile.is_zipfile(path):
        return "pickle"
    try:
        with zipfile.ZipFile(path) as archive:
            members = {name.partition("/")[2] or name for name in archive.namelist()}
    except zipfile.BadZipFile as error:
        raise ModelError(f"{path} is damaged ({error}): copy it again") from error
    if "constants.pkl" in members:
        return "TorchScript"
    return "program" if members & {"archive_format", "serialized_exported_program.json"} else "pickle"


def _open_program(path: Path, inputs: Mapping[str, Any], *, trust: bool) -> TorchFileModel:
    program = open_program(path, trust=trust)
    text, module = read_extra_file(path, DESCRIPTION), program.module()
    known = describe_program(program, module) if text is None else parse_description(path, text).model
    # The file is the identity: the code that PyTorch makes of a program differs between its versions.
    described = replace(known, identity=f"torch.export {file_digest(path)[:16]}")
    return TorchFileModel(module, described, inputs=inputs, path=path, trust=trust)


def make_network(
    reference: str, arguments: Mapping[str, Any], inputs: Mapping[str, Any] = MappingProxyType({})
) -> TorchModel:
    """Make a network by a function or class of the user.

    Parameters
    ----------
    reference : str
        A function or class that makes the network, as `module:name` or `path/to/file.py:name`. If it is a network itself, a copy of
        it is returned.
    arguments : mapping of str to object
        Keyword arguments of the function.
    inputs : mapping of str to object
        Values of further inputs of the network; see `TorchModel`.

    Raises
    ------
    ModelError
        If the function cannot be imported, fails, or makes something else.
    """
    torch = require("torch", extra="torch")
    found: Any = load_callable(reference, allow_class=True)
    if isinstance(found, (torch.nn.Module, TorchModel)):
        made = copy.deepcopy(found)  # it may get other weights from another file
    else:
        try:
            made = found(**arguments)
        except Exception as error:  # code of the user may raise any error
            raise ModelError(
                f"{reference} makes no network of the arguments {dict(arguments)} ({type(error).__name__}: {error}): give its own "
                "arguments with arguments= (--argument)"
            ) from error
    if isinstance(made, TorchModel):
        return replace(made, inputs=inputs) if inputs else made
    if not isinstance(made, torch.nn.Module):
        raise ModelError(
            f"{reference} makes a {type(made).__name__}: name a function or class that makes a torch.nn.Module"
        )
    return TorchModel(made, inputs=inputs)
