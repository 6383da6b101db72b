"""The benchmark is a target of its own: no part of a run, and it needs no data."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def dry_run(results: Path, *targets: str) -> str:
    settings = ["--config", f"pathvars={{results: {results}}}"]
    done = subprocess.run(
        [str(Path(sys.executable).with_name("snakemake")), "--dry-run", "--nolock", *settings, "--", *targets],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@pytest.mark.slow
def test_the_target_measures_then_draws(tmp_path: Path) -> None:
    announced = dry_run(tmp_path, "benchmark")
    assert "rule measure:" in announced
    assert "rule benchmark:" in announced
    assert f"{tmp_path}/benchmark/pairwise.csv" in announced
    for other in ("rule stage:", "rule train:"):
        assert other not in announced


@pytest.mark.slow
def test_a_run_measures_nothing(tmp_path: Path) -> None:
    assert "rule measure:" not in dry_run(tmp_path)
