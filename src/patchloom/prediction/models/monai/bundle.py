"""The files of a MONAI bundle."""

from __future__ import annotations

import copy
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from patchloom._optional import require
from patchloom.argument_checks import shown
from patchloom.errors import ModelError, ModelNotFoundError
from patchloom.prediction.models.monai.bundle_config import BundleConfig, read_tree

_CONFIGS = ("inference.json", "inference.yaml", "inference.yml")


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle: a folder with the files that prediction needs; made by `open_bundle`."""

    root: Path
    """The folder."""

    config: BundleConfig
    """Its configuration of inference; empty if there is none."""

    metadata: BundleConfig
    """Its metadata; empty if there are none."""

    script: Path | None
    """Its network as TorchScript."""

    weights: Path | None
    """The weights of its network."""

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that were read, those of the network first."""
        found = [self.script or self.weights, *_config_files(self.root)]
        return tuple(path for path in found if path is not None)


def is_bundle(folder: Path) -> bool:
    """Return whether a folder is a MONAI bundle.

    Examples
    --------
    >>> is_bundle(Path("docs"))
    False
    """
    return bool(_config_files(folder))


def open_bundle(root: Path, *, trust: bool = False) -> Bundle:
    """Open a bundle.

    Parameters
    ----------
    root : Path
        Its folder, with `configs/` and `models/`.
    trust : bool
        Whether code in its configuration is run, which needs MONAI.

    Raises
    ------
    ModelNotFoundError
        If there is no such folder, or it contains no network.
    ModelError
        If it is not a bundle, or a file cannot be read.
    MissingExtraError
        If a package is not installed that is needed: PyYAML for configurations in YAML, MONAI for code.

    Examples
    --------
    >>> open_bundle(Path("spleen"))
    Traceback (most recent call last):
        ...
    patchloom.errors.ModelNotFoundError: there is no folder spleen: check the path
    """
    if not root.is_dir():
        raise ModelNotFoundError(f"there is no folder {root}: check the path")
    if not is_bundle(root):
        raise ModelError(
            f"{root} is not a MONAI bundle: it contains neither configs/metadata.json nor configs/inference.json or .yaml"
        )
    script, weights = (_existing(root / "models" / name) for name in ("model.ts", "model.pt"))
    if script is None and weights is None:
        raise ModelNotFoundError(
            f"{root} contains neither models/model.ts nor models/model.pt: download its large files, by "
            "python -m monai.bundle download_large_files"
        )
    found = _config_files(root)
    tree = next((read_tree(path) for path in found if path.name in _CONFIGS), {})
    metadata = next((read_tree(path) for path in found if path.name == "metadata.json"), {})
    evaluate = partial(_evaluate, _trusted_parser(tree, root)) if trust and tree else None
    return Bundle(root, BundleConfig(tree, root, evaluate=evaluate), BundleConfig(metadata, root), script, weights)


def _config_files(root: Path) -> list[Path]:
    names = ("metadata.json", *_CONFIGS)
    return [path for path in (_existing(root / "configs" / name) for name in names) if path is not None]


def _existing(path: Path) -> Path | None:
    return path if path.is_file() else None


def _trusted_parser(tree: Mapping[str, Any], root: Path) -> Any:
    """Return MONAI's own parser of a configuration, which runs its code."""
    parser = require("monai.bundle", extra="monai").ConfigParser(copy.deepcopy(dict(tree)))
    if "bundle_root" in tree:
        parser["bundle_root"] = str(root.absolute())
    if str(root.absolute()) not in sys.path:  # for scripts of the bundle
        sys.path.insert(0, str(root.absolute()))
    if "imports" in tree:
        _evaluate(parser, "imports")
    return parser


def _evaluate(parser: Any, place: str) -> Any:
    try:
        return parser.get_parsed_content(place)
    except Exception as error:  # code of the bundle may raise any error
        raise ModelError(
            f"{place} of the bundle cannot be evaluated ({type(error).__name__}: {shown(str(error))}): fix its configuration"
        ) from error
