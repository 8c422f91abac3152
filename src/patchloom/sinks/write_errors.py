"""Explanations of errors of the operating system: the reason in its own words, and a remedy."""

from __future__ import annotations

import errno
import os
import re

_REMEDIES = {
    **dict.fromkeys((errno.ENOTSUP, errno.ENOLCK, errno.ENOSYS), "write to another disk and copy it from there"),
    errno.ENOSPC: "make room on that disk",
    errno.EDQUOT: "make room, or ask for more",
    errno.EROFS: "choose another place",
    errno.EACCES: "choose another place, or ask for the right to write there",
}


def explain(error: Exception) -> str:
    """Explain why a file could not be written, and what helps if that is known.

    Parameters
    ----------
    error : Exception
        An error of the operating system, or of TensorStore, whose messages contain the number of that error.

    Examples
    --------
    >>> explain(OSError(errno.ENOSPC, "No space left on device"))
    'No space left on device: make room on that disk'
    >>> explain(ValueError("INVALID_ARGUMENT: what a chunk [source locations='a long list']"))
    'INVALID_ARGUMENT: what a chunk'
    """
    match = re.search(r"os_error_code='(\d+)'", str(error))
    number = int(match[1]) if match else getattr(error, "errno", None)
    if number is None:
        return str(error).split(" [", 1)[0]
    words = os.strerror(number)
    return f"{words}: {_REMEDIES[number]}" if number in _REMEDIES else words
