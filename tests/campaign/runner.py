"""Run the campaign in processes of limited memory; one that hangs or dies is a finding, and the next process continues after it."""

from __future__ import annotations

import json
import os
import resource
import selectors
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from zlib import crc32

from .entry import ENTRIES
from .judge import SECONDS, judge, settle

GIGABYTES = 3
"""Bytes that a process may take, beyond those after all entries were called once."""

Case = tuple[str, str, str]


@dataclass
class Outcome:
    """The outcome of a campaign."""

    calls: int = 0
    findings: list[tuple[Case, str]] = field(default_factory=list)


def cases(share: int = 1) -> Iterator[Case]:
    """Give each wrong call; with a share, one out of so many of each argument, and at least one."""
    for name, entry in ENTRIES.items():
        for argument, kind in entry.kinds.items():
            labels = list(kind.values)
            start = crc32(f"{name} {argument}".encode()) % min(share, len(labels))
            yield from ((name, argument, label) for label in labels[start::share])


def run(wanted: Sequence[Case]) -> Outcome:
    """Run wrong calls, one after the other."""
    outcome = Outcome()
    left = list(wanted)
    while left:
        done, fatal = _run_until_death(left, outcome)
        if fatal:
            outcome.findings.append((left[done], fatal))
            outcome.calls += 1
            done += 1
        left = left[done:]
    return outcome


def _run_until_death(wanted: Sequence[Case], outcome: Outcome) -> tuple[int, str]:
    """Run calls in one process; return the number of finished calls, and the effect of the next call on the process."""
    root = str(Path(__file__).parents[2])
    command = [sys.executable, "-m", "tests.campaign", "--worker"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=root) as worker:
        assert worker.stdin
        assert worker.stdout
        worker.stdin.write(json.dumps(wanted) + "\n")
        worker.stdin.flush()
        done = 0
        with selectors.DefaultSelector() as selector:
            selector.register(worker.stdout, selectors.EVENT_READ)
            until = time.monotonic() + 120  # it starts, and builds its files
            while done < len(wanted):
                if not selector.select(max(0.0, until - time.monotonic())):
                    worker.kill()
                    return done, "hang: the process had to be killed"
                line = worker.stdout.readline()
                if not line:
                    return done, f"death: the process ended with {worker.wait()}"
                outcome.findings += [(tuple(wanted[done]), fault) for fault in json.loads(line)]
                outcome.calls += 1
                done += 1
                until = time.monotonic() + 3 * SECONDS
    return done, ""


def work() -> None:
    """Make the calls that are listed on standard input; print the faults of each in a line."""
    wanted = json.loads(sys.stdin.readline())
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    for name in dict.fromkeys(case[0] for case in wanted):
        with EmptyFolder():
            ENTRIES[name].make()
    _limit_memory()
    for name, argument, label in wanted:
        with EmptyFolder():
            try:
                faults = judge(ENTRIES[name], argument, label)
            except BaseException as error:
                faults = [f"raw: {type(error).__name__} from the call's surroundings: {error}"]
            settle()
        answers.write(json.dumps(faults) + "\n")
        answers.flush()


def _limit_memory() -> None:
    used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    limit = used + GIGABYTES * 2**30
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


class EmptyFolder(TemporaryDirectory):
    """Work in an empty folder, which is removed afterwards."""

    def __init__(self) -> None:
        super().__init__(prefix="campaign-", ignore_cleanup_errors=True)

    def __enter__(self) -> str:
        self.before = Path.cwd()
        os.chdir(self.name)
        return self.name

    def __exit__(self, *reason: object) -> None:
        os.chdir(self.before)
        shutil.rmtree(self.name, ignore_errors=True)
        super().__exit__(*reason)
