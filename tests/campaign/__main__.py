"""`make campaign`: call every public function with every wrong argument, and list the faults."""

from __future__ import annotations

import sys
import time

from .everything import ENTRIES
from .runner import cases, run, work

if "--worker" in sys.argv:
    work()
else:
    started = time.monotonic()
    words = [word for word in sys.argv[1:] if not word.startswith("-")]
    share = next((int(word.removeprefix("--share=")) for word in sys.argv if word.startswith("--share=")), 1)
    wanted = [case for case in cases(share) if not words or any(case[0].startswith(word) for word in words)]
    outcome = run(wanted)
    for (name, argument, label), fault in outcome.findings:
        print(f"{name}({argument}={label}): {fault}")
    names = {case[0] for case in wanted}
    print(
        f"{len(names)} functions, {sum(len(ENTRIES[name].kinds) for name in names)} arguments, {outcome.calls} calls, "
        f"{len(outcome.findings)} findings in {time.monotonic() - started:.0f} s"
    )
    sys.exit(bool(outcome.findings))
