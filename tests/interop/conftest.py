"""Interchange with CAREamics: `make interop` runs these tests in an environment that has it; elsewhere they do not exist."""

from __future__ import annotations

import importlib.util

collect_ignore_glob = [] if importlib.util.find_spec("careamics") else ["test_*.py"]
