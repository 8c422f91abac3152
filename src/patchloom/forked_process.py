"""TensorStore and fork: what would end the process is said in words instead.

TensorStore has threads, which a fork does not copy. The child of a process that has used it ends at once, without a word to
Python, as soon as it uses TensorStore too.
"""

from __future__ import annotations

import os
from functools import cache

from patchloom.errors import ForkedProcessError


def check_not_forked() -> None:
    """Refuse to use TensorStore in a child of a process that has used it; called before every use.

    Raises
    ------
    ForkedProcessError
        If this process was forked off one that has come here before.
    """
    if os.getpid() != _first_process():
        raise ForkedProcessError(
            "this process was forked off one that has used TensorStore, which would abort here: start worker processes by "
            "'forkserver' or 'spawn', such as DataLoader(..., multiprocessing_context='forkserver')"
        )


@cache
def _first_process() -> int:
    """Which process came here first; a forked child inherits the answer."""
    return os.getpid()
