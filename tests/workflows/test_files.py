"""The user's own files as the workflow sees them."""

import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow
MANIFEST = "results/data/own/manifest.json"


def write(path: Path, first: int) -> None:
    path.write_text("x,y\n" + "".join(f"{n},{n * n}\n" for n in range(first, first + 100)))


@pytest.fixture
def workflow(tmp_path: Path, new_workflow: Any) -> Any:
    workflow = new_workflow(tmp_path / "workflow")
    source = {"kind": "file", "paths": ["own/*.csv"], "features": ["x", "y"]}
    workflow.configure(datasets__own={"source": source})
    (workflow.directory / "own").mkdir()
    return workflow


def test_a_new_match_of_a_pattern_stages_again(workflow: Any) -> None:
    refused = workflow.snakemake("--dry-run", MANIFEST)
    assert refused.returncode == 1
    assert "own/*.csv: no file matches this pattern" in refused.stdout + refused.stderr
    write(workflow.directory / "own" / "b.csv", 0)
    done = workflow.snakemake(MANIFEST)
    assert done.returncode == 0, done.stderr
    assert workflow.would_run(MANIFEST) == Counter()
    write(workflow.directory / "own" / "a.csv", 100)
    time.sleep(1)
    assert workflow.would_run(MANIFEST) == Counter(["stage:own"])
    done = workflow.snakemake(MANIFEST)
    assert done.returncode == 0, done.stderr
    assert '"rows": 200' in (workflow.directory / MANIFEST).read_text()
    # A file that is gone, too.
    (workflow.directory / "own" / "a.csv").unlink()
    assert workflow.would_run(MANIFEST) == Counter(["stage:own"])
