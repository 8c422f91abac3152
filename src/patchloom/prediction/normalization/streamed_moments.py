"""Mean and standard deviation of values that are added in portions."""

from __future__ import annotations

from fractions import Fraction
from math import isfinite, sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchloom.extraction.rescaling import difference


class StreamedMoments:
    """Mean and standard deviation in one pass, to within the rounding of float64.

    The first value is subtracted from all values. The moments of each portion are computed around its own mean, and two sets of
    moments are merged by the formula of Chan et al. [1]_, so that no digits cancel, however far the mean is from 0. If all values
    are equal, the mean is exactly this value, and the deviation is 0.

    References
    ----------
    .. [1] T. F. Chan, G. H. Golub and R. J. LeVeque, "Algorithms for Computing the Sample Variance: Analysis and
       Recommendations", The American Statistician 37 (1983), doi:10.1080/00031305.1983.10483115

    Examples
    --------
    >>> moments = StreamedMoments()
    >>> for portion in ([1e9 + 1, 1e9 + 3], [1e9 + 2]):
    ...     moments.add(np.array(portion))
    >>> moments.end_pass()
    False
    >>> mean, std = moments.result()
    >>> mean - 1e9, round(std, 6)
    (2.0, 0.816497)
    """

    def __init__(self) -> None:
        self.count = 0
        self._first: float = 0
        self._mean = self._squares = 0.0

    def add(self, values: NDArray[Any]) -> None:
        """Add a portion: at least one value, all finite."""
        if not self.count:
            self._first = values[0].item()
        with np.errstate(over="ignore", invalid="ignore"):  # infinite results are refused later
            relative = difference(values, self._first)
            mean = float(relative.mean())
            squares = float(np.square(relative - mean).sum())
        count = self.count + len(values)
        distance = mean - self._mean
        self._mean += distance * (len(values) / count)
        self._squares += squares + distance * distance * (self.count * len(values) / count)
        self.count = count

    def end_pass(self) -> bool:
        """Return False: values are needed once."""
        return False

    def result(self) -> tuple[float, float]:
        """Return mean and (population) standard deviation."""
        return self._first + self._mean, sqrt(self._squares / self.count)

    def exact(self) -> tuple[float | Fraction, float]:
        """Return the mean, as a fraction if it is finite, and the (population) standard deviation."""
        mean, std = self.result()
        return (Fraction(self._first) + Fraction(self._mean) if isfinite(mean) else mean), std


class CountedMoments:
    """Mean and standard deviation of integers of 8 or 16 bits, exact before the last rounding.

    Examples
    --------
    >>> moments = CountedMoments(np.dtype("int8"))
    >>> moments.add(np.array([-128, 127, -128, 127], np.int8))
    >>> moments.result()
    (-0.5, 127.5)
    """

    def __init__(self, dtype: np.dtype[Any]) -> None:
        self._least = 0 if dtype == np.bool_ else int(np.iinfo(dtype).min)
        self._counts = np.zeros(2 ** (8 * dtype.itemsize), np.int64)

    @property
    def count(self) -> int:
        """Number of values that were added."""
        return int(self._counts.sum())

    def add(self, values: NDArray[Any]) -> None:
        """Add a portion."""
        steps = np.subtract(values, self._least, dtype=np.intp)
        self._counts += np.bincount(steps, minlength=len(self._counts))

    def end_pass(self) -> bool:
        """Return False: values are needed once."""
        return False

    def result(self) -> tuple[float, float]:
        """Return mean and (population) standard deviation."""
        count = self.count
        steps = np.arange(len(self._counts), dtype=np.int64)
        high, low = np.divmod(steps, 256)
        total = int(self._counts @ steps)
        # The squares of high and low bytes are summed separately, so that no sum exceeds 64 bits before it becomes an `int`.
        squares = (
            (int(self._counts @ (high * high)) << 16)
            + (int(self._counts @ (high * low)) << 9)
            + int(self._counts @ (low * low))
        )
        mean = (total + count * self._least) / count
        return mean, sqrt((count * squares - total * total) / (count * count))

    def exact(self) -> tuple[Fraction, float]:
        """Return the mean as a fraction, and the (population) standard deviation."""
        mean, std = self.result()
        return Fraction(mean), std
