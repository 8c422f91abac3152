"""A model run over images that are too big for it."""

from patchloom.prediction.api import PredictionPlan, plan, predict

__all__ = ["PredictionPlan", "plan", "predict"]
