"""Models that other people trained, as callables `(B, C, (Z), Y, X) -> array`."""

from patchloom.prediction.models.augmented_model import AugmentedModel
from patchloom.prediction.models.bioimageio.bioimageio_model import BioimageioModel
from patchloom.prediction.models.careamics.careamics_model import CareamicsModel
from patchloom.prediction.models.ensemble_model import EnsembleModel
from patchloom.prediction.models.load import load_model
from patchloom.prediction.models.model import DescribesItself, Model, ModelDescription, describe
from patchloom.prediction.models.monai.monai_model import MonaiModel
from patchloom.prediction.models.monte_carlo_model import MonteCarloModel
from patchloom.prediction.models.onnx.onnx_model import OnnxModel
from patchloom.prediction.models.pytorch.torch_model import TorchModel
from patchloom.prediction.models.tensor_layout import TensorLayout
from patchloom.prediction.models.zeiss.czann_model import CzannModel

__all__ = [
    "AugmentedModel",
    "BioimageioModel",
    "CareamicsModel",
    "CzannModel",
    "DescribesItself",
    "EnsembleModel",
    "Model",
    "ModelDescription",
    "MonaiModel",
    "MonteCarloModel",
    "OnnxModel",
    "TensorLayout",
    "TorchModel",
    "describe",
    "load_model",
]
