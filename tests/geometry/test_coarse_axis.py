"""Factors between an axis and a coarser one, and windows that cover each other."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from patchloom.geometry.coarse_axis import coarse_window, fitting_factors


@given(st.integers(1, 300), st.integers(1, 300))
def test_factors(size, factor) -> None:
    """The factors are all that round to the coarse size; windows lie on the coarser axis."""
    for coarse in {size // factor or 1, -(-size // factor)}:
        fitting = fitting_factors(size, coarse)
        rounded = [f for f in range(1, size + 1) if coarse in (size // f, -(-size // f))]
        assert list(fitting) == ([size // coarse] if size % coarse == 0 else rounded)
        for start, stop in [(0, 1), (size - 1, size), (0, size), (size // 3, size // 3 + 1)]:
            window = coarse_window(slice(start, stop), size, coarse)
            assert 0 <= window.start < window.stop <= coarse
