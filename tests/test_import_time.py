"""Imports: the package imports no heavy package, and no module imports an optional one."""

from __future__ import annotations

import subprocess
import sys

# In a fresh interpreter, because that of the tests has imported everything already.
IMPORT_PACKAGE = "import patchloom"
# The modules of training may import PyTorch.
IMPORT_EVERY_MODULE = """
import importlib, pkgutil, sys, patchloom
sys.modules["patchloom.torch"] = None
for module in pkgutil.walk_packages(patchloom.__path__, "patchloom."):
    if not module.name.endswith(("__main__", ".torch")):
        importlib.import_module(module.name)
"""
OPTIONAL = {
    *("dask", "distributed", "h5py", "lightning", "matplotlib", "numba", "onnx", "onnxruntime", "pylibCZIrw", "scipy"),
    *("hypothesis", "pytest", "skimage", "torch", "xarray", "zarr"),
}
HEAVY = {"imagecodecs", "numpy", "pydantic", "rich", "tensorstore", "tifffile", "typer", "yaozarrs"}


def imported_by(statements: str) -> set[str]:
    """Return the top-level modules that a fresh interpreter has after some statements."""
    code = f"{statements}\nimport sys\nprint(*sorted({{name.partition('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_package():
    """`import patchloom` imports no heavy and no optional package."""
    assert imported_by(IMPORT_PACKAGE).isdisjoint(HEAVY | OPTIONAL)


def test_modules():
    """No module imports an optional package, except for those of training."""
    imported = imported_by(IMPORT_EVERY_MODULE)

    assert "numpy" in imported
    assert imported.isdisjoint(OPTIONAL)
