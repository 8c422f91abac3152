"""Import CAREamics, also without torchvision: a build of torchvision fits one build of PyTorch only.

CAREamics needs it for its networks, which are not run here. Processes that load data are forked off a server that has imported
this module.
"""

from __future__ import annotations

import importlib.util
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType

import lightning.pytorch  # noqa: F401  # these two ask whether torchvision is there, and are to find that it is not
import torchmetrics.image  # noqa: F401

_NAMES = ["torchvision", "torchvision.transforms", "torchvision.transforms.functional"]
_STAND_INS = {} if importlib.util.find_spec("torchvision") else {name: ModuleType(name) for name in _NAMES}

for name, module in _STAND_INS.items():
    module.__spec__ = ModuleSpec(name, None, is_package=True)
    module.__version__ = "0"  # type: ignore[attr-defined]
sys.modules |= _STAND_INS
import careamics  # noqa: E402
import careamics.lightning  # noqa: E402, F401

for name in _STAND_INS:
    del sys.modules[name]
