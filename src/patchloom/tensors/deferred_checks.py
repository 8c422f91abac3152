"""Checks of what a device computes: at once, or later, so that the host does not wait for the device meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

Check = Callable[[], None]
"""Waits for a device, and raises an error if what it has computed is not allowed."""

_deferred: ContextVar[list[Check] | None] = ContextVar("deferred", default=None)
"""Checks that this thread runs later; None if they are run at once."""


@contextmanager
def deferred_checks() -> Iterator[list[Check]]:
    """Collect the checks of this thread, instead of running them; the caller runs them before it uses any result.

    Examples
    --------
    >>> with deferred_checks() as checks:
    ...     run_check(lambda: print("checked"))
    >>> checks[0]()
    checked
    """
    checks: list[Check] = []
    token = _deferred.set(checks)
    try:
        yield checks
    finally:
        _deferred.reset(token)


def run_check(check: Check) -> None:
    """Run a check, or defer it inside `deferred_checks`.

    Parameters
    ----------
    check : callable
        The check.
    """
    checks = _deferred.get()
    if checks is None:
        check()
    else:
        checks.append(check)
