"""What float32 cannot tell apart is stored less an offset, and comes back exactly; or it is refused."""

import logging
from pathlib import Path

import numpy as np
import pytest

from kantor.config import Dataset
from kantor.data.manifest import Manifest
from kantor.data.samples import read_split
from kantor.data.staging import stage
from kantor.errors import InputError
from kantor.machine.ranks import Ranks

RNG = np.random.default_rng(3)
ROWS = 3000
FINE = RNG.normal(size=ROWS)


def staged(
    directory: Path, *, weight: np.ndarray | None = None, cuts: tuple[str, ...] = (), **columns: np.ndarray
) -> Path:
    weights = {} if weight is None else {"weight": weight}
    paths = []
    for part, rows in enumerate(np.array_split(np.arange(ROWS), 2)):
        paths.append(str(directory / f"events{part}.npz"))
        np.savez(paths[-1], allow_pickle=False, **{name: values[rows] for name, values in (columns | weights).items()})
    source = {"kind": "file", "paths": paths, "features": list(columns), "weight": "weight" if weights else None}
    stage("d", Dataset.model_validate({"source": source, "cuts": list(cuts)}), directory / "out", Ranks(), 1)
    return directory / "out" / "manifest.json"


def physical(manifest: Path) -> dict[str, np.ndarray]:
    """All rows, sorted by the column `fine`."""
    splits = [read_split(manifest, split).columns() for split in ("train", "validation", "test")]
    columns = {name: np.concatenate([split[name] for split in splits]) for name in splits[0]}
    return {name: values[np.argsort(columns["fine"])] for name, values in columns.items()}


@pytest.mark.parametrize(
    ("values", "offset"),
    [
        pytest.param(1_700_000_000 + np.arange(ROWS), 1.7e9, id="unix times"),
        pytest.param(1.7e9 + np.arange(ROWS) / 64, 1.7e9, id="fractions of seconds"),
        pytest.param(-123_456_789 - np.arange(ROWS), -123_460_000.0, id="negative"),
        pytest.param(np.full(ROWS, 300_000_001), 300_000_001.0, id="one run"),
        pytest.param(1_700_000_000_000_000_000 + 1024 * np.arange(ROWS), 1.7e18, id="nanoseconds"),
    ],
)
def test_an_offset_keeps_every_value(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, values: np.ndarray, offset: float
) -> None:
    caplog.set_level(logging.INFO, "kantor")
    manifest = staged(tmp_path, fine=FINE, coarse=values)
    assert [column.offset for column in Manifest.read(manifest).features] == [0.0, offset]
    assert f"'coarse' less {offset:.15g}" in caplog.text
    found = physical(manifest)
    assert found["fine"].dtype == np.float32
    np.testing.assert_array_equal(found["coarse"], values.astype(np.float64)[np.argsort(FINE.astype(np.float32))])


@pytest.mark.parametrize(
    "values",
    [
        pytest.param(RNG.normal(size=ROWS), id="ordinary"),
        pytest.param(RNG.pareto(1.1, size=ROWS), id="heavy tail"),
        pytest.param(np.full(ROWS, 0.1), id="constant that is no float32"),
        pytest.param(0.1395 * (1 + 1e-12 * RNG.normal(size=ROWS)), id="constant by arithmetic"),
        pytest.param(np.arange(ROWS), id="small integers"),
        pytest.param(np.arange(ROWS) * 1e6, id="event numbers in their order"),
        pytest.param((91.2 + 0.01 * RNG.normal(size=ROWS)).astype(np.float32), id="float32 already"),
    ],
)
def test_what_float32_holds_has_no_offset(tmp_path: Path, values: np.ndarray) -> None:
    assert Manifest.read(staged(tmp_path, fine=FINE, x=values)).offsets == {}


def test_a_cut_sees_physical_values_and_decides_what_counts(tmp_path: Path) -> None:
    times = 1.7e9 + np.arange(ROWS, dtype=np.float64)
    times[::10] = 0  # where there is none
    manifest = staged(tmp_path, fine=FINE, time=times, cuts=("time > 1700001000.5",))
    assert Manifest.read(manifest).offsets == {"time": 1.7e9}
    np.testing.assert_array_equal(np.sort(physical(manifest)["time"]), np.sort(times[times > 1700001000.5]))


def test_one_row_far_away_is_said(tmp_path: Path) -> None:
    times = 1.7e9 + np.arange(ROWS, dtype=np.float64) / 100
    times[7] = 0
    lost = r"column 'time': of .* different values float32 leaves \d+, in the range 0 to 1.7"
    with pytest.raises(InputError, match=lost) as said:
        staged(tmp_path, fine=FINE, time=times)
    assert "cut the rows that are far from all others" in str(said.value)
    assert not (tmp_path / "out" / "manifest.json").exists()
    # The cure.
    assert Manifest.read(staged(tmp_path, fine=FINE, time=times, cuts=("time > 1",))).offsets == {"time": 1.7e9}


def test_what_is_too_small_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"column .x.: of .* different values float32 leaves \d, ") as said:
        staged(tmp_path, fine=FINE, x=1e-46 * RNG.random(ROWS))
    assert "a unit in which" in str(said.value)
    with pytest.raises(InputError, match=r"the weights, .* are too small for float32") as said:
        staged(tmp_path, fine=FINE, weight=1e-46 * (1 + RNG.random(ROWS)))
    assert "multiply them by a constant" in str(said.value)
    staged(tmp_path, fine=FINE, weight=1e-30 * (1 + RNG.random(ROWS)))
