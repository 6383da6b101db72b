"""Shards and manifest: what they depend on, what they hold, and what is left after a failure."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import h5py
import numpy as np
import pytest

from kantor.config import Dataset, DisPhysics
from kantor.data.manifest import Manifest
from kantor.data.samples import read_split
from kantor.data.staging import stage
from kantor.errors import ConfigError, InputError
from kantor.machine.ranks import Ranks

if TYPE_CHECKING:
    from conftest import Table

DRIVER = """
import sys
from pathlib import Path
from kantor.config import Dataset
from kantor.data.staging import stage
from kantor.machine.ranks import world

if __name__ == "__main__":
    ranks, processes = world(expected=int(sys.argv[3])), int(sys.argv[4])
    try:
        stage("events", Dataset.model_validate_json(sys.argv[1]), Path(sys.argv[2]), ranks, processes)
    except Exception as error:
        sys.exit(f"rank {ranks.rank}: {error}")
"""
MPIEXEC = Path(sys.executable).with_name("mpiexec")
NOBODY = 65534


def dis_dataset(**settings: object) -> Dataset:
    source = {"kind": "dis", "events": 2300, "block": 400}
    return Dataset.model_validate({"source": source, "shard_rows": 900, "cuts": ["pz > 40"], **settings})


def files(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(out.iterdir())}


def drive(dataset: Dataset, out: Path, ranks: int, processes: int) -> subprocess.CompletedProcess[str]:
    launcher = [str(MPIEXEC), "-n", str(ranks)] if ranks > 1 else []
    command = [*launcher, sys.executable, "-c", DRIVER, dataset.canonical(), str(out), str(ranks), str(processes)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


# ------------------------------------------------------------------------------------------------- who makes the shards


@pytest.fixture(scope="module")
def one_process(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("one")
    stage("events", dis_dataset(), out, Ranks(), 1)
    return files(out)


def test_two_processes_make_the_same_bytes(one_process: dict[str, bytes], tmp_path: Path) -> None:
    stage("events", dis_dataset(), tmp_path, Ranks(), 2)
    assert files(tmp_path) == one_process


@pytest.mark.slow
@pytest.mark.skipif(not MPIEXEC.exists(), reason="no mpiexec beside this Python (pip install mpich)")
@pytest.mark.parametrize("processes", [1, 2])
def test_two_ranks_make_the_same_bytes(one_process: dict[str, bytes], tmp_path: Path, processes: int) -> None:
    done = drive(dis_dataset(), tmp_path / "out", 2, processes)
    assert done.returncode == 0, done.stderr
    assert files(tmp_path / "out") == one_process


@pytest.mark.skipif(not MPIEXEC.exists(), reason="no mpiexec beside this Python (pip install mpich)")
def test_all_ranks_end_when_one_fails(table: Table) -> None:
    wrong = table.write(table.directory / "wrong.npz")
    np.savez(wrong, z=np.zeros(3))
    done = drive(table.dataset(table.path, wrong), table.out, 2, 1)
    assert done.returncode != 0
    for rank in (0, 1):
        assert f"rank {rank}: {wrong}: there is no column" in done.stderr
    assert list(table.out.iterdir()) == []


def test_processes_share_files(table: Table) -> None:
    table.columns["x"] += 1
    second = table.write(table.directory / "second.npz")
    table.stage(table.path, second, shard_rows=300)
    alone = files(table.out)
    manifest = table.stage(table.path, second, shard_rows=300, processes=2)
    assert files(table.out) == alone
    assert [shard.rows for shard in manifest.shards] == [300, 300, 300, 100] * 2


def test_seed_changes_the_events(one_process: dict[str, bytes], tmp_path: Path) -> None:
    source = {"kind": "dis", "events": 2300, "block": 400, "seed": 2}
    stage("events", dis_dataset(source=source), tmp_path, Ranks(), 1)
    assert files(tmp_path)["shard-0000.h5"] != one_process["shard-0000.h5"]


def test_small_shards_hold_the_same_events(one_process: dict[str, bytes], tmp_path: Path) -> None:
    manifest = stage("events", dis_dataset(shard_rows=70), tmp_path, Ranks(), 1)
    assert max(shard.rows for shard in manifest.shards) == 70
    assert manifest.rows == Manifest.model_validate_json(one_process["manifest.json"]).rows


# ------------------------------------------------------------------------------------------------------ what they hold


def test_shard_and_manifest_agree(table: Table) -> None:
    manifest = table.stage(shard_rows=400)
    assert Manifest.read(table.out / "manifest.json") == manifest
    assert [(shard.file, shard.rows) for shard in manifest.shards] == [
        ("shard-0000.h5", 400),
        ("shard-0001.h5", 400),
        ("shard-0002.h5", 200),
    ]
    assert manifest.units == {"x": "GeV", "y": "", "pseudorapidity": ""}
    for shard in manifest.shards:
        content = (table.out / shard.file).read_bytes()
        assert (len(content), hashlib.sha256(content).hexdigest()) == (shard.bytes, shard.sha256)
    with h5py.File(table.out / "shard-0001.h5") as file:
        assert list(file) == ["conditions", "features", "weights"]
        for name, column in (("features", "x"), ("conditions", "eta")):
            assert np.array_equal(file[name][:, 0], table.columns[column][400:800].astype(np.float32))  # type: ignore[index]
            assert file[name].dtype == np.float32  # type: ignore[union-attr]
        assert np.array_equal(file["weights"][()], table.columns["w"][400:800].astype(np.float32))  # type: ignore[index]
        assert list(file["features"].attrs["names"]) == ["x", "y"]  # type: ignore[arg-type]
        assert list(file["features"].attrs["units"]) == ["GeV", ""]  # type: ignore[arg-type]
        assert json.loads(str(file.attrs["source"]))["weight"] == "w"
        assert file.attrs["kantor"] == manifest.kantor


def test_dis_facts(one_process: dict[str, bytes]) -> None:
    manifest = Manifest.model_validate_json(one_process["manifest.json"])
    assert isinstance(manifest.physics, DisPhysics)
    assert manifest.physics.q2_min == 2.0
    assert manifest.constants["proton_mass"] == pytest.approx(0.938272, rel=1e-5)
    assert manifest.generator is not None
    assert manifest.rows + manifest.dropped.cuts == 2300
    assert manifest.source["seed"] == 1


def test_a_shard_can_be_staged_again(table: Table, tmp_path: Path) -> None:
    table.stage()
    settings = {"features": ["x", "y"], "conditions": ["pseudorapidity"], "weight": "weights"}
    again = stage("again", table.dataset(table.out / "shard-0000.h5", **settings), tmp_path / "again", Ranks(), 1)
    assert again.rows == 1000
    one, two = (read_split(out / "manifest.json", "train") for out in (table.out, tmp_path / "again"))
    assert np.array_equal(one.features, two.features)
    assert np.array_equal(one.weights, two.weights)  # type: ignore[arg-type]


def test_a_feature_may_be_called_weight(table: Table) -> None:
    manifest = table.stage(features={"weight": "x", "y": "y"}, units={})
    sample = read_split(table.out / "manifest.json", "train")
    assert manifest.feature_names == ("weight", "y")
    assert not np.array_equal(sample.features[:, 0], sample.weights)  # type: ignore[arg-type]


def test_cuts_are_counted_and_hold(table: Table) -> None:
    manifest = table.stage(cuts=["x > 0", "sqrt(pseudorapidity) < 0.8"])
    passing = (table.columns["x"] > 0) & (table.columns["eta"] >= 0) & (table.columns["eta"] < 0.64)
    assert manifest.rows == passing.sum()
    assert manifest.dropped.cuts == 1000 - passing.sum()
    assert read_split(table.out / "manifest.json", "train").features[:, 0].min() > 0


def test_invalid_rows_are_dropped_if_asked(table: Table) -> None:
    table.columns["x"][:5] = np.nan
    table.columns["y"][4:7] = -np.inf
    table.columns["eta"][10] = 1e39
    table.columns["w"][11] = np.inf
    table.write()
    with pytest.raises(InputError, match=r"9 of 1,000 rows.*\(x 5, y 3, pseudorapidity 1, the weight 1\)") as caught:
        table.stage()
    assert caught.value.cure is not None
    assert "invalid_rows: drop" in caught.value.cure
    assert list(table.out.iterdir()) == []
    manifest = table.stage(invalid_rows="drop", cuts=["x > 0"])
    assert manifest.dropped.invalid == 9
    assert manifest.rows + manifest.dropped.invalid + manifest.dropped.cuts == 1000


def test_unused_columns_may_hold_anything(table: Table) -> None:
    table.columns["remark"] = np.full(1000, np.nan)
    table.write()
    assert table.stage().dropped.invalid == 0


def test_what_is_said(table: Table, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "kantor"):
        table.stage(cuts=["x > 0"])
        stage("events", dis_dataset(), table.directory / "dis", Ranks(), 1)
    assert f"dropped: 0 invalid rows, {(table.columns['x'] <= 0).sum()} fail the cuts" in caplog.text
    assert "staged table" in caplog.text
    assert "PYTHIA 8.317: cross section 30" in caplog.text


# ---------------------------------------------------------------------------------------------- what is left on failure


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"cuts": ["x > 100"]}, "no row is left: 1,000 were read, 0 are invalid, 1,000 fail the cuts"),
        ({"cuts": ["z > 0"]}, "unknown column 'z'"),
        ({"cuts": ["x"]}, "is a number, not a condition"),
        ({"cuts": ["(x > 0) & y"]}, "cannot be evaluated"),
        ({"split": {"validation": 0.009}}, r"the validation split has 9 rows, 0\.009 of 1,000; at least 10 are needed"),
        ({"split": {"test": 0.019}}, r"the test split has 19 rows, 0\.019 of 1,000; at least 20 are needed"),
        ({"features": ["x", "yy"]}, "no column 'yy'"),
        ({"paths": ["nowhere.h5"]}, "no such file"),
    ],
)
def test_bad_settings_leave_nothing(table: Table, settings: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        table.stage(**settings)  # type: ignore[arg-type]
    assert not table.out.exists() or list(table.out.iterdir()) == []


def test_bad_cuts_are_found_before_any_work(tmp_path: Path) -> None:
    dataset = dis_dataset(source={"kind": "dis", "events": 10_000_000}, cuts=["p_z > 1"])
    with pytest.raises(ConfigError, match="known columns: px, py, pz"):
        stage("events", dataset, tmp_path, Ranks(), 1)


def test_weights_without_a_positive_sum(table: Table) -> None:
    table.columns["w"] = np.full(1000, -1.0)
    table.write()
    with pytest.raises(InputError, match="weights add up to -1000"):
        table.stage()


def test_weights_that_cancel(table: Table) -> None:
    table.columns["w"] = np.where(np.arange(1000) % 2 == 0, 1.0, -0.9)
    table.write()
    with pytest.raises(InputError, match=r"the whole sample has 2\.76 effective rows.*; at least 10 are needed"):
        table.stage()
    assert not table.out.exists() or list(table.out.iterdir()) == []


def test_empty_file(table: Table) -> None:
    path = table.directory / "empty.csv"
    path.write_text("x,y,eta,w\n")
    with pytest.raises(InputError, match="no row is left: 0 were read"):
        table.stage(path)


def test_files_with_different_columns(table: Table) -> None:
    second = table.directory / "second.csv"
    second.write_text("x,y,w\n1,2,3\n")
    with pytest.raises(InputError, match="no column 'eta'; the columns are: x, y, w") as caught:
        table.stage(table.path, second, processes=2)
    assert caught.value.where == second


def test_a_smaller_dataset_replaces_a_larger_one(table: Table) -> None:
    table.stage(shard_rows=100)
    manifest = table.stage(shard_rows=600)
    assert sorted(files(table.out)) == ["manifest.json", "shard-0000.h5", "shard-0001.h5"]
    assert read_split(table.out / "manifest.json", "train").rows == 600
    assert manifest.rows == 1000


def test_a_failure_leaves_the_earlier_dataset_whole(table: Table) -> None:
    table.stage()
    before = files(table.out)
    with pytest.raises(InputError):
        table.stage(cuts=["x > 100"])
    assert files(table.out) == before


def test_a_failure_while_replacing_leaves_no_dataset(table: Table) -> None:
    table.stage()
    # A directory in the place of the second shard: it cannot be removed, nor a shard be put there.
    (table.out / "shard-0001.h5").mkdir()
    with pytest.raises(Exception, match="shard-0001"):
        table.stage(shard_rows=600)
    assert not (table.out / "manifest.json").exists()


def test_input_inside_the_output(table: Table) -> None:
    table.stage()
    with pytest.raises(InputError, match="would be overwritten"):
        table.stage(table.out / "shard-0000.h5")


def test_output_is_a_file(table: Table) -> None:
    table.out.write_text("not a directory")
    with pytest.raises(InputError, match="cannot write"):
        table.stage()
    assert table.out.read_text() == "not a directory"


@contextmanager
def unprivileged() -> Iterator[None]:
    """Root may write everywhere: act as nobody."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


def test_no_permission_to_write(table: Table) -> None:
    table.out.mkdir()
    table.out.chmod(0o555)
    with unprivileged(), pytest.raises(InputError, match="cannot write: Permission denied") as caught:
        stage("events", dis_dataset(), table.out, Ranks(), 1)
    assert caught.value.where == table.out
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("processes", [1, 2])
def test_full_disk(small_disk: Path, table: Table, processes: int) -> None:
    table.columns = {name: np.tile(values, 60) for name, values in table.columns.items()}
    second = table.write(table.directory / "second.npz")
    dataset = table.dataset(table.write(), second, shard_rows=20_000)
    with pytest.raises(InputError, match="cannot write: No space left on device") as caught:
        stage("table", dataset, small_disk / "out", Ranks(), processes)
    assert caught.value.cure is not None
    assert "free some space" in caught.value.cure
    assert list((small_disk / "out").iterdir()) == []


def children(process: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_until(condition) -> None:  # type: ignore[no-untyped-def]
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs Linux's /proc")
def test_a_killed_run_leaves_no_dataset_and_no_processes(tmp_path: Path) -> None:
    dataset = dis_dataset(source={"kind": "dis", "events": 100_000_000, "block": 2000}, shard_rows=2000)
    command = [sys.executable, "-c", DRIVER, dataset.canonical(), str(tmp_path), "1", "2"]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        wait_until(lambda: list(tmp_path.glob(".staging/*.h5")))
        workers = children(process.pid)
        process.send_signal(signal.SIGKILL)
    wait_until(lambda: not any(alive(worker) for worker in workers))
    assert [path.name for path in tmp_path.iterdir()] == [".staging"]
    stage("events", dis_dataset(), tmp_path, Ranks(), 1)
    assert ".staging" not in [path.name for path in tmp_path.iterdir()]


QUANTITIES = {"r2": "x**2 + y**2", "r": "sqrt(r2)"}


def test_quantities_have_names_in_cuts(table: Table) -> None:
    manifest = table.stage(quantities=QUANTITIES, cuts=["r < 1.5"])
    inside = table.columns["x"] ** 2 + table.columns["y"] ** 2 < 1.5**2
    assert manifest.rows == np.count_nonzero(inside)
    assert manifest.dropped.cuts == 1000 - manifest.rows
    assert (manifest.cuts, manifest.quantities) == (["r < 1.5"], QUANTITIES)


def test_cuts_that_the_events_were_made_with_are_those_that_they_obey(table: Table) -> None:
    whole = table.stage(quantities=QUANTITIES, cuts=["r < 10", "y > -10"], failing_rows="error")
    assert whole.rows == 1000
    x, y = table.columns["x"], table.columns["y"]
    far, low = np.hypot(x, y) >= 2, y <= -1
    first = int(np.flatnonzero(far | low)[0])
    with pytest.raises(
        InputError,
        match=rf"of 1,000 valid rows, {far.sum()} fail 'r < 2', {low.sum()} fail 'y > -1'; the first is row {first} of",
    ):
        table.stage(quantities=QUANTITIES, cuts=["r < 2", "y > -1"], failing_rows="error")
    # As cuts that select, they leave the others.
    assert table.stage(quantities=QUANTITIES, cuts=["r < 2", "y > -1"]).rows == np.count_nonzero(~(far | low))


def test_rounding_to_what_is_stored_breaks_no_promise(table: Table) -> None:
    """A row that only float32 moves beyond a cut is left out, since it would not pass as it is stored."""
    table.columns["x"][3] = 2.0 + 1e-9
    table.columns["x"][[4, 5]] = 3.0
    table.columns["x"] = np.where(table.columns["x"] > 2, table.columns["x"], 2.5)
    table.write()
    manifest = table.stage(cuts=["x > 2"], failing_rows="error")
    assert (manifest.rows, manifest.dropped.cuts) == (999, 1)
