"""The permutation test: values against the definition, exact level, power, agreement with SciPy and pted."""

from __future__ import annotations

import math
from typing import Any, cast

import numpy as np
import pytest
import torch
from pted import pted
from scipy import stats

from kantor_kernels import (
    Energy,
    Gaussian,
    Kernel,
    Laplacian,
    Polynomial,
    RationalQuadratic,
    energy_distance,
    mmd,
    two_sample_test,
)
from kantor_kernels.permutation.functional import SMALL
from kantor_kernels.testing import assert_close


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(11)


def normal(n: int, d: int, generator: torch.Generator) -> torch.Tensor:
    return torch.randn(n, d, generator=generator)


@pytest.mark.parametrize(
    "kernel",
    [Energy(), Energy(1.5), Gaussian([0.5, 2.0]), Laplacian(1.0), RationalQuadratic(), Polynomial(2)],
    ids=repr,
)
@pytest.mark.parametrize("d", [3, 20])
def test_every_statistic_is_its_definition(kernel: Kernel, d: int, generator) -> None:
    x, y = normal(60, d, generator), normal(45, d, generator) + 0.2
    weight_x = torch.rand(60, generator=generator) + 0.2
    results = [
        two_sample_test(
            x,
            y,
            kernel=kernel,
            permutations=40,
            weight_x=weight_x,
            generator=torch.Generator().manual_seed(1),
            backend=backend,
        )
        for backend in ("torch", "reference")
    ]
    assert_close("null", results[0].null, results[1].null, rtol=1e-9, atol=1e-12)
    assert results[0].p_value == results[1].p_value
    exact = mmd(x.double(), y.double(), weight_x, kernel=kernel).item()
    assert results[0].statistic == pytest.approx(exact, rel=1e-10)


@pytest.mark.parametrize("d", [4, 40])
def test_float32_tiles_keep_the_null(d: int, generator) -> None:
    x, y = normal(1500, d, generator), normal(1300, d, generator)
    single, double = (
        two_sample_test(a, b, permutations=50, generator=torch.Generator().manual_seed(2))
        for a, b in ((x, y), (x.double(), y.double()))
    )
    spread = float(double.null.std())
    assert_close("null", single.null, double.null, atol=1e-3 * spread)
    assert single.statistic == pytest.approx(energy_distance(x.double(), y.double()).item(), abs=1e-3 * spread)


def test_labels_may_be_given(generator) -> None:
    x, y = normal(6, 2, generator), normal(4, 2, generator)
    labels = torch.zeros(2, 10, dtype=torch.bool)
    labels[0, :6] = True
    labels[1, 4:] = True
    result = two_sample_test(x, y, permutations=labels)
    assert result.null[0].item() == pytest.approx(result.statistic, rel=1e-12)
    assert result.p_value in (2 / 3, 1.0)
    parts = [two_sample_test(x, y, permutations=labels[i : i + 1]).null for i in range(2)]
    assert_close("split", torch.cat(parts), result.null, rtol=1e-12)


@pytest.mark.parametrize("shift", [0.0, 0.3, 0.5])
def test_it_agrees_with_scipy(shift: float, generator) -> None:
    x, y = normal(30, 1, generator), normal(25, 1, generator) + shift

    def statistic(a, b) -> float:
        return stats.energy_distance(a, b) ** 2

    theirs = stats.permutation_test(
        (x[:, 0].numpy(), y[:, 0].numpy()), statistic, n_resamples=1999, alternative="greater", rng=1
    )
    ours = two_sample_test(x, y, permutations=1999, generator=generator)
    assert ours.statistic == pytest.approx(theirs.statistic, rel=1e-5)
    assert_same_probability(ours.p_value, float(theirs.pvalue), 1999)


@pytest.mark.parametrize("d", [1, 3, 20])
@pytest.mark.parametrize("shift", [0.0, 0.3])
def test_it_agrees_with_pted(d: int, shift: float, generator) -> None:
    """pted takes n m / (n + m) times the U statistic: for equal sizes a linear function of ours, so the same test."""
    n = 25
    x, y = normal(n, d, generator).double(), normal(n, d, generator).double() + shift
    options = {"permutations": 1999, "two_tailed": False, "rng": np.random.default_rng(1)}
    statistic, null, p_value = cast(Any, pted(x.numpy(), y.numpy(), return_all=True, **options))
    ours = two_sample_test(x, y, permutations=1999, generator=generator)
    assert_same_probability(ours.p_value, p_value, 1999)
    # Relabelling keeps 2 E|x - y| + E|x - x'| + E|y - y'|, each over all pairs.
    total = 4 * torch.cdist(torch.cat([x, y]), torch.cat([x, y])).mean().item()

    def as_theirs(v):
        return n / 2 * ((v + total) * (n - 0.5) - total * n) / (n - 1)

    assert as_theirs(ours.statistic) == pytest.approx(statistic, rel=1e-9, abs=1e-9)
    assert stats.ks_2samp(as_theirs(ours.null.numpy()), null).pvalue > 1e-3  # type: ignore[union-attr]


def assert_same_probability(ours: float, theirs: float, permutations: int) -> None:
    """Two Monte-Carlo estimates of one p-value differ by at most four of their standard errors."""
    mean = (ours + theirs) / 2
    assert abs(ours - theirs) < 4 * math.sqrt(2 * mean * (1 - mean) / (permutations + 1))


def test_the_level_is_exact(generator) -> None:
    """Under the null the p-value is uniform on {1/20, ..., 1}: rejections at 5 % are Binomial(400, 0.05)."""
    p_values = torch.tensor(
        [
            two_sample_test(
                normal(12, 2, generator), normal(9, 2, generator), permutations=19, generator=generator
            ).p_value
            for _ in range(400)
        ]
    )
    rejections = int((p_values <= 0.05).sum())
    low, high = stats.binom.interval(0.999, 400, 0.05)
    assert low <= rejections <= high
    assert 0.45 < float(p_values.mean()) < 0.60


def test_ties_count_against_the_alternative() -> None:
    x = torch.zeros(4, 1)
    assert two_sample_test(x, x, permutations=9).p_value == 1.0


def test_a_difference_is_found(generator) -> None:
    result = two_sample_test(
        normal(100, 3, generator), normal(100, 3, generator) + 0.7, permutations=99, generator=generator
    )
    assert result.p_value == 0.01
    assert result.null.shape == (99,)


def test_it_is_deterministic_by_its_generator(generator) -> None:
    x, y = normal(40, 3, generator), normal(30, 3, generator)
    first, again, other = (
        two_sample_test(x, y, kernel=Gaussian("median"), generator=torch.Generator().manual_seed(s)).null
        for s in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("backend", ["torch", "reference"])
@pytest.mark.parametrize("rows", [20, SMALL])
def test_what_is_not_finite_is_refused(rows: int, backend: str, bad: float, generator) -> None:
    x, y, weight = normal(rows, 2, generator), normal(rows, 2, generator), torch.ones(rows)
    for name in ("x", "y", "weight_x", "weight_y"):
        arguments: dict[str, Any] = {"x": x, "y": y, "weight_x": weight, "weight_y": weight}
        arguments[name] = arguments[name].clone()
        arguments[name][3:5] = bad
        entries = arguments[name][3:5].numel()
        with pytest.raises(ValueError, match=f"^{name} has {entries} of .* NaN or infinite; leave those rows out"):
            two_sample_test(**arguments, permutations=3, backend=backend)


@pytest.mark.parametrize("size", [1e-30, 1e-20, 1e20, 1e37])
def test_the_size_of_the_numbers_does_not_matter(size: float, generator) -> None:
    """Also of large pools, whose squared distances would leave float32."""
    x, y = normal(1100, 3, generator), normal(1100, 3, generator)

    def p_value(scale: float, shift: float) -> float:
        draws = torch.Generator().manual_seed(3)
        return two_sample_test(scale * x, scale * (y + shift), permutations=19, generator=draws).p_value

    assert p_value(size, 0.0) == p_value(1.0, 0.0)
    assert p_value(size, 0.3) == 0.05


def test_numbers_beyond_double_precision_are_refused(generator) -> None:
    x = normal(20, 2, generator).double() * 1e200
    with pytest.raises(ValueError, match="beyond float64"):
        two_sample_test(x, x + 1, permutations=3)


def test_the_scale_of_the_weights_does_not_matter(generator) -> None:
    x, y, w = normal(20, 1, generator), normal(90, 1, generator), torch.rand(90, generator=generator) + 0.1

    def null(scale_x: float, scale_y: float, **options: Any) -> torch.Tensor:
        weights: dict[str, Any] = {"weight_x": torch.full((20,), scale_x), "weight_y": scale_y * w}
        return two_sample_test(x, y, **weights, generator=torch.Generator().manual_seed(1), **options).null

    expected = null(1.0, 1.0)
    for scales in ((1 / 20, 1 / 90), (1e-6, 1e6), (-2.0, 3.0)):
        assert_close("null", null(*scales), expected, rtol=1e-6)
    apart = null(1 / 20, 1 / 90, normalise=False)
    assert float((apart - expected).abs().max()) > 1e-3
    # All weights together may still be scaled.
    assert_close("null", null(1 / 2, 1 / 9, normalise=False), null(1.0, 2 / 9, normalise=False), rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("shift", [0.0, 0.5])
def test_weights_that_sum_to_one_keep_level_and_power(shift: float, generator) -> None:
    """20 rows against 200: the test with these weights rejects as often as the one without them."""
    rejections = {"with": 0, "without": 0}
    weights: dict[str, Any] = {"weight_x": torch.full((20,), 1 / 20), "weight_y": torch.full((200,), 1 / 200)}
    trials = 300
    for _ in range(trials):
        x, y = normal(20, 1, generator) + shift, normal(200, 1, generator)
        for name, options in (("with", weights), ("without", {})):
            result = two_sample_test(x, y, permutations=99, generator=generator, **options)
            rejections[name] += result.p_value <= 0.05
    if shift == 0:
        low, high = stats.binom.interval(0.999, trials, 0.05)
        assert low <= rejections["with"] <= high
    else:
        assert rejections["with"] > trials / 2
    # Both see the same rows, and differ by their relabellings alone.
    assert abs(rejections["with"] - rejections["without"]) < 4 * math.sqrt(trials * 0.05)


def test_bad_input_is_refused() -> None:
    x = torch.randn(5, 2)
    with pytest.raises(ValueError, match="permutations must be at least 1"):
        two_sample_test(x, x, permutations=0)
    with pytest.raises(ValueError, match=r"bool \(P, 10\)"):
        two_sample_test(x, x, permutations=torch.ones(3, 10))
    with pytest.raises(ValueError, match=r"must be \(N, D\)"):
        two_sample_test(x[None], x[None])
    with pytest.raises(ValueError, match="sums to zero"):
        two_sample_test(x, x, weight_x=torch.tensor([1.0, -1.0, 0.0, 0.0, 0.0]))
    with pytest.raises(ValueError, match="relabelled sample"):
        two_sample_test(x, x, permutations=torch.zeros(1, 10, dtype=torch.bool))
