"""What every lesson gives back: the numbers its page quotes, each exact or with an error, and its figure's lines."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np


@dataclass(frozen=True)
class Number:
    """One number of a lesson.

    name: what it is, with its unit where it has one; error: its standard error, 0 where it is exact;
    how: "exact", "quadrature", or how many seeds the mean and its error are of.
    """

    name: str
    value: float
    error: float = 0.0
    how: str = "exact"


class Result(Protocol):
    """A dataclass of numbers, arrays and sequences of them, which is written as JSON as it stands."""

    @property
    def numbers(self) -> Sequence[Number]: ...


def mean(name: str, values: Sequence[float] | np.ndarray, what: str = "seeds") -> Number:
    """Mean and standard error of one value for each seed (or whatever else is independent)."""
    found = np.asarray(values, dtype=np.float64)
    return Number(name, float(found.mean()), float(found.std(ddof=1) / len(found) ** 0.5), f"{len(found)} {what}")


def value_of(result: Result, name: str) -> Number:
    """The number of this name."""
    (found,) = (number for number in result.numbers if number.name == name)
    return found
