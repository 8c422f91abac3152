"""A model run over images that are too big for it."""

from patchloom.prediction.api import plan, predict
from patchloom.prediction.planning.plan import PredictionPlan

__all__ = ["PredictionPlan", "plan", "predict"]
