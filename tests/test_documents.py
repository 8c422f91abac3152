"""The snippets of the documents run, and the files, links and `make` targets that documents name exist.

A document is one session: its ```` ```python ```` blocks run in order, in an empty folder, and share their names. A
block in an HTML comment runs as well and is not shown: a place to make the files that the next block opens. Blocks with
a prompt (`>>>`) are compared with what they print, as docstrings are.
"""

from __future__ import annotations

import doctest
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
FENCE = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


def run(snippet: str, names: dict[str, object], document: Path, line: int) -> None:
    """Run one block of a document whose first line is `line`, so that a traceback points there."""
    if ">>>" not in snippet:
        exec(compile("\n" * (line - 1) + snippet, str(document), "exec"), names)
        return
    session = doctest.DocTestParser().get_doctest(snippet, names, document.name, str(document), line - 1)
    runner = doctest.DebugRunner(optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    runner.run(session, clear_globs=False)
    names.update(session.globs)


def documents_with(pattern: re.Pattern[str]) -> list[object]:
    """Return the documents in which a pattern occurs, as parameters."""
    return [pytest.param(d, id=str(d.relative_to(ROOT))) for d in DOCUMENTS if pattern.search(d.read_text("utf-8"))]


@pytest.mark.parametrize("document", documents_with(FENCE))
def test_snippets(document: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The Python snippets of a document run in order, and print what it shows."""
    monkeypatch.chdir(tmp_path)
    text = document.read_text("utf-8")
    if "patchloom.torch" in text:
        pytest.importorskip("torch")
    if "export_bioimageio(" in text:
        pytest.importorskip("bioimageio.spec")
    names: dict[str, object] = {"__name__": "__main__"}
    for fence in FENCE.finditer(text):
        run(fence[1], names, document, text.count("\n", 0, fence.start(1)) + 1)


def test_make_targets():
    """Every `make` target that a document names is in the Makefile."""
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    for document in DOCUMENTS:
        named = set(re.findall(r"(?:^|`)make ([a-z]+)", document.read_text("utf-8"), re.MULTILINE))
        assert named <= targets, document


@pytest.mark.parametrize("document", documents_with(re.compile(r"\]\((?!http)")))
def test_links(document: Path):
    """Every link to another file of the repository has a target."""
    for target in re.findall(r"\]\((?!http|#)([^)#]+)", document.read_text("utf-8")):
        assert (document.parent / target).exists(), target


@pytest.mark.parametrize("document", documents_with(re.compile(r"`[\w/]+(?:\.py|/)`")))
def test_named_files(document: Path):
    """Every module and folder that a document names is in the repository."""
    present = {
        path.relative_to(ROOT).as_posix()
        for top in ("src", "tests", "tools", "examples", "benchmarks")
        for path in [ROOT / top, *(ROOT / top).rglob("*")]
    }
    for name in re.findall(r"`([\w/]+(?:\.py|/))`", document.read_text("utf-8")):
        assert any(f"/{path}".endswith(f"/{name.rstrip('/')}") for path in present), name
