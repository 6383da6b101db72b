"""What float32, in which events are stored, can tell apart: the only place that says when something is nothing."""

from typing import Any

STEP = 2.0**-23
"""Distance of neighbouring float32 numbers, relative to their size."""

_CANCELLED = 2.0**-20
_ROUNDING = 2.0**-32
_COARSE = 1e-5


def is_constant(low: Any, high: Any) -> Any:
    """Whether numbers between `low` and `high` are one number: no float32 number lies between them.

    Sums of equal numbers round, so that a variance is no test. Takes numbers, arrays and tensors, elementwise.
    """
    return high - low <= STEP / 2 * (abs(low) + abs(high))


def is_stored_constant(low: Any, high: Any) -> Any:
    """Whether numbers between `low` and `high` may be one number, computed from a few float32 numbers.

    Such as the size of momenta of one energy, each component of which was rounded when it was stored.
    """
    return high - low <= 4 * STEP * (abs(low) + abs(high))


def is_rounding(low: Any, high: Any) -> Any:
    """Whether float64 numbers between `low` and `high` may be one number after some arithmetic.

    Such as a mass from energy and momentum, which loses the square of the Lorentz factor: here up to a thousand.
    """
    return high - low <= _ROUNDING / 2 * (abs(low) + abs(high))


def is_coarse(rounding: float, spread: float) -> bool:
    """Whether errors of this size are too much for values that differ by `spread`."""
    return rounding > _COARSE * spread


def cancel(total: Any, size: Any) -> Any:
    """Whether weights add up to nothing: their total is no more than the rounding of a sum of float32 numbers.

    Args:
        total: sum of the weights.
        size: sum of their absolute values.
    """
    return abs(total) <= _CANCELLED * size
