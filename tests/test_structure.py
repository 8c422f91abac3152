"""Packages are small, modules have a size, imports have no cycles, and no module hides a name that its package exports."""

import ast
from collections import Counter
from graphlib import TopologicalSorter
from pathlib import Path

import patchloom

ROOT = Path(patchloom.__file__).parent
MODULES = [path for path in ROOT.rglob("*.py") if path.name not in {"__init__.py", "__main__.py"}]

MOST_MODULES = 20
FEWEST_LINES = 40

SHORT_MODULES = {
    "patch_specs.py": "keeps `patchloom.patch_specs` importable, a name that is fixed",
    "forked_process.py": "used by the stacks and the sinks that hold TensorStore",
    "sinks/write_errors.py": "used by all sinks, the ledger, locks and figures",
}
"""Modules of fewer lines than others, and the reason why they are modules."""


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_package_sizes():
    """A package has few enough modules for a newcomer to survey."""
    sizes = Counter(path.parent for path in MODULES)
    assert {_name(package): size for package, size in sizes.items() if size > MOST_MODULES} == {}


def test_module_sizes():
    """A module of a few lines is part of the module that uses it, unless there is a reason."""
    short = {_name(path) for path in MODULES if len(path.read_text("utf-8").splitlines()) < FEWEST_LINES}
    assert short == set(SHORT_MODULES)


def test_module_names():
    """No package exports a function or class with the name of one of its modules, which would hide the module."""
    for package in {path.parent for path in MODULES}:
        exported = {
            name.asname or name.name
            for node in ast.walk(ast.parse((package / "__init__.py").read_text("utf-8")))
            if isinstance(node, ast.ImportFrom)
            for name in node.names
        }
        assert exported.isdisjoint({path.stem for path in MODULES if path.parent == package}), _name(package)


def test_no_cycles():
    """No module imports itself by way of others, within a package either, lazily or for its types."""
    modules = {("patchloom", *path.relative_to(ROOT).with_suffix("").parts): path for path in ROOT.rglob("*.py")}
    paths = {".".join(parts).removesuffix(".__init__"): path for parts, path in modules.items()}
    imports = {
        module: {
            name if (name := f"{node.module}.{alias.name}") in paths else node.module
            for node in ast.walk(ast.parse(path.read_text("utf-8")))
            if isinstance(node, ast.ImportFrom)
            for alias in node.names
        }
        - {module}
        for module, path in paths.items()
    }
    TopologicalSorter(imports).prepare()  # raises CycleError, which names the modules
