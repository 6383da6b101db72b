"""Columns in float32: what a column loses there, and the offset that saves it.

Float32 numbers around 1.7e9, such as unix times, are 128 apart. Stored less an offset near its lowest value, a column
keeps what it varies by; the offset stands in its schema and is added again wherever physical values are meant.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from kantor.errors import InputError
from kantor.resolution import is_coarse, is_rounding
from kantor.results import Column

# The smallest number that float32 holds with all its digits.
_SMALLEST = float(np.finfo(np.float32).tiny)
# So many rows of a chunk are counted: if half of their different values become equal, the range says nothing, as where
# one row is far from all others.
_COUNTED = 1000

Offsets = Mapping[str, float]
"""Column name -> offset, of the columns that have one."""


@dataclass(frozen=True)
class Fineness:
    """What some values x of a column become as float32 numbers of x - offset.

    low, high: their range. rounding: the largest error. whole: all are integers. distinct, left: different values among
    some of the rows, before and after.
    """

    low: float
    high: float
    rounding: float
    whole: bool
    distinct: int
    left: int

    @classmethod
    def of(cls, values: np.ndarray, stored: np.ndarray, offset: float) -> "Fineness":
        """Of (n,) float64 values, n > 0, which are stored as (n,) float32."""
        rounding = np.abs((values - offset) - stored.astype(np.float64)).max()
        some = slice(None, None, -(-len(values) // _COUNTED))
        return cls(
            low=float(values.min()),
            high=float(values.max()),
            rounding=float(rounding),
            # What is exact needs no closer look.
            whole=bool(rounding > 0 and (values == np.rint(values)).all()),
            distinct=len(np.unique(values[some])),
            left=len(np.unique(stored[some])),
        )

    @classmethod
    def of_all(cls, parts: Iterable["Fineness"]) -> "Fineness":
        """Of all rows together."""
        parts = list(parts)
        return cls(
            low=min(part.low for part in parts),
            high=max(part.high for part in parts),
            rounding=max(part.rounding for part in parts),
            whole=all(part.whole or part.rounding == 0 for part in parts),
            distinct=sum(part.distinct for part in parts),
            left=sum(part.left for part in parts),
        )

    @property
    def is_lost(self) -> bool:
        """Whether the values are told apart badly.

        Numbers that differ by what float64 arithmetic makes of equal ones are a constant, unless they are integers.
        """
        if self.rounding == 0 or (not self.whole and is_rounding(self.low, self.high)):
            return False
        return is_coarse(self.rounding, self.high - self.low) or 2 * self.left < self.distinct

    @property
    def offset(self) -> float:
        """A round number just below the lowest value."""
        if self.high == self.low:
            return self.low
        grid = 10.0 ** math.ceil(math.log10(self.high - self.low))
        return float(f"{math.floor(self.low / grid) * grid:.15g}")


def shifted(columns: Sequence[Column], offsets: Offsets) -> list[Column]:
    """The columns with their offsets."""
    return [
        column.model_copy(update={"offset": offsets[column.name]}) if column.name in offsets else column
        for column in columns
    ]


def check_fineness(found: Mapping[str, Fineness], where: object) -> None:
    """Raise `InputError` for a column whose values are lost although an offset was tried."""
    for name, fineness in found.items():
        if fineness.is_lost:
            small = max(abs(fineness.low), abs(fineness.high)) < _SMALLEST
            raise InputError(
                f"column '{name}': of {fineness.distinct:,} different values float32 leaves {fineness.left:,}, in the "
                f"range {fineness.low:.9g} to {fineness.high:.9g}",
                where=where,
                cure="give it in a unit in which its values are not so small"
                if small
                else "cut the rows that are far from all others, or give it as the difference to a value near it",
            )


def check_weight(found: Fineness | None, where: object) -> None:
    """Raise `InputError` for weights that are too small for float32; their common factor means nothing."""
    if found is not None and is_coarse(found.rounding, max(abs(found.low), abs(found.high))):
        raise InputError(
            f"the weights, {found.low:.3g} to {found.high:.3g}, are too small for float32",
            where=where,
            cure="multiply them by a constant, which changes nothing else",
        )
