"""Open thousands of damaged files and report each file that results in neither an image nor one of our errors.

python tests/fuzz                              all formats
python tests/fuzz tiff --count 10000 --seed 3  ten thousand mutants of one format
python tests/fuzz tiff --seed 3 --index 4711   one of them again, with its traceback; its files are kept
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from bounded_process import Finding, findings, written
from mutations import damaged
from targets import TARGETS


def main() -> int:
    """Run the campaigns that the command line names; return 1 if anything was found."""
    parser = argparse.ArgumentParser(prog="python tests/fuzz", description=__doc__.splitlines()[0])
    parser.add_argument("formats", nargs="*", help=f"of {', '.join(TARGETS)}; all by default")
    parser.add_argument("--count", type=int, default=1000, help="number of mutants of each format")
    parser.add_argument("--seed", type=int, default=0, help="number of the campaign")
    parser.add_argument("--index", type=int, help="one mutant only")
    arguments = parser.parse_args()
    found = 0
    for name in arguments.formats or TARGETS:
        if arguments.index is not None:
            found += _repeat(name, arguments.seed, arguments.index)
        else:
            found += _campaign(name, arguments.seed, range(arguments.count))
    return min(found, 1)


def _campaign(name: str, seed: int, indices: range) -> int:
    began = time.monotonic()
    kinds: dict[str, list[Finding]] = {}
    for finding in findings(TARGETS[name], seed, indices):
        kinds.setdefault(finding.kind, []).append(finding)
    total = sum(map(len, kinds.values()))
    took = time.monotonic() - began
    print(f"{name}: {len(indices)} mutants, {total} findings of {len(kinds)} kinds, {took:.0f} s", flush=True)
    for kind, same in sorted(kinds.items(), key=lambda entry: -len(entry[1])):
        print(f"  {len(same)} × {kind}: python tests/fuzz {name} --seed {seed} --index {same[0].index}", flush=True)
    return total


def _repeat(name: str, seed: int, index: int) -> int:
    folder = Path("build", "fuzz", f"{name}-{seed}-{index}")
    print(f"{name} {index}: {written(damaged(TARGETS[name].seeds(), seed, index), folder)}")
    found = list(findings(TARGETS[name], seed, [index]))
    for finding in found:
        print(f"  {finding.kind}\n{finding.details}")
    return len(found)


if __name__ == "__main__":
    sys.exit(main())
