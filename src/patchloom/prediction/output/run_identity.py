"""Whether a run that is resumed computes what the interrupted one computed: the same model, images and Patchloom."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Self

from patchloom.errors import SinkError
from patchloom.image_stacks import ImageStack
from patchloom.image_stacks.fingerprint import Fingerprint
from patchloom.prediction.models.identity.model_identity import ModelIdentity, identify_model
from patchloom.prediction.stack_facts import place_of

_MOST_LISTED = 10
_ANYWAY = "resume with resume_anyway=True (--resume-anyway)"
_AFRESH = "start afresh with overwrite=True (--overwrite)"


@dataclass(frozen=True, slots=True)
class RunIdentity:
    """What the results of a run depend on besides its settings.

    Parameters
    ----------
    patchloom : str
        Version of Patchloom.
    model : ModelIdentity
        The model.
    sources : tuple of (str, str, str)
        Place or name, fingerprint and what cannot be identified of each image.
    """

    patchloom: str
    model: ModelIdentity
    sources: tuple[tuple[str, str, str], ...]

    @classmethod
    def of(cls, model: Any, stacks: Sequence[ImageStack], fingerprints: Sequence[Fingerprint]) -> Self:
        """Identify a model and images as they are now.

        Parameters
        ----------
        model : callable
            The model.
        stacks : sequence of ImageStack
            The images.
        fingerprints : sequence of Fingerprint
            The full fingerprint of each image.
        """
        sources = tuple(
            (place_of(stack) or str(stack.source), *identified)
            for stack, identified in zip(stacks, fingerprints, strict=True)
        )
        return cls(_version(), identify_model(model), sources)

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Self:
        """Return what `to_dict` was made of.

        Raises
        ------
        LookupError, TypeError, ValueError
            If it is not such a dictionary.
        """
        model = ModelIdentity(dict(plain["model"]["parts"]), tuple(plain["model"]["unknown"]))
        sources = tuple((str(name), str(digest), str(unknown)) for name, digest, unknown in plain["sources"])
        return cls(str(plain["patchloom"]), model, sources)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values that go to JSON."""
        model = {"parts": dict(self.model.parts), "unknown": list(self.model.unknown)}
        return {"patchloom": self.patchloom, "model": model, "sources": list(map(list, self.sources))}

    @property
    def unknown(self) -> list[str]:
        """What cannot be identified, one sentence each."""
        of_sources = [f"source {name}: {why}" for name, _, why in self.sources if why]
        return [*(f"model: {why}" for why in self.model.unknown), *of_sources]

    def differences(self, before: RunIdentity) -> Iterator[str]:
        """Yield how another run differs from this one, by the parts that could be identified."""
        if self.patchloom != before.patchloom:
            yield f"Patchloom: {before.patchloom} before, {self.patchloom} now"
        parts = self.model.parts
        for name in [*parts, *(before.model.parts.keys() - parts.keys())]:
            if parts.get(name) != before.model.parts.get(name):
                how = "is new" if name not in before.model.parts else "is gone" if name not in parts else "differs"
                yield f"model: {name} {how}"
        for (name, digest, _), (name_before, digest_before, _) in zip(self.sources, before.sources, strict=False):
            if name == name_before and digest != digest_before:
                yield f"contents of the sources: {name} has changed"


def check_resumable(ledger: Path, begun: Mapping[str, Any], now: RunIdentity, *, resume_anyway: bool) -> None:
    """Check that an interrupted run would be resumed with the model, the images and the version it was begun with.

    Parameters
    ----------
    ledger : Path
        Its ledger.
    begun : mapping
        What the ledger contains of the run.
    now : RunIdentity
        The run that is started now.
    resume_anyway : bool
        Whether the user vouches for the same results.

    Raises
    ------
    SinkError
        If something differs, or cannot be identified, and the user does not vouch for it.
    """
    if resume_anyway:
        return
    try:
        before = RunIdentity.from_dict(begun["identity"])
        changes = list(now.differences(before))
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise SinkError(
            f"the ledger {ledger} does not contain which model and images it belongs to: {_AFRESH}"
        ) from error
    if changes:
        raise SinkError(
            f"{ledger} belongs to an unfinished run of another model, image or version:\n  {_listed(changes)}\n"
            f"run it with what it had, {_AFRESH}, or, if the results are the same, {_ANYWAY}"
        )
    unknown = list(dict.fromkeys([*before.unknown, *now.unknown]))
    if unknown:
        raise SinkError(
            f"{ledger} belongs to an unfinished run, and nothing shows whether model and images are still the same:\n  "
            f"{_listed(unknown)}\nif they are, {_ANYWAY}; else {_AFRESH}. A model declares what it is by an attribute `identity`"
        )


def _listed(sentences: Sequence[str]) -> str:
    lines = list(islice(sentences, _MOST_LISTED))
    more = len(sentences) - len(lines)
    return "\n  ".join([*lines, *([f"and {more} more"] if more else [])])


def _version() -> str:
    """Return the version of this package, which has been imported whole; its modules do not import from it."""
    return str(getattr(sys.modules[__name__.partition(".")[0]], "__version__", ""))
