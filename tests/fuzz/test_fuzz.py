"""A short campaign of damaged files of each format; `make fuzz` runs longer ones."""

from __future__ import annotations

import os
import signal
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest

from bounded_process import Target, findings
from mutations import Seed, damaged
from patchloom.errors import SourceError
from targets import TARGETS

COUNT = int(os.environ.get("PATCHLOOM_FUZZ", "500"))


@pytest.mark.parametrize("name", TARGETS)
def test_damaged_files(name: str) -> None:
    """A damaged file is read, or refused by one of our errors."""
    found = list(findings(TARGETS[name], 0, range(int(COUNT * TARGETS[name].share))))
    listed = [f"{finding.kind}: python tests/fuzz {name} --seed 0 --index {finding.index}" for finding in found]
    assert not found, "\n".join(listed)


@pytest.mark.parametrize("name", TARGETS)
def test_reproducible(name: str) -> None:
    """The same numbers make the same damaged file again."""
    first, again = (TARGETS[name].seeds() for _ in range(2))
    assert first == again
    mutants = [damaged(first, 3, index) for index in range(50)]
    assert mutants == [damaged(again, 3, index) for index in range(50)]
    assert sum(mutant.files in [seed.files for seed in first] for mutant in mutants) < 10


SOUND = b"a sound file"


def _seeds() -> list[Seed]:
    return [Seed("letters", {"a": SOUND}, "a")]


def _misbehave(path: Path) -> None:
    """Do one of six things, by what is in the file."""
    content = path.read_bytes()
    match zlib.crc32(content) % 6 if content != SOUND else 0:
        case 1:
            raise SourceError(f"{path} is damaged")
        case 2:
            raise KeyError(path)
        case 3:
            warnings.warn("damaged", stacklevel=1)
        case 4:
            np.zeros(2**30)
        case 5:
            os.kill(os.getpid(), signal.SIGKILL)


def test_findings() -> None:
    """Foreign errors, warnings, exhausted memory and lost processes are findings."""
    target = Target(_seeds, _misbehave)
    mutants = {index: damaged(_seeds(), 0, index).files["a"] for index in range(40)}
    outcomes = {index: zlib.crc32(content) % 6 for index, content in mutants.items() if content != SOUND}
    kinds = {2: "KeyError", 3: "UserWarning", 4: "MemoryError", 5: "process ended with -9"}
    assert set(kinds) < set(outcomes.values())
    found = {finding.index: finding.kind for finding in findings(target, 0, range(40))}
    assert set(found) == {index for index, outcome in outcomes.items() if outcome in kinds}
    assert all(kinds[outcomes[index]] in kind for index, kind in found.items())
