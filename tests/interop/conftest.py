"""Interchange with CAREamics: `make interop` runs these tests in an environment with CAREamics; without it, none is collected."""

from __future__ import annotations

import importlib.util
import multiprocessing
import os
import sys
from pathlib import Path

HAS_CAREAMICS = importlib.util.find_spec("careamics") is not None

collect_ignore_glob = ["careamics_import.py"] if HAS_CAREAMICS else ["*.py"]

if HAS_CAREAMICS:
    FOLDER = str(Path(__file__).parent)
    sys.path.append(FOLDER)
    importlib.import_module("careamics_import")
    # The server from which worker processes are forked imports it too, and finds it through this variable.
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (os.environ.get("PYTHONPATH"), FOLDER)))
    multiprocessing.set_forkserver_preload(["careamics_import"])
