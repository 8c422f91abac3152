"""Programs of `torch.export` (`.pt2`): checked for code, then loaded.

`torch.export.load` runs what a file contains: it unpickles objects, evaluates expressions, imports compiled libraries, and resolves the
names of operators to any function that PyTorch can reach. So a file is checked first. It passes if it contains tensors, operators
of PyTorch and arithmetic of sizes, which is all that the export of a usual network needs.
"""

from __future__ import annotations

import ast
import json
import re
import zipfile
from collections.abc import Iterator, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

from patchloom._optional import require
from patchloom.errors import ModelError
from patchloom.prediction.models.archives import pack_members, read_members

_MEMBERS = re.compile(
    r"[^/]+/(models/model\.json|data/weights/(weight_\d+|model_weights_config\.json)|extra/[^/]+"
    r"|data/constants/(tensor_\d+|model_constants_config\.json)|data/sample_inputs/model\.pt"
    r"|archive_format|archive_version|byteorder|version|\.data/(version|serialization_id)|\.format_version|\.storage_alignment)"
)
_OPERATORS = re.compile(
    r"torch\.ops\.(aten|prims)\.\w+\.\w+|torch\.sym_\w+|math\.(trunc|ceil|floor|sqrt)"
    r"|_operator\.(add|sub|mul|floordiv|truediv|mod|neg|pow|eq|ne|lt|le|gt|ge|and_|or_|not_|getitem)"
)
_WRITES_FILES = re.compile(r"torch\.ops\.aten\.(from_file|save|_save|load)\b")
_SIZE_FUNCTIONS = {
    *("Symbol", "Integer", "Float", "Rational", "Add", "Mul", "Max", "Min", "FloorDiv", "CleanDiv", "CeilDiv", "Mod"),
    *("PythonMod", "Eq", "Ne", "Lt", "Le", "Gt", "Ge", "And", "Or", "Not", "ModularIndexing", "max", "min"),
    *("Equality", "Unequality", "StrictLessThan", "LessThan", "StrictGreaterThan", "GreaterThan", "int_oo", "L"),
}
_NAMES = (
    "name",
    "as_name",
    "forward_arg_names",
    "fqn",
    "buffer_name",
    "parameter_name",
    "tensor_constant_name",
    "graph_name",
)
_IDENTIFIER = re.compile(r"[\w.]*")
"""Names of tensors, weights and inputs; the code that PyTorch makes of a program contains them."""
_SYMBOL = re.compile(r"\w{1,40}")
_NODES = (
    *(ast.Expression, ast.Call, ast.keyword, ast.Name, ast.Load, ast.Constant, ast.Subscript, ast.Attribute),
    *(ast.BoolOp, ast.And, ast.Or, ast.Compare, ast.BinOp, ast.UnaryOp, ast.Not, ast.USub),
    *(ast.Add, ast.Sub, ast.Mult, ast.FloorDiv, ast.Mod, ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt, ast.GtE),
)
_LONGEST = 20_000
"""Characters of the longest expression that is parsed."""


def open_program(path: Path, *, trust: bool = False) -> Any:
    """Load a program of `torch.export`.

    Parameters
    ----------
    path : Path
        The file.
    trust : bool
        Whether it may contain code; if not, it is checked first.

    Returns
    -------
    torch.export.ExportedProgram
        The program.

    Raises
    ------
    ModelError
        If the file cannot be loaded, or contains code and is not trusted.
    """
    torch = require("torch", extra="torch")
    _archive(path).close()
    members = read_members(path)
    if not trust:
        _check_program(torch, path, members)
    try:
        return torch.export.load(pack_members(members))
    except Exception as error:  # PyTorch raises errors of many types
        raise ModelError(
            f"{path} is not a program that PyTorch {torch.__version__} can load ({type(error).__name__}: {error}): export the "
            "network with this version"
        ) from error


def read_extra_file(path: Path, name: str) -> str | None:
    """Return a text that was saved beside a program; None if there is none.

    Parameters
    ----------
    path : Path
        The file of the program.
    name : str
        Name of the text.

    Raises
    ------
    ModelError
        If the file is not a program.
    """
    with _archive(path) as archive:
        found = [member for member in archive.namelist() if re.fullmatch(rf"[^/]+/extra/{re.escape(name)}", member)]
        return archive.read(found[0]).decode(errors="replace") if found else None


def _archive(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except (OSError, zipfile.BadZipFile) as error:
        raise ModelError(
            f"{path} is not a program of torch.export ({error}): save one with torch.export.save"
        ) from error


def _check_program(torch: Any, path: Path, members: Mapping[str, bytes]) -> None:
    try:
        for found in _code_in(torch, members):
            raise ModelError(
                f"{path} contains code ({found}), which is run when the network is loaded: if you trust its origin, load it with "
                "trust=True (--trust)"
            )
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError, zipfile.BadZipFile) as error:
        raise ModelError(f"{path} is not a program of torch.export: save one with torch.export.save") from error


def _code_in(torch: Any, members: Mapping[str, bytes]) -> Iterator[str]:
    """Yield what a program contains beside tensors, operators of PyTorch and arithmetic of sizes."""
    if len({name.partition("/")[0] for name in members}) > 1:  # PyTorch might read another one than is checked
        yield "parts of the same name"
    for member, content in members.items():
        if not _MEMBERS.fullmatch(member):
            yield f"the part {member!r}"
        if member.endswith("_config.json"):
            config = json.loads(content)["config"]
            yield from (f"a pickled {name!r}" for name, tensor in config.items() if tensor["use_pickle"])
        if member.endswith("/sample_inputs/model.pt") and not _loads_safely(torch, content):
            yield "pickled sample inputs"
        if member.endswith("/models/model.json"):
            yield from _code_in_graph(json.loads(content))


def _loads_safely(torch: Any, content: bytes) -> bool:
    try:
        torch.load(BytesIO(content), weights_only=True)
    except Exception:  # noqa: BLE001  # whatever is wrong with it, PyTorch would unpickle it
        return False
    return True


def _code_in_graph(value: Any) -> Iterator[str]:
    if isinstance(value, list):
        for item in value:
            yield from _code_in_graph(item)
    if not isinstance(value, dict):
        return
    for name, item in value.items():
        if name in _NAMES and isinstance(item, str) and not _IDENTIFIER.fullmatch(item):  # becomes Python code
            yield f"the name {item!r}"
        if name == "metadata" and "\r" in json.dumps(item, ensure_ascii=False).replace(
            "\\r", "\r"
        ):  # becomes a comment
            yield "a comment of several lines"
        if name == "target" and (not _OPERATORS.fullmatch(str(item)) or _WRITES_FILES.match(str(item))):
            yield f"the operator {item!r}"
        expressions = item if name == "guards_code" else [item] if name == "expr_str" else []
        yield from (f"the expression {text!r}" for text in expressions or () if not _is_arithmetic(text))
        yield from _code_in_graph(item)


def _is_arithmetic(text: str) -> bool:
    """Return whether an expression consists of numbers, sizes of tensors and arithmetic.

    Examples
    --------
    >>> _is_arithmetic("Mul(Integer(4), Symbol('s6', positive=True))"), _is_arithmetic("L['x'].size()[2] // 2 != 1")
    (True, True)
    >>> _is_arithmetic("__import__('os').system('ls')"), _is_arithmetic("().__class__")
    (False, False)
    """
    if len(text) > _LONGEST:
        return False
    try:
        nodes = list(ast.walk(ast.parse(text, mode="eval")))
    except SyntaxError:
        return False
    return all(isinstance(node, _NODES) and _is_plain(node) for node in nodes)


def _is_plain(node: ast.AST) -> bool:
    if isinstance(node, ast.Name):
        return node.id in _SIZE_FUNCTIONS or re.fullmatch(r"[suz]\d+", node.id) is not None
    if isinstance(node, ast.Attribute):
        return node.attr in ("size", "stride", "storage_offset")
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return _SYMBOL.fullmatch(node.value) is not None and "__" not in node.value
    return True
