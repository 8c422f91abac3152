"""All entries of the campaign."""

from . import (  # noqa: F401  # they add their entries
    cli_calls,
    figure_calls,
    package_calls,
    patching_calls,
    prediction_calls,
    reading_calls,
    training_calls,
    writing_calls,
)
from .entry import ENTRIES

__all__ = ["ENTRIES"]
