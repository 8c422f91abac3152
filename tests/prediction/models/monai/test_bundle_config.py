"""Configurations of MONAI bundles are resolved without running code."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from patchloom import ModelError
from patchloom.prediction.models.monai.bundle_config import LARGEST_CONFIG, BundleConfig, Unevaluated, read_tree

TREE = {
    "channels": [16, 32],
    "first": "@channels::0",
    "old": "@channels#1",
    "net": {"in": "@::out", "out": 2, "deep": {"up": "@::::out", "root": "@channels"}, "copy": "%net::deep"},
    "literal": "$(1, -2.5, 'text', [True, None])",
    "of_reference": "$[@first, @net::out]",
    "alone": "$@channels",
    "code": "$__import__('os').system('true')",
    "call": "$len(@channels)",
    "mail": "someone@example.org",
    "at": "@ home",
}


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("channels", [16, 32]),
        ("first", 16),
        ("old", 32),
        ("net::in", 2),
        ("net::deep::up", 2),
        ("net::copy", {"up": 2, "root": [16, 32]}),
        ("literal", [1, -2.5, "text", [True, None]]),
        ("of_reference", [16, 2]),
        ("alone", [16, 32]),
        ("code", Unevaluated("$__import__('os').system('true')")),
        ("call", Unevaluated("$len(@channels)")),
        ("mail", "someone@example.org"),
        ("at", "@ home"),
        ("none", None),
        ("channels::7", None),
        ("channels::x", None),
        ("first::a", None),
    ],
)
def test_get(place, value):
    """References, copies and literals are resolved; code is not run."""
    assert BundleConfig(TREE, Path()).get(place) == value


@pytest.mark.parametrize(
    "text", ["$(", "$1 +", "$" + "[" * 500, "$" + "-" * 5000 + "1", "$lambda: 1", "$@channels.copy()", "$"]
)
def test_code(text):
    """Whatever is not a literal is code."""
    assert BundleConfig({"a": text, "channels": [1]}, Path()).get("a") == Unevaluated(text)


def test_evaluated():
    """Only a trusted configuration evaluates code, at its place."""
    config = BundleConfig({"a": {"b": "$1 + 1"}}, Path(), evaluate=lambda place: f"value of {place}")
    assert config.get("a") == {"b": "value of a::b"}


def test_other_file(tmp_path):
    """A copy may come from another file of the bundle, but not from outside."""
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "net.json").write_text(json.dumps({"net": {"depth": "@depth"}, "depth": 3}))
    (tmp_path / "secret.json").write_text("{}")
    config = BundleConfig({"a": "%net.json::net", "b": "%../secret.json", "c": "%none.json::a"}, tmp_path / "bundle")
    assert config.get("a") == {"depth": 3}
    with pytest.raises(ModelError, match=r"%../secret.json leaves the folder of the bundle"):
        config.get("b")
    with pytest.raises(ModelError, match=r"none.json cannot be read"):
        config.get("c")


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"a": "@a"}, "@a leads back to itself"),
        ({"a": "@b", "b": ["@a"]}, "leads back to itself"),
        ({"a": "%a"}, "leads back to itself"),
        ({"a": "@b"}, "@b leads nowhere"),
        ({"a": "%b::c"}, "@b::c leads nowhere"),
        ({"a": "$[@b]"}, "@b leads nowhere"),
        ({f"a{index}": f"@a{index + 1}" for index in range(100)} | {"a": "@a0"}, "leads back to itself"),
    ],
)
def test_bad_references(tree, message):
    """A reference that leads nowhere or back is refused."""
    with pytest.raises(ModelError, match=message):
        BundleConfig(tree, Path()).get("a")


@pytest.mark.parametrize("content", [b"\xff\xfe", b"{", b"[" * 100_000, b"[]", b"3"])
def test_damaged_file(tmp_path, content):
    """A file that is not a mapping in JSON is refused by its name."""
    path = tmp_path / "inference.json"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"inference.json"):
        read_tree(path)


def test_large_file(tmp_path):
    """A file that is far too large is not read."""
    path = tmp_path / "inference.json"
    with path.open("wb") as file:
        file.truncate(LARGEST_CONFIG + 1)
    with pytest.raises(ModelError, match="are read: it is not a configuration"):
        read_tree(path)


def test_damaged_yaml(tmp_path):
    """Damaged YAML, and tags that would make objects, are refused."""
    pytest.importorskip("yaml")
    path = tmp_path / "inference.yaml"
    for text in ("a: [", "a: !!python/object/apply:os.system ['true']"):
        path.write_text(text)
        with pytest.raises(ModelError, match=r"inference.yaml cannot be read"):
            read_tree(path)
