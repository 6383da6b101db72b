"""The benchmark is a target of its own: no part of a run, and it needs no data."""

import subprocess
import sys
from pathlib import Path

import pytest

from kantor_kernels.benchmark import OPERATIONS, read_rows

ROOT = Path(__file__).parents[2]


def snakemake(results: Path, *arguments: str) -> str:
    settings = ["--nolock", "--config", f"pathvars={{results: {results}}}"]
    done = subprocess.run(
        [str(Path(sys.executable).with_name("snakemake")), *settings, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.slow
def test_the_target_measures_then_draws(tmp_path: Path) -> None:
    announced = snakemake(tmp_path, "--dry-run", "benchmark")
    assert "rule measure:" in announced
    assert "rule benchmark:" in announced
    assert f"{tmp_path}/benchmark/pairwise.csv" in announced
    for other in ("rule stage:", "rule train:"):
        assert other not in announced


@pytest.mark.slow
def test_every_operation_is_measured_and_drawn(tmp_path: Path) -> None:
    # Two threads that share a core with another test wait for each other most of the time.
    snakemake(tmp_path, "--cores", "1", "--set-resources", "measure:quick=1", "--", "benchmark")
    for name in OPERATIONS:
        rows = read_rows(tmp_path / "benchmark" / f"{name}.csv")
        assert [row for row in rows if row.ours and row.p50 is not None and row.ratio is not None]
    assert "double backward" in (tmp_path / "benchmark" / "index.html").read_text()


@pytest.mark.slow
def test_a_run_measures_nothing(tmp_path: Path) -> None:
    assert "rule measure:" not in snakemake(tmp_path, "--dry-run")
