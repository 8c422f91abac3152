"""The public names: complete, sorted, and each from the module that defines it."""

from __future__ import annotations

import inspect

import patchloom
from patchloom import errors, patching
from patchloom.specs import patch_specs


def test_sorted_once():
    """Public names are sorted, and each is listed once."""
    assert patchloom.__all__ == sorted(set(patchloom.__all__))


def test_homes():
    """Every public name is imported from the module that defines it."""
    for name in patchloom.__all__:
        assert not name.startswith("_")
        member = getattr(patchloom, name)
        home = member.__name__ if inspect.ismodule(member) else f"{member.__module__}.{name}"
        assert home == f"{patchloom._HOMES[name]}.{name}"


def test_vocabulary_and_errors():
    """All kinds of specifications and all errors are public."""
    for module in (patch_specs, errors):
        defined = {
            name
            for name, member in inspect.getmembers(module)
            if getattr(member, "__module__", None) == module.__name__ and not name.startswith("_")
        }
        assert defined <= set(patchloom.__all__)


def test_patchings():
    """Every patching is public."""
    assert set(patching.__all__) <= set(patchloom.__all__)


def test_dir():
    """`dir` lists every public name, for editors."""
    assert {*patchloom.__all__, "__version__"} <= set(dir(patchloom))


def test_unknown_name():
    """A name that does not exist is an AttributeError."""
    assert not hasattr(patchloom, "no_such_name")
