"""An error for the use of TensorStore in a forked process.

TensorStore has threads, which a fork does not copy. If a process has used TensorStore, a forked child that uses it too is ended at
once, without a Python exception.
"""

from __future__ import annotations

import os
from functools import cache

from patchloom.errors import ForkedProcessError


def check_not_forked() -> None:
    """Check that this process was not forked off one that has used TensorStore; called before every use.

    Raises
    ------
    ForkedProcessError
        If this process was forked off one that has called this function.
    """
    if os.getpid() != _first_process():
        raise ForkedProcessError(
            "this process was forked off one that has used TensorStore, which would abort here: start worker processes by "
            "'forkserver' or 'spawn', such as DataLoader(..., multiprocessing_context='forkserver')"
        )


@cache
def _first_process() -> int:
    """Return the id of the first process that called this function; a forked child inherits it."""
    return os.getpid()
