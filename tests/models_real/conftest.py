"""Networks that people have: `make test-models` runs these tests in an environment with MONAI; without it, none is collected."""

from __future__ import annotations

import importlib.util
import os

os.environ.setdefault(
    "OMP_NUM_THREADS", "1"
)  # before PyTorch is imported: its threads wait for each other on a busy machine

collect_ignore_glob = [] if importlib.util.find_spec("monai") else ["*.py"]
