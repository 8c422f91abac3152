"""Where the time of a run went."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class StageTimes:
    """Seconds that the main thread spent in each stage.

    Reading and writing go on in threads of their own: what is counted for them is how long the model had to wait.

    Examples
    --------
    >>> times = StageTimes()
    >>> with times.spent("model"):
    ...     pass
    >>> list(times.seconds)
    ['model']
    """

    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    @contextmanager
    def spent(self, stage: str) -> Iterator[None]:
        """Count the time of a block of code to a stage."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] += time.perf_counter() - started
