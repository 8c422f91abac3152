"""Progress of a run, and the time of its stages."""

from __future__ import annotations

from itertools import count

from patchloom.prediction.running.progress import StageTimes


def test_nested_stages() -> None:
    """A stage that begins within another interrupts it: no second counts twice."""
    times = StageTimes(now=map(float, count()).__next__)
    with times.spent("stitching"):  # 0
        with times.spent("waiting"):  # 1 to 2
            pass
        with times.spent("waiting"):  # 3 to 4
            pass
    with times.spent("model"):  # 6 to 7
        pass
    assert times.seconds == {"stitching": 3.0, "waiting": 2.0, "model": 1.0}
