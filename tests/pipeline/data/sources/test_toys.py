"""Toy distributions: their moments, their modes, and what their events depend on."""

from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from kantor.config import Dataset, GridSource, RingSource, SwissRollSource
from kantor.data.manifest import Manifest
from kantor.data.samples import read_split
from kantor.data.sources import toys
from kantor.data.staging import stage
from kantor.errors import ConfigError
from kantor.machine.ranks import Ranks

ROWS = 1000
RING = toys.Ring(RingSource(kind="ring"), ROWS)
GRID = toys.Grid(GridSource(kind="grid"), ROWS)
ROLL = toys.SwissRoll(SwissRollSource(kind="swiss_roll"), ROWS)


def test_ring_and_grid_are_those_of_pacgan() -> None:
    ring, grid = RING.physics, GRID.physics
    assert (len(ring.centres), ring.sigma, len(grid.centres), grid.sigma) == (8, 0.01, 25, 0.05)
    assert np.hypot(*np.transpose(ring.centres)) == pytest.approx(1)
    assert {tuple(centre) for centre in grid.centres} == {(x, y) for x in range(-4, 5, 2) for y in range(-4, 5, 2)}


@pytest.mark.parametrize("source", [RING, GRID])
def test_modes_are_equally_frequent_gaussians(source: toys.Gaussians) -> None:
    mixture, events = source.physics, source.generate(0)
    away = events[:, None] - np.array(mixture.centres)
    nearest = np.square(away).sum(axis=2).argmin(axis=1)
    assert stats.chisquare(np.bincount(nearest)).pvalue > 1e-3
    residuals = away[np.arange(len(events)), nearest] / mixture.sigma
    for column in residuals.T:
        assert stats.kstest(column, "norm").pvalue > 1e-3  # type: ignore[union-attr]
    assert abs(residuals.prod(axis=1).mean()) < 4 / len(events) ** 0.5


def test_the_roll_is_a_spiral() -> None:
    events = toys.SwissRoll(SwissRollSource(kind="swiss_roll", noise=0.0), ROWS).generate(0) * 7.5
    radius = np.hypot(*events.T)
    # Without noise the radius is the angle t, uniform from 1.5 to 4.5 pi.
    assert stats.kstest(radius, stats.uniform(1.5 * np.pi, 3 * np.pi).cdf).pvalue > 1e-3  # type: ignore[union-attr]
    assert events == pytest.approx(radius[:, None] * np.stack([np.cos(radius), np.sin(radius)], axis=1))
    noise = ROLL.generate(0) * 7.5 - events
    assert noise.std(axis=0) == pytest.approx(0.25, rel=0.02)
    assert ROLL.physics is None


def test_events_depend_on_seed_and_block_only() -> None:
    first, longer, other = (
        toys.Ring(RingSource(kind="ring", events=events, seed=seed), ROWS)
        for events, seed in ((10, 1), (100_010, 1), (10, 2))
    )
    assert (first.pieces, longer.pieces) == (1, 2)
    assert len(longer.generate(1)) == 10
    assert np.array_equal(first.generate(0), first.generate(0))
    assert not np.isin(first.generate(0), longer.generate(1)).any()
    assert not np.isin(first.generate(0), other.generate(0)).any()


@pytest.mark.parametrize("kind", ["ring", "grid", "swiss_roll"])
def test_staged(kind: str, tmp_path: Path) -> None:
    dataset = Dataset.model_validate({"source": {"kind": kind, "events": 500}, "shard_rows": 200, "cuts": ["x > 0"]})
    manifest = stage("toy", dataset, tmp_path, Ranks(), 1)
    assert manifest.feature_names == ("x", "y")
    assert manifest.conditions == []
    assert manifest.rows + manifest.dropped.cuts == 500
    assert (manifest.physics is None) == (kind == "swiss_roll")
    assert Manifest.read(tmp_path / "manifest.json") == manifest
    assert read_split(tmp_path / "manifest.json", "train").features[:, 0].min() > 0


def test_a_cut_reads_x_and_y_only(tmp_path: Path) -> None:
    dataset = Dataset.model_validate({"source": {"kind": "ring"}, "cuts": ["z > 0"]})
    with pytest.raises(ConfigError, match="reads the unknown column 'z'"):
        stage("toy", dataset, tmp_path, Ranks(), 1)
