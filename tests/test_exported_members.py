"""The public names: all there, in order, and each from the module that defines it."""

from __future__ import annotations

import inspect

import patchloom
from patchloom import errors, patching
from patchloom.specs import patch_specs


def test_public_names_are_sorted_and_none_is_listed_twice():
    assert patchloom.__all__ == sorted(set(patchloom.__all__))


def test_every_public_name_comes_from_the_module_that_defines_it():
    for name in patchloom.__all__:
        assert not name.startswith("_")
        member = getattr(patchloom, name)
        home = member.__name__ if inspect.ismodule(member) else f"{member.__module__}.{name}"
        assert home == f"{patchloom._HOMES[name]}.{name}"


def test_the_whole_vocabulary_and_every_error_is_public():
    for module in (patch_specs, errors):
        defined = {
            name
            for name, member in inspect.getmembers(module)
            if getattr(member, "__module__", None) == module.__name__ and not name.startswith("_")
        }
        assert defined <= set(patchloom.__all__)


def test_every_patching_is_public():
    assert set(patching.__all__) <= set(patchloom.__all__)


def test_editors_are_offered_every_public_name():
    assert {*patchloom.__all__, "__version__"} <= set(dir(patchloom))


def test_a_name_that_does_not_exist_is_an_attribute_error():
    assert not hasattr(patchloom, "no_such_name")
