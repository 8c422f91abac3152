"""A line of whole units cut into strata, from each of which one unit is drawn: stratified sampling without rounding.

The units belong to cells, the largest of which come first on the line. Where there are enough draws, strata have the
size of a largest cell or a whole fraction of it, so that each of these cells has strata of its own; what draws there are
beyond that share the whole line among them. Where draws are too few, all share the line. Of cells with 4, 4, 3 and 1
units::

    3 draws   ├ a a a a | b b b b | c c c d ┤
    7 draws   ├ a a | a a | b b | b b | c c | c d ┤   and one from anywhere
    2 draws   ├ a a a a b b | b b c c c d ┤

Each unit is drawn equally often on average: a stratum may begin and end within a unit, and draws are made from parts of
units, so that no number is rounded. Numbers may be arrays of `int64` as well.
"""

from __future__ import annotations

from typing import Any, NamedTuple


class Stratum(NamedTuple):
    """One of the equal strata of a line: whole numbers, or arrays of whole numbers."""

    number: int
    n_strata: int
    """Number of strata that `n_parts` units are cut into."""
    n_parts: int
    """Number of parts in the stratum, if every unit is cut into `n_strata` parts; a draw is one of them."""

    def unit(self, draw: Any) -> Any:
        """Return the unit of a draw, from 0 to `n_parts - 1`."""
        # (number * n_parts + draw) // n_strata, without a product that is too large for 64 bits
        whole = self.n_parts // self.n_strata
        over = self.number * (self.n_parts - whole * self.n_strata)
        carry = over // self.n_strata
        return self.number * whole + carry + (over - carry * self.n_strata + draw) // self.n_strata


def stratum_of(number: Any, n_draws: Any, n_units: Any, largest: Any) -> Stratum:
    """Return the stratum of one of the draws from a line.

    Parameters
    ----------
    number : int or array of int64
        Number of the draw, from 0 to `n_draws - 1`.
    n_draws : int or array of int64
        Number of draws.
    n_units : int or array of int64
        Length of the line.
    largest : int or array of int64
        Units of the largest cells. The product with `n_draws` fits into 63 bits.

    Returns
    -------
    Stratum
        Its draw may fall on a unit past the end of the line, because the last stratum may be longer than the rest of the line.
        Then draw the unit again from the whole line.

    Examples
    --------
    >>> [stratum_of(number, n_draws=7, n_units=12, largest=4) for number in (2, 3)]
    [Stratum(number=2, n_strata=2, n_parts=4), Stratum(number=3, n_strata=2, n_parts=4)]
    >>> stratum_of(3, n_draws=7, n_units=12, largest=4).unit(draw=1)
    6
    """
    a_cell = n_draws * largest // n_units
    of_cells = -(-n_units * a_cell // largest)
    shares_line = number >= of_cells
    return Stratum(
        number - shares_line * of_cells,
        a_cell + shares_line * (n_draws - of_cells - a_cell),
        largest + shares_line * (n_units - largest),
    )
