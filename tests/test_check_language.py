"""The check of the language: what it finds, where, and what it leaves alone."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "tools" / "check_language.py"


@pytest.fixture
def check(tmp_path, capsys):
    """Write a file, check it, and return the exit status and the lines of the report without the folder."""
    main = runpy.run_path(str(SCRIPT))["main"]

    def run(name, text):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
        status = main([str(tmp_path)])
        return status, [line.removeprefix(f"{tmp_path}/") for line in capsys.readouterr().out.splitlines()]

    return run


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('"""A module.\n\nIt is an index that is no integer.\n"""\n', 3),
        ("x = 1\n# The run that was killed: a value that is no integer.\n", 2),
        ('def f(x):\n    raise ValueError(f"{x} is no integer")\n', 2),
        ('message = (\n    "the index is "\n    "no integer"\n)\n', 2),
        ("# An index that is\n# no integer.\n", 1),
    ],
    ids=["docstring", "comment", "message", "two-literals", "two-comment-lines"],
)
def test_python(check, text, line):
    """A phrase is found in every kind of prose of a Python file, also over the end of a line."""
    assert check("a.py", text) == (1, [f'a.py:{line}: "is no": is not a …'])


def test_markdown(check):
    """A phrase is found in Markdown, over the end of a line and in any case, but not in its code."""
    text = "# Title\n\n```\nhow many\n```\n\nCall `how many` or `how\nmany` on it.\n\nHow\nmany voxels.\n"
    assert check("a.md", text) == (1, ['a.md:10: "How many": number of …'])


@pytest.mark.parametrize(
    "text",
    [
        "told = silent = mend = 1\n",
        "print(f'{told} and {silent!r:>{mend}}')\n",
        '"""A module.\n\n>>> told = 1\n>>> for mend in [1]:\n...     silent = mend\n"""\n',
        '"""Its member `told` is a number."""\n',
        "# There is no file, or it is no longer there, or it is no larger than before.\n",
    ],
    ids=["identifiers", "f-string", "doctest", "inline-code", "plain-english"],
)
def test_clean(check, text):
    """Code is not prose, and correct sentences are left alone."""
    assert check("a.py", text) == (0, [])


@pytest.mark.parametrize(
    ("text", "phrase"),
    [
        ("normalised = 1\n", "normalised"),
        ("colour_of = 1\n", "colour_of"),
        ('"""Of the voxel at the centre."""\n', "centre"),
        ("x = learn_forms()\n", "learn_forms"),
        ("# See `ChunkPool`.\n", "ChunkPool"),
    ],
    ids=["spelling", "part-of-name", "spelling-in-prose", "old-name", "old-name-in-prose"],
)
def test_identifiers(check, text, phrase):
    """British spellings and old names are found in code as well."""
    status, report = check("a.py", text)
    assert status == 1
    assert [line.split('"')[1] for line in report] == [phrase]


def test_changes(check):
    """A release note may give an old name, but not in British English."""
    assert check("changes/1.change.md", "`normalise=` is `normalize=` now, and `ChunkPool` is `ChunkCache`.\n") == (
        0,
        [],
    )
    assert check("changes/1.change.md", "Images are normalised.\n")[0] == 1


def test_american_spelling(check):
    """Words that only look like British spellings pass."""
    assert check(
        "a.md", "A parameter, a diameter, centrifuges, promises, noise, analyses, a programmer, a metric.\n"
    ) == (0, [])
