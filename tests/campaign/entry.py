"""One public callable in the campaign: a valid call of it, and the kind of each argument."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from .hostile import Kind

Made = tuple[Callable[..., Any], dict[str, Any]]


@dataclass(frozen=True)
class Entry:
    """A public callable."""

    name: str
    """Its qualified name, such as `SpecTable.load`."""

    make: Callable[[], Made]
    """Makes the callable, and arguments with which the call succeeds; anew for each call, in an empty folder."""

    kinds: Mapping[str, Kind]
    """The kind of each argument."""

    words: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Words by which a message may name an argument, besides its name."""

    free: Mapping[str, str] = field(default_factory=dict)
    """Arguments that may have any value, with the reason."""


ENTRIES: dict[str, Entry] = {}


def entry(
    name: str,
    make: Callable[[], Made],
    /,
    *,
    words: Mapping[str, tuple[str, ...]] | None = None,
    free: Mapping[str, str] | None = None,
    **kinds: Kind,
) -> None:
    """Add a public callable to the campaign."""
    assert name not in ENTRIES, name
    ENTRIES[name] = Entry(name, make, kinds, words or {}, free or {})
