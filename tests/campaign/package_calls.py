"""The campaign's calls of packages of bioimage.io; they are not made if bioimageio.spec is not installed."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import patchloom as pl

from . import world
from .entry import Made, entry
from .hostile import ARRAY, FLAG, SOURCE_PATH, optional, word
from .prediction_calls import BATCH, DEVICE, PRECISION, WEIGHTS

_REASON = "bioimageio.spec is not installed"


def _entry(name: str, make: Any, **kinds: Any) -> None:
    if find_spec("bioimageio"):
        entry(name, make, **kinds)
    else:
        arguments = {argument: _REASON for argument in kinds if argument != "words"}
        entry(name, make, free=arguments)


def _model() -> pl.BioimageioModel:
    return pl.BioimageioModel(world.package())


def _opened() -> Made:
    given = {"path": world.package(), "weights": "onnx", "trust": False, "device": None, "precision": None}
    return pl.BioimageioModel, given


_entry(
    "BioimageioModel",
    _opened,
    path=SOURCE_PATH.refusing(
        text_zip=lambda: "no.zip", npy=lambda: world.files() / "image.npy", NUL=lambda: "a\0.zip"
    ),
    weights=optional(WEIGHTS),
    trust=FLAG,
    device=DEVICE,
    precision=PRECISION,
    words={"path": ("package", "bioimage", "file")},
)
_entry("BioimageioModel.__call__", lambda: (_model(), {"batch": BATCH}), batch=ARRAY)
_entry(
    "BioimageioModel.on",
    lambda: (_model().on, {"device": "auto", "precision": None}),
    device=optional(word("auto")),
    precision=PRECISION,
)
