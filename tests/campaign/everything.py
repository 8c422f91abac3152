"""All entries of the campaign."""

from . import cli_calls, figure_calls, patching_calls, prediction_calls, reading_calls, training_calls, writing_calls  # noqa: F401
from .entry import ENTRIES

__all__ = ["ENTRIES"]
