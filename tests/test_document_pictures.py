"""The pictures of the documents: each is shown, in true color, large enough and not too large a file."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

pytest.importorskip("matplotlib")
Image = pytest.importorskip("PIL.Image")

ROOT = Path(__file__).parents[1]
PICTURES = sorted((ROOT / "docs").rglob("*.png"))
SHOWN = re.compile(r"!\[([^\]]*)\]\(([^)]+\.png)\)")


def test_strategies_shown(tmp_path):
    """The example draws the pictures that docs/strategies.md shows, and no others."""
    runpy.run_path(str(ROOT / "examples" / "strategies.py"))["main"](tmp_path, n_epochs=2)
    shown = [Path(path).name for _, path in SHOWN.findall((ROOT / "docs" / "strategies.md").read_text("utf-8"))]
    assert sorted(shown) == sorted(path.name for path in tmp_path.iterdir())


def test_every_picture_is_described():
    """Every picture is shown by a document, with a description for those who cannot see it."""
    documents = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    shown = [
        ((document.parent / path).resolve(), words)
        for document in documents
        for words, path in SHOWN.findall(document.read_text("utf-8"))
    ]
    assert {path for path, _ in shown} == set(PICTURES)
    assert all(len(words.split()) > 3 for _, words in shown)


@pytest.mark.parametrize("path", PICTURES, ids=lambda path: path.name)
def test_true_color(path: Path):
    """Pictures are RGB without a palette, at least 1000 pixels wide, and below 420 kB."""
    with Image.open(path) as picture:
        assert picture.mode == "RGB"
        assert picture.width >= 1000
    assert path.stat().st_size < 420_000
