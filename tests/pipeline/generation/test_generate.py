"""`kantor generate`: the same events from any number of ranks and threads, and what is said of bad input."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from kantor.cli import main
from kantor.models.bundle import BLOCK, Bundle

MPIEXEC = Path(sys.executable).with_name("mpiexec")
EVENTS = 300_000  # more than two pieces


def momenta(path: Path, values: np.ndarray, unit: str = "GeV") -> Path:
    with h5py.File(path, "w") as file:
        file["momentum"] = values
        file["momentum"].attrs["unit"] = unit
        file["event"] = np.arange(len(values)) + 7
    return path


def columns(path: Path) -> dict[str, np.ndarray]:
    with h5py.File(path) as file:
        return {name: np.asarray(file[name]) for name in file.keys()}  # noqa: SIM118 - of the type str


def test_events_are_the_bundle_s(ring: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "events.h5"
    assert main(["generate", "--model", str(ring), "--events", "20_000", "--seed", "3", "--out", str(out)]) == 0
    assert np.array_equal(np.stack([*columns(out).values()], axis=1), Bundle.load(ring).generate(20_000, seed=3))
    with h5py.File(out) as file:
        facts = json.loads(str(file.attrs["provenance"]))
    assert facts["model_sha256"] == hashlib.sha256(ring.read_bytes()).hexdigest()
    assert (facts["model"], facts["seed"], facts["start"], facts["events"]) == ("ring", 3, 0, 20_000)
    assert facts["config"]["objective"]["kind"] == "wgan_gp"


def test_a_sample_goes_on_where_another_ends(ring: Path, tmp_path: Path) -> None:
    whole, first, rest = (tmp_path / f"{name}.h5" for name in ("whole", "first", "rest"))
    for out, events, start in ((whole, 30_000, 0), (first, BLOCK + 5, 0), (rest, 30_000 - BLOCK - 5, BLOCK + 5)):
        arguments = ["--events", str(events), "--start", str(start), "--out", str(out)]
        assert main(["generate", "--model", str(ring), *arguments]) == 0
    for name, values in columns(whole).items():
        assert np.array_equal(values, np.concatenate([columns(first)[name], columns(rest)[name]]))


@pytest.mark.parametrize("ending", [".h5", ".npz", ".parquet", ".csv"])
def test_threads_change_no_byte(ending: str, ring: Path, tmp_path: Path) -> None:
    outs = [tmp_path / f"{threads}{ending}" for threads in (1, 3)]
    for out, threads in zip(outs, (1, 3), strict=True):
        arguments = ["--events", str(EVENTS), "--threads", str(threads), "--out", str(out)]
        assert main(["generate", "--model", str(ring), *arguments]) == 0
    one, three = (out.read_bytes() for out in outs)
    assert one == three


@pytest.mark.slow
@pytest.mark.skipif(not MPIEXEC.exists(), reason="needs mpiexec")
def test_ranks_change_no_byte(conditional: Path, tmp_path: Path) -> None:
    given = momenta(tmp_path / "given.h5", np.linspace(1.5, 9, EVENTS))
    arguments = ["--conditions", str(given), "--carry", "event", "--model", str(conditional), "--start", "99"]
    assert main(["generate", *arguments, "--out", str(tmp_path / "one.h5")]) == 0
    command = [MPIEXEC, "-n", "2", sys.executable, "-m", "kantor.cli", "generate", *arguments, "--expect-ranks", "2"]
    done = subprocess.run(
        [*command, "--threads", "1", "--out", tmp_path / "two.h5"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "one.h5").read_bytes() == (tmp_path / "two.h5").read_bytes()
    # A failure of the root ends all of them, and nothing is left.
    momenta(given, np.full(10, np.nan))
    done = subprocess.run(
        [*command, "--out", tmp_path / "broken.h5"], capture_output=True, text=True, check=False, timeout=100
    )
    assert done.returncode == 2
    assert "is NaN, infinite or too large for float32 in row 0" in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["given.h5", "one.h5", "two.h5"]


def test_conditions_stand_beside_their_events_with_what_is_carried(conditional: Path, tmp_path: Path) -> None:
    values = np.random.default_rng(1).uniform(2, 9, 20_000)
    given, out = momenta(tmp_path / "given.h5", values), tmp_path / "out.h5"
    arguments = ["--model", str(conditional), "--conditions", str(given), "--carry", "event", "--out", str(out)]
    assert main(["generate", *arguments]) == 0
    found = columns(out)
    assert np.array_equal(found["momentum"], values.astype("f4"))
    assert np.array_equal(found["event"], np.arange(20_000) + 7)
    expected = Bundle.load(conditional).generate(20_000, values.astype("f4")[:, None])
    assert np.array_equal(np.stack([found["response"], found["width"]], axis=1), expected)


def test_conditions_outside_of_the_training_s_are_counted_or_refused(
    conditional: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = momenta(tmp_path / "given.h5", np.array([0.5, 2.0, 9.0, 11.0, 12.0]))
    arguments = ["generate", "--model", str(conditional), "--conditions", str(given), "--out"]
    assert main([*arguments, str(tmp_path / "out.h5")]) == 0
    low, high = Bundle.load(conditional).condition_limits()["momentum"]  # type: ignore[index]
    said = (
        f"of 5 rows, conditions are outside of the range of the training data: momentum in 3 (trained on {low:.6g} to"
    )
    assert said in capsys.readouterr().err
    assert 1 <= low < 1.1 < 9.9 < high <= 10
    with h5py.File(tmp_path / "out.h5") as file:
        assert json.loads(str(file.attrs["provenance"]))["conditions_outside_training"] == {"momentum": 3}
    assert main([*arguments, str(tmp_path / "strict.h5"), "--strict"]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "strict.h5").exists()


def test_a_model_that_does_not_know_its_range_says_so(
    conditional: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = torch.load(conditional, weights_only=True)
    del old["condition_range"]
    torch.save(old, tmp_path / "old.pt")
    given = momenta(tmp_path / "given.h5", np.array([11.0]))
    arguments = ["--model", str(tmp_path / "old.pt"), "--conditions", str(given), "--out", str(tmp_path / "out.h5")]
    assert main(["generate", *arguments]) == 0
    assert "was trained before models knew the range of their conditions: none is checked" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("values", "unit", "more", "said"),
    [
        ([2, 3, np.nan, 4], "GeV", [], "the condition 'momentum' is NaN, infinite or too large for float32 in row 2"),
        ([2, 1e39], "GeV", [], "too large for float32 in row 1"),
        ([], "GeV", [], "it holds no rows"),
        (
            [2000.0],
            "MeV",
            [],
            "the column 'momentum' is in 'MeV', the model has it in 'GeV'\n  cure: convert it to GeV",
        ),
        ([2.0], "GeV", ["--carry", "evnt"], "there is no column 'evnt'; the columns are: event, momentum"),
        ([2.0], "GeV", ["--carry", "width"], "--carry: 'width' stands in the output already"),
    ],
)
def test_bad_conditions_are_refused_and_nothing_is_written(
    values: list[float],
    unit: str,
    more: list[str],
    said: str,
    conditional: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = momenta(tmp_path / "given.h5", np.array(values, "f8"), unit)
    arguments = ["--model", str(conditional), "--conditions", str(given), "--out", str(tmp_path / "out.h5"), *more]
    assert main(["generate", *arguments]) == 2
    assert said in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["given.h5"]


def test_a_unit_in_parquet_counts_too(conditional: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    schema = pa.schema([pa.field("momentum", pa.float64(), metadata={"unit": "MeV"})])
    parquet.write_table(pa.table({"momentum": [2.0]}, schema=schema), tmp_path / "given.parquet")
    arguments = ["--conditions", str(tmp_path / "given.parquet"), "--out", str(tmp_path / "out.h5")]
    assert main(["generate", "--model", str(conditional), *arguments]) == 2
    assert "is in 'MeV', the model has it in 'GeV'" in capsys.readouterr().err


def test_a_model_gets_what_it_needs(
    conditional: Path, ring: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["--out", str(tmp_path / "out.h5")]
    assert main(["generate", "--model", str(conditional), "--events", "10", *out]) == 2
    assert (
        "conditions, which it does not know by itself: momentum [GeV]\n  cure: give a file" in capsys.readouterr().err
    )
    given = momenta(tmp_path / "given.h5", np.array([2.0]))
    assert main(["generate", "--model", str(ring), "--conditions", str(given), *out]) == 2
    assert "its events depend on no conditions\n  cure: say how many by --events" in capsys.readouterr().err
    assert main(["generate", "--model", str(ring), "--events", "10", "--carry", "event", *out]) == 2
    assert "'event' cannot be carried along without a file" in capsys.readouterr().err


def test_provenance_of_csv_stands_beside_it(ring: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    assert main(["generate", "--model", str(ring), "--events", "10", "--out", str(out)]) == 0
    assert out.read_text().splitlines()[0] == "x,y"
    assert json.loads((tmp_path / "out.csv.json").read_text())["events"] == 10


@pytest.mark.parametrize("ending", [".h5", ".root", ".parquet", ".npz", ".csv"])
def test_a_full_disk_leaves_nothing(
    ending: str, ring: Path, small_disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = small_disk / f"out{ending}"
    assert main(["generate", "--model", str(ring), "--events", "200_000", "--out", str(out)]) == 2
    assert f"{out}: cannot write: No space left on device" in capsys.readouterr().err
    assert not list(small_disk.iterdir())
