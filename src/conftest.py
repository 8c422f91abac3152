"""Docstrings of modules whose extra is not installed are not run."""

from __future__ import annotations

from importlib.util import find_spec

collect_ignore_glob = [] if find_spec("torch") else ["patchloom/torch/*"]
