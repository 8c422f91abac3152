"""Digests of the parts that a model consists of, by names for messages."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, NamedTuple

_MOST_PARTS = 200
DEEPEST_PART = 5
"""Parts of parts of parts … that have a name of their own."""


class Part(NamedTuple):
    """A part of a model that messages can name."""

    name: str
    depth: int


class PartDigests(ABC):
    """What was found of the parts of a model so far."""

    def __init__(self) -> None:
        self.digests: dict[str, Any] = {}
        """What was found so far, by the name of the part."""
        self.unknown: list[str] = []
        """What cannot be identified, one sentence each."""

    def feed(self, part: Part, *values: object) -> None:
        """Add values, which have no objects inside, to the digest of a part."""
        digest = self.digests.setdefault(part.name, hashlib.sha256())
        for value in values:
            content = value if isinstance(value, bytes) else str(value).encode("utf-8", "surrogatepass")
            digest.update(b"%d:%s" % (len(content), content))

    @abstractmethod
    def visit(self, value: Any, part: Part) -> None:
        """Add an object, and all that it refers to, to a part and the parts of that."""

    @abstractmethod
    def alone(self, value: Any) -> str:
        """Return the digest of an object by itself, which does not depend on what was visited before."""

    def visit_items(self, items: Mapping[str, Any], part: Part) -> None:
        """Add objects as parts with names."""
        for name, item in items.items():
            self.visit(item, self.inside(part, name))

    def inside(self, part: Part, what: str) -> Part:
        """Name a part of a part; the whole where there are many already, or they are nested deeply."""
        return self.kept(Part(f"{what.removesuffix(' of')} of {part.name}", part.depth + 1), otherwise=part)

    def kept(self, part: Part, otherwise: Part | None = None) -> Part:
        """Return a part if there is room for it, else another."""
        few = part.name in self.digests or len(self.digests) < _MOST_PARTS
        return part if few and part.depth <= DEEPEST_PART else otherwise or Part("the rest of the model", part.depth)

    def cannot(self, part: Part, why: str) -> None:
        """Note that a part cannot be identified."""
        self.unknown.append(f"{part.name} {why}")
