"""A model run over images that are too big for it."""

from patchloom.prediction.planning.make_plan import plan
from patchloom.prediction.planning.plan import PredictionPlan
from patchloom.prediction.predict import predict, run_plan

__all__ = ["PredictionPlan", "plan", "predict", "run_plan"]
