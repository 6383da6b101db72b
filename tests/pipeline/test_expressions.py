"""Expressions: the same for NumPy and torch, and nothing but arithmetic."""

import math
import re
from typing import Any

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


# ----------------------------------------------------------------------------------------------------- arrays in events

RNG = np.random.default_rng(2)
ARRAYS = {"e": RNG.gamma(0.5, 1.0, (5, 3, 4)), "v": RNG.normal(size=(5, 4)), "E": RNG.uniform(1, 2, 5)}


@pytest.mark.parametrize(
    ("text", "of_one_event"),
    [
        ("sum(e)", lambda e, v, E: e.sum()),
        ("sum(e, 0)", lambda e, v, E: e.sum(0)),
        ("sum(e, axis=-1) / E", lambda e, v, E: e.sum(-1) / E),
        ("mean(e, (0, 1))", lambda e, v, E: e.mean()),
        ("max(e, 1)", lambda e, v, E: e.max(1)),
        ("min(e) + max(v)", lambda e, v, E: e.min() + v.max()),
        ("count(e > 0.3, 1)", lambda e, v, E: (e > 0.3).sum(1)),
        ("mean(~(e > 0.3))", lambda e, v, E: (e <= 0.3).mean()),
        ("count(e)", lambda e, v, E: np.count_nonzero(e)),
        ("e[1, 2] - e[-1, 0]", lambda e, v, E: e[1, 2] - e[-1, 0]),
        ("sum(e[:, 1:3]) / sum(e)", lambda e, v, E: e[:, 1:3].sum() / e.sum()),
        ("e[::2, 0]", lambda e, v, E: e[::2, 0]),
        ("e * v + E", lambda e, v, E: e * v + E),
        ("where(e > E, e, 0)", lambda e, v, E: np.where(e > E, e, 0)),
        ("minimum(e, 1.0)", lambda e, v, E: np.minimum(e, 1.0)),
        ("sum(e * index(e, 1)) / sum(e)", lambda e, v, E: (e * np.arange(4)).sum() / e.sum()),
        ("sum(sum(e, 1) * index(sum(e, 1), 0))", lambda e, v, E: e.sum(1) @ np.arange(3)),
        ("(largest(e, 1) - largest(e, 2)) / E", lambda e, v, E: (np.sort(e.ravel())[-1] - np.sort(e.ravel())[-2]) / E),
        ("sum(E) + max(E)", lambda e, v, E: 2 * E),
    ],
)
def test_arrays_mean_what_numpy_makes_of_one_event(text: str, of_one_event: Any) -> None:
    expression, names = Expression(text), ("e", "v", "E")
    expected = np.stack([of_one_event(*(ARRAYS[name][row] for name in names)) for row in range(5)])
    with_numpy = expression.rows(ARRAYS, np, 5)
    with_torch = expression.rows({name: torch.from_numpy(values) for name, values in ARRAYS.items()}, torch, 5)
    for found in (with_numpy, with_torch.numpy()):
        assert found.shape == expected.shape
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "text", ["max(px, py)", "sum()", "sum(px, 1.5)", "index(px)", "px[py]", "px[::-1]", "sum(px, (1, py))"]
)
def test_axes_and_indices_are_integers(text: str) -> None:
    with pytest.raises(ConfigError):
        Expression(text)


def test_the_maximum_of_two_is_another_function() -> None:
    with pytest.raises(ConfigError, match=r"after the array, max takes integers") as caught:
        Expression("max(px, py)")
    assert "maximum" in str(caught.value.cure)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("sum(e, 2)", "'sum(e, 2)' names an axis of 3 x 4"),
        ("e[3]", "'e[3]' takes a part of 3 x 4 that is not there"),
        ("E[0]", "takes a part of one number"),
        ("e + sum(e, 1)", "brings together arrays of 3 x 4 and 1 x 3 in each event"),
        ("largest(v, 5)", "asks for number 5 of 4"),
    ],
)
def test_shapes_that_do_not_go_together_are_named(text: str, what: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(what)):
        Expression(text)(ARRAYS, np)
