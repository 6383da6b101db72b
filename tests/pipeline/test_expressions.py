"""Expressions: the same for NumPy and torch, and nothing but arithmetic."""

import math

import numpy as np
import pytest
import torch

from kantor.errors import ConfigError
from kantor.expressions import FUNCTIONS, Expression

COLUMNS = {"px": np.array([3.0, 1.0]), "py": np.array([4.0, 2.0]), "pz": np.array([12.0, -2.0])}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("sqrt(px**2 + py**2)", [5.0, math.sqrt(5)]),
        ("arctan2(py, px)", [math.atan2(4, 3), math.atan2(2, 1)]),
        ("-px + 2 * pi", [2 * math.pi - 3, 2 * math.pi - 1]),
        ("where(pz > 0, px, py)", [3.0, 2.0]),
        ("(pz > 0) & (px < 5)", [True, False]),
        ("hypot(px, py) / log10(100.0 + 0 * px)", [2.5, math.sqrt(5) / 2]),
    ],
)
def test_numpy_and_torch_agree(text: str, expected: list[float]) -> None:
    expression = Expression(text)
    with_numpy = expression(COLUMNS, np)
    with_torch = expression({name: torch.from_numpy(values) for name, values in COLUMNS.items()}, torch)
    assert with_numpy == pytest.approx(np.array(expected), rel=1e-12)
    assert with_torch.numpy() == pytest.approx(np.array(expected), rel=1e-12)


def test_every_function_is_there_in_both_libraries() -> None:
    for name in FUNCTIONS:
        assert callable(getattr(np, name))
        assert callable(getattr(torch, name))


def test_names() -> None:
    assert Expression("sqrt(px) + pi * py").names == ("px", "py")


@pytest.mark.parametrize(
    "text",
    ["", "px +", "__import__('os')", "px.__class__", "[px]", "px if py else pz", "lambda: 1", "'a'", "1 < px < 2"],
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        Expression(text)


def test_an_unknown_column_is_named() -> None:
    with pytest.raises(ConfigError, match="reads the unknown column 'mass'"):
        Expression("mass * 2")(COLUMNS, np)
