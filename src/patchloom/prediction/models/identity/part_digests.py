"""Digests of the parts of a model, by names that messages use."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, NamedTuple

_MOST_PARTS = 200
DEEPEST_PART = 5
"""Parts that are nested more deeply have no names of their own."""


class Part(NamedTuple):
    """A part of a model that messages can name."""

    name: str
    depth: int


class PartDigests(ABC):
    """The digests of the parts of a model that were visited so far."""

    def __init__(self) -> None:
        self.digests: dict[str, Any] = {}
        """Digests, by the name of the part."""
        self.unknown: list[str] = []
        """One sentence for each part that cannot be identified."""

    def feed(self, part: Part, *values: object) -> None:
        """Add values that contain no other objects to the digest of a part."""
        digest = self.digests.setdefault(part.name, hashlib.sha256())
        for value in values:
            content = value if isinstance(value, bytes) else str(value).encode("utf-8", "surrogatepass")
            digest.update(b"%d:%s" % (len(content), content))

    @abstractmethod
    def visit(self, value: Any, part: Part) -> None:
        """Add an object and all that it refers to, to a part and its inner parts."""

    @abstractmethod
    def alone(self, value: Any) -> str:
        """Return the digest of an object by itself, which does not depend on objects visited before."""

    def visit_items(self, items: Mapping[str, Any], part: Part) -> None:
        """Add objects as named inner parts."""
        for name, item in items.items():
            self.visit(item, self.inside(part, name))

    def inside(self, part: Part, what: str) -> Part:
        """Return an inner part of a part; the part itself if there are too many parts, or they are nested too deeply."""
        return self.kept(Part(f"{what.removesuffix(' of')} of {part.name}", part.depth + 1), otherwise=part)

    def kept(self, part: Part, otherwise: Part | None = None) -> Part:
        """Return a part if there is room for it, else `otherwise`."""
        few = part.name in self.digests or len(self.digests) < _MOST_PARTS
        return part if few and part.depth <= DEEPEST_PART else otherwise or Part("the rest of the model", part.depth)

    def add_unknown(self, part: Part, reason: str) -> None:
        """Record that a part cannot be identified."""
        self.unknown.append(f"{part.name} {reason}")
