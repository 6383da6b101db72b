"""Numbers and verdicts as people read them."""

from typing import Any

import pytest

from kantor.report.numbers import common_power, p_value, percent, rate, with_error
from kantor.report.page import symbols
from kantor.results import Measurement
from kantor.validation.catalogue import STATISTICS


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (0.05213, 0.00123, "0.0521 ± 0.0012"),
        (18.26, 6.4, "18.3 ± 6.4"),
        (1234.5, 67.8, "1234 ± 68"),
        (-0.00021, 0.00018, "(−2.1 ± 1.8)·10⁻⁴"),
        (3.2e6, 1e4, "(3.200 ± 0.010)·10⁶"),
        (0.0, 0.0, "0.00"),
        (2.5, float("nan"), "2.5"),
        (float("nan"), 0.1, "–"),
    ],
)
def test_value_with_error(value: float, error: float, text: str) -> None:
    assert with_error(value, error) == text


def test_a_row_of_numbers_has_one_power_of_ten() -> None:
    power = common_power([2e-4, -3e-5, float("nan")])
    assert [with_error(value, 1e-5, power) for value in (2e-4, -3e-5)] == ["(2.00 ± 0.10)·10⁻⁴", "(−0.30 ± 0.10)·10⁻⁴"]
    assert (common_power([0.0]), common_power([0.002]), common_power([1e6])) == (0, 0, 6)


@pytest.mark.parametrize(
    ("interval", "text"),
    [
        ((0.0349, 0.0314, 0.0387), "3.49 % [3.14, 3.87]"),
        ((0.0, 0.0, 0.00037), "0 % (< 0.037)"),
        ((0.0, 0.0, 0.0), "0 %"),
        ((float("nan"), 0.0, 0.0), "–"),
    ],
)
def test_percent(interval: tuple[float, float, float], text: str) -> None:
    assert percent(*interval) == text


def test_other_numbers() -> None:
    assert [p_value(value) for value in (None, 0.42, 0.00123, 1e-7)] == ["", "p = 0.42", "p = 0.0012", "p < 10⁻⁴"]
    assert [rate(value) for value in (87.3, 12_300, 4.56e6)] == ["87.3", "12.3 thousand", "4.56 million"]


def test_symbols_escape_and_set_subscripts() -> None:
    assert symbols("W1 of p_T [GeV] <b>") == "W1 of <i>p</i><sub>T</sub> [GeV] &lt;b&gt;"
    assert symbols("my_long_name") == "my_long_name"


def measurement(value: float, **more: Any) -> Measurement:
    standard: dict[str, Any] = {
        "statistic": "w1",
        "label": "",
        "low": value - 0.1,
        "high": value + 0.1,
        "reference": 1.0,
        "reference_low": 0.9,
        "reference_high": 1.1,
    }
    return Measurement(value=value, **standard | more)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (measurement(1.2), ("good", "as truth")),
        (measurement(0.1), ("good", "as truth")),
        (measurement(2.0), ("fair", "2.0 × truth")),
        (measurement(2.0, p_value=0.06), ("good", "as truth")),
        (measurement(1.1, p_value=0.04), ("fair", "1.1 × truth")),
        (measurement(12.3), ("poor", "12 × truth")),
        (measurement(float("nan")), (None, "not known")),
        (measurement(1.5, statistic="energy_distance", reference=0.0), ("poor", "15 × the spread of truth")),
        (measurement(0.58, low=0.57, high=0.59, statistic="c2st_auc", reference=0.5, reference_low=0.49,
                     reference_high=0.51), ("fair", "slightly told apart")),
        (measurement(0.9, statistic="c2st_auc", reference=0.5), ("poor", "easily told apart")),
        (measurement(1.0, statistic="azimuth_chi2", p_value=0.3), ("good", "uniform")),
        (measurement(1.0, statistic="azimuth_chi2", p_value=0.01), ("fair", "barely uniform")),
        (measurement(1.0, statistic="azimuth_chi2", p_value=1e-5), ("poor", "not uniform")),
        (measurement(0.02, low=0.01, high=0.03, statistic="law", reference=0.0, reference_low=0.0,
                     reference_high=0.02), ("good", "as truth")),
        (measurement(0.02, low=0.018, high=0.022, statistic="law", reference=0.0, reference_low=0.0,
                     reference_high=0.001), ("poor", "more than truth")),
        (measurement(0.010, low=0.008, high=0.012, statistic="undefined", reference=0.015, reference_low=0.013,
                     reference_high=0.017), ("fair", "fewer than truth")),
        (measurement(8.0, statistic="modes", reference=8.0, reference_low=8.0, reference_high=8.0),
         ("good", "as truth")),
        (measurement(7.8, statistic="modes", reference=8.0, reference_low=8.0, reference_high=8.0),
         ("fair", "fewer than truth")),
        (measurement(7.0, statistic="modes", reference=8.0, reference_low=8.0, reference_high=8.0),
         ("poor", "fewer than truth")),
        (measurement(0.6, statistic="mode_width"), ("fair", "less than truth")),
        (measurement(0.4, statistic="mode_width"), ("poor", "less than truth")),
        (measurement(1.0, statistic="mode_width"), ("good", "as truth")),
        (measurement(1.4, statistic="mode_width"), ("fair", "more than truth")),
        (measurement(1.6, statistic="mode_width"), ("poor", "more than truth")),
    ],
)  # fmt: skip
def test_verdicts(found: Measurement, expected: tuple[str | None, str]) -> None:
    assert STATISTICS[found.statistic].verdict(found, 100) == expected
    known = found.value == found.value
    assert STATISTICS[found.statistic].verdict(found, 99) == (None, "too few events to tell" if known else "not known")
