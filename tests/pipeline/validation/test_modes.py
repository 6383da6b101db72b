"""Modes found, high quality and reverse KL: by hand, for a perfect sampler, and for one that has lost a mode."""

from pathlib import Path

import numpy as np
import pytest

from kantor.config import GridSource, RingSource, Validation
from kantor.data.manifest import Manifest
from kantor.data.samples import Sample
from kantor.data.sources import toys
from kantor.machine.ranks import Ranks
from kantor.physics import Modes
from kantor.results import Measurement
from kantor.validation import modes
from kantor.validation.histograms import Figures
from kantor.validation.measures import Measures
from kantor.validation.observables import Observables

LINE = Modes(np.array([[0.0, 0.0], [1.0, 0.0], [2.0, 0.0]]), 0.1)
PERFECT = 1 - np.exp(-4.5)  # a chi2 of two degrees of freedom below 9


def test_a_row_belongs_to_the_nearest_mode_within_three_sigma() -> None:
    points = np.array([[0.0, 0.29], [0.0, 0.31], [0.8, 0.0], [0.5, 0.0], [2.2, 0.2]])
    assert modes.modes_of(points, LINE).tolist() == [0, -1, 1, -1, 2]


def test_numbers_by_hand() -> None:
    mode_n = np.array([0, 0, 0, 1, -1])
    assert modes.found(mode_n) == 2
    assert modes.reverse_kl(mode_n, 3) == pytest.approx(0.75 * np.log(0.75 * 3) + 0.25 * np.log(0.25 * 3))
    assert modes.reverse_kl(np.array([0, 1, 2]), 3) == pytest.approx(0)
    assert modes.reverse_kl(np.array([1, 1]), 3) == pytest.approx(np.log(3))
    assert np.isnan(modes.reverse_kl(np.array([-1]), 3))
    assert modes.found(np.array([-1])) == 0


def test_the_width_is_that_around_the_mean_of_a_mode() -> None:
    points, mode_n = np.array([[0.2, 0.0], [0.0, 0.0], [1.0, 0.1], [9.0, 9.0]]), np.array([0, 0, 1, -1])
    # Two rows 0.1 from their mean, with two degrees of freedom.
    assert modes.width(points, mode_n, 0.1) == pytest.approx(1.0)
    assert np.isnan(modes.width(points, np.full(4, -1), 0.1))


def test_draws_are_disjoint_and_of_2500_rows() -> None:
    assert modes.draws(np.arange(10_001)).shape == (4, 2500)
    assert np.array_equal(np.sort(modes.draws(np.arange(10_001)).ravel()), np.arange(10_000))
    assert modes.draws(np.arange(402)).shape == (4, 100)


def test_a_perfect_sampler() -> None:
    grid = toys.Grid(GridSource(kind="grid"), 1000)
    events = grid.generate(0)
    mode_n = modes.modes_of(events, Modes(np.array(grid.physics.centres), grid.physics.sigma))
    assert (mode_n >= 0).mean() == pytest.approx(PERFECT, abs=4 * (PERFECT * (1 - PERFECT) / len(mode_n)) ** 0.5)
    divergences = np.array([modes.reverse_kl(draw, 25) for draw in modes.draws(mode_n)])
    expected = 24 / (2 * 2500 * PERFECT)
    assert divergences.mean() == pytest.approx(expected, abs=4 * divergences.std() / len(divergences) ** 0.5)
    assert {modes.found(draw) for draw in modes.draws(mode_n)} == {25}
    # The mean square below 9 of a chi2 of two degrees of freedom: 2 - 9 exp(-4.5) / (1 - exp(-4.5)).
    width = (1 - 4.5 * (1 - PERFECT) / PERFECT) ** 0.5
    assert modes.width(events, mode_n, 0.05) == pytest.approx(width, rel=0.01)


def compared(spoil: bool) -> tuple[dict[str, Measurement], Figures]:
    """A perfect sampler of the ring, or one whose mode 0 is gone and whose mode 1 is too wide, against truth."""
    ring = toys.Ring(RingSource(kind="ring", events=9000), 1000)
    generated, truth, other = np.split(ring.generate(0).astype(np.float32), 3)
    if spoil:
        mode_n = modes.modes_of(generated, Modes(np.array(ring.physics.centres), ring.physics.sigma))
        generated = generated.copy()
        generated[mode_n == 1] += np.random.default_rng(3).normal(0, 0.05, (int((mode_n == 1).sum()), 2))
        generated = generated[mode_n != 0]
        generated = np.resize(generated, truth.shape)
    content = Manifest.model_construct(features=list(ring.features), conditions=[], physics=ring.physics, constants={})
    samples = [
        Sample(rows, np.empty((len(rows), 0), np.float32), None, ("x", "y"))
        for rows in (truth, generated, np.concatenate([truth, other]))
    ]
    settings = Validation(rows=3000, splits=5, replicas=20)
    found, figures = Measures.of(settings, Observables(content, {}, Path()), *samples).run(Ranks())
    return {each.statistic: each for each in found if each.observable is None}, figures


def test_a_perfect_sampler_is_as_truth() -> None:
    found, figures = compared(spoil=False)
    assert (found["modes"].value, found["modes"].reference) == (8, 8)
    assert found["high_quality"].low < PERFECT < found["high_quality"].high
    assert found["high_quality"].reference == pytest.approx(PERFECT, abs=0.01)
    assert found["mode_width"].value == pytest.approx(found["mode_width"].reference, rel=0.05)
    # 3,000 rows make four draws of 750.
    # Three standard deviations of chi2 with 7 degrees of freedom above its mean; a figure of nothing would be zero.
    assert 0 < found["reverse_kl"].value < (7 + 3 * 14**0.5) / (2 * 750)
    assert found["modes"].label == "modes found by 750 events"
    assert figures.scatter is not None
    assert figures.scatter.truth.shape == (2500, 2)
    assert len(figures.scatter.centres) == 8


def test_a_lost_mode_is_seen() -> None:
    found, _ = compared(spoil=True)
    assert found["modes"].value == 7
    assert found["high_quality"].high < 0.95
    assert found["reverse_kl"].low > np.log(8 / 7)
