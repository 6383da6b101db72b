"""A workflow that has run once."""

from typing import Any

import pytest


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, new_workflow: Any) -> Any:
    """The workflow after a complete first run: real PYTHIA, Ray and MPI."""
    workflow = new_workflow(tmp_path_factory.mktemp("workflow"))
    done = workflow.snakemake()
    assert done.returncode == 0, done.stdout + done.stderr
    return workflow
