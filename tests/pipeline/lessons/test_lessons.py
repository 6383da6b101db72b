"""What the pages of docs/lessons say holds for the lessons' numbers, also at a reduced size."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from kantor import cli
from kantor.lessons import LESSONS, bias, clipping, quality, slopes, vanishing
from kantor.lessons.base import value_of
from kantor.report.lessons import DRAWINGS, write_lesson

ROOT = Path(__file__).parents[3]


def test_every_lesson_has_a_figure_and_a_page_with_it() -> None:
    assert list(DRAWINGS) == list(LESSONS)
    index = (ROOT / "docs" / "lessons" / "index.md").read_text(encoding="utf-8")
    for name in LESSONS:
        page = (ROOT / "docs" / "lessons" / f"{name}.md").read_text(encoding="utf-8")
        assert f"]({name}.svg)" in page
        assert f"kantor lessons {name} --out" in page
        assert f"]({name}.md)" in index
        assert (ROOT / "docs" / "lessons" / f"{name}.svg").stat().st_size < 100_000


# ---------------------------------------------------------------------------------------------------------- command


def test_the_command_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(["lessons", "--help"])
    assert end.value.code == 0
    assert "docs/lessons" in capsys.readouterr().out


def test_an_unknown_lesson_is_told_the_known_ones(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["lessons", "bias", "biass", "--out", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert "'biass'" in said
    assert all(name in said for name in LESSONS)
    assert not list(tmp_path.iterdir())


def test_the_command_writes_figure_and_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LESSONS, "bias", lambda: bias.run(bias.Size(sizes=(1, 2, 4), draws=100)))
    assert cli.main(["lessons", "bias", "--out", str(tmp_path / "new")]) == 0
    assert {path.name for path in (tmp_path / "new").iterdir()} == {"bias.svg", "bias.csv", "bias.json"}
    with (tmp_path / "new" / "bias.csv").open(encoding="utf-8") as file:
        rows = {row["name"]: row for row in csv.DictReader(file)}
    assert float(rows["Bernoulli, theta* = 0.6, m = 1: minimum of W1"]["value"]) == 1
    content = json.loads((tmp_path / "new" / "bias.json").read_text())
    assert len(content["numbers"]) == len(rows)
    assert len(content["theta"]) == len(content["losses"]["4"])


# ------------------------------------------------------------------------------------------------------------- bias


@pytest.mark.parametrize("truth", bias.TRUTHS)
@pytest.mark.parametrize("m", [1, 2, 5, 16])
def test_the_expected_loss_is_least_where_it_is_said(truth: float, m: int) -> None:
    theta = np.linspace(0, 1, 2001)
    losses = bias.expected_loss(truth, m, theta)
    assert bias.expected_loss(truth, m, np.array([bias.bernoulli_minimum(truth, m)]))[0] <= losses.min() + 1e-12


def test_the_gradient_at_the_truth_is_that_of_the_expected_loss() -> None:
    """0.6 is no fraction of a batch of 4, so that the loss has a derivative there."""
    above, below = bias.expected_loss(0.6, 4, np.array([0.601, 0.599]))
    assert bias.expected_gradient(0.6, 4) == pytest.approx((above - below) / 0.002, abs=1e-9)
    assert bias.expected_gradient(0.6, 1) == pytest.approx(0.4 - 0.6)


def test_descent_is_that_of_many_walks() -> None:
    rng = np.random.default_rng(1)
    theta = np.full(20_000, bias.START)
    for _ in range(100):
        events = (rng.random(len(theta)) < 0.6).astype(float)
        # To the lattice, so that sums of steps of 0.01 do not miss the ends.
        theta = np.round(theta - bias.RATE * np.sign(np.round(theta - events, 6)), 6)
    walk = bias.wasserstein_descent(0.6, 100)
    assert walk.updates[-1] == 100
    assert theta.mean() == pytest.approx(walk.mean[-1], abs=4 * theta.std() / len(theta) ** 0.5)
    assert theta.std() == pytest.approx(walk.deviation[-1], rel=0.03)


def test_only_cramer_s_descent_ends_at_the_truth() -> None:
    for truth in bias.TRUTHS:
        assert bias.cramer_descent(truth, 600).mean[-1] == pytest.approx(truth, abs=1e-4)
        assert bias.wasserstein_descent(truth, 600).mean[-1] > truth + 0.09


def test_lifetimes_of_batches_of_one_are_known() -> None:
    """E |x - y| = (1 + tau^2) / (1 + tau) of two decays, least at sqrt(2) - 1."""
    assert bias.wasserstein_loss(0.5, 1) == pytest.approx(1.25 / 1.5, abs=1e-6)
    assert bias.wasserstein_lifetime(1) == pytest.approx(2**0.5 - 1, abs=1e-5)
    assert bias.biased_energy_lifetime(1) == pytest.approx(2**0.5 - 1, abs=1e-12)


def test_sampled_gradients_are_biased_as_computed() -> None:
    step = 1e-3
    result = bias.run(bias.Size(sizes=(4, 16), draws=1500))
    for m in (4, 16):
        slope = (bias.wasserstein_loss(1 + step, m) - bias.wasserstein_loss(1 - step, m)) / (2 * step)
        for loss, expected in (("W1", slope), ("energy distance, biased", 1 / m), ("energy distance, unbiased", 0.0)):
            found = value_of(result, f"lifetime, m = {m}: gradient of {loss} at tau*")
            assert found.value == pytest.approx(expected, abs=4 * found.error)
            assert found.error < 0.03


# ---------------------------------------------------------------------------------------------------------- trainings


@pytest.mark.slow
def test_a_discriminator_saturates_where_a_critic_is_straight() -> None:
    result = slopes.run(slopes.Size(seeds=2, updates=400, batch=128))
    there = {name: value_of(result, f"{name}: slope at x = 2 over that at x = 0").value for name in slopes.CRITICS}
    assert there["discriminator"] < 0.05
    assert 0.7 < there["penalised critic"] < 1.4
    # On its way to the half that more updates end at.
    assert 0.3 < there["clipped critic"] < 0.95 * there["penalised critic"]
    best = value_of(result, "penalised critic, exact: distance").value
    assert 4.7 < best < 4.9
    assert value_of(result, "penalised critic: distance").value == pytest.approx(best, rel=0.1)
    assert "svg" in DRAWINGS["slopes"](result).svg


@pytest.mark.slow
def test_clipped_weights_end_at_the_clip() -> None:
    result = clipping.run(clipping.Size(seeds=2, updates=300, batch=128, width=32))
    ends = {name: value_of(result, f"{name}: weights within 1 % of the largest").value for name in clipping.CRITICS}
    assert ends["clipped"] > 0.3
    assert ends["penalised"] < 0.01
    norms = {
        name: value_of(result, f"{name}: gradient norm by the event, between real and generated").value
        for name in clipping.CRITICS
    }
    assert norms["clipped"] < 0.01
    assert 0.5 < norms["penalised"] < 1.2
    assert "svg" in DRAWINGS["clipping"](result).svg


@pytest.mark.slow
def test_only_the_minimax_gradient_vanishes() -> None:
    result = vanishing.run(vanishing.Size(seeds=2, updates=300, batch=128))
    last = {name: np.log10(norms[:, -1] / norms[:, 0]).mean() for name, norms in result.norms.items()}
    minimax, saturating, wasserstein = last.values()
    assert minimax < -1
    assert saturating > -0.5
    assert wasserstein > -0.5
    assert "svg" in DRAWINGS["vanishing"](result).svg


@pytest.mark.slow
def test_the_wasserstein_distance_follows_quality_and_the_gan_s_does_not(tmp_path: Path) -> None:
    result = quality.run(quality.Size(seeds=2, steps=200))
    follows, does_not = (
        value_of(result, f"{name}: rank correlation of its distance with the energy distance").value
        for name in quality.OBJECTIVES
    )
    assert follows > 0.6
    assert does_not < follows - 0.2
    write_lesson("quality", result, tmp_path)
    assert (tmp_path / "quality.svg").stat().st_size > 10_000
