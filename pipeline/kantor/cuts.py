"""Cuts that define a sample: the rows that staging keeps, and that generation gives."""

from collections.abc import Mapping, Sequence

import numpy as np

from kantor.errors import ConfigError
from kantor.expressions import Expression
from kantor.shapes import shown


class Cuts:
    """Comparisons of columns, all of which hold for every row of a sample.

    Args:
        cuts: such as `Q2 > 2`.
        quantities: name -> expression of columns and of quantities before it, which cuts may name like columns.

    Raises:
        ConfigError: one is not an expression.
    """

    def __init__(self, cuts: Sequence[str], quantities: Mapping[str, str] | None = None) -> None:
        self._cuts = [Expression(cut) for cut in cuts]
        self._quantities = {name: Expression(text) for name, text in (quantities or {}).items()}

    def __bool__(self) -> bool:
        return bool(self._cuts)

    def passing(self, columns: Mapping[str, np.ndarray]) -> np.ndarray:
        """Which rows pass all cuts, (n,) bool, from the columns, (n, *shape) float64 each."""
        return np.logical_and.reduce([*self.each(columns).values(), np.ones(_rows(columns), dtype=bool)])

    def each(self, columns: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Which rows pass each cut, (n,) bool; NaN, as from the root of a negative number, does not.

        Raises:
            ConfigError: a name is unknown or stands for two things, or a cut is not true or false.
        """
        known = dict(columns)
        with np.errstate(all="ignore"):
            for name, expression in self._quantities.items():
                if name in columns:
                    raise ConfigError(
                        f"'{name}' is a column, and a quantity in 'quantities'", cure="give the quantity another name"
                    )
                known[name] = _evaluated(expression, known, f"the quantity '{name}'")
            return {cut.text: _passes(cut, known, _rows(columns)) for cut in self._cuts}


def _rows(columns: Mapping[str, np.ndarray]) -> int:
    return len(next(iter(columns.values())))


def _evaluated(expression: Expression, known: Mapping[str, np.ndarray], what: str) -> np.ndarray:
    try:
        return np.asarray(expression(known, np))
    except (TypeError, ValueError, ArithmeticError) as error:
        raise ConfigError(f"{what} cannot be evaluated: {error}", cure="write it like px > 0") from error


def _passes(cut: Expression, known: Mapping[str, np.ndarray], rows: int) -> np.ndarray:
    passed = _evaluated(cut, known, f"the cut '{cut.text}'")
    if passed.dtype != bool:
        raise ConfigError(
            f"the cut '{cut.text}' is a number, not a condition", cure="write a comparison, such as pz > 0"
        )
    if passed.ndim > 1:
        raise ConfigError(
            f"the cut '{cut.text}' gives {shown(passed.shape[1:])} answers for a row, not one",
            cure="say which: count(...) > 0, or an element such as x[0]",
        )
    return np.broadcast_to(passed, (rows,))
