"""Samples of the configuration: made of their models, and made again where something of theirs changes."""

import os
import sys
from collections import Counter
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kantor.models.bundle import Bundle

Workflow = Any  # conftest's class, which an importlib-mode test cannot import

pytestmark = pytest.mark.slow
SAMPLES = {
    "some": {"training": "response", "conditions": "given.npz", "carry": ["event"], "format": "root"},
    "more": {"training": "wgan_gp", "training_seed": 2, "events": 1000},
}
DATASET = {
    "source": {
        "kind": "file",
        "paths": ["events.npz"],
        "features": ["response"],
        "conditions": ["momentum"],
        "units": {"momentum": "GeV"},
    }
}
TRAINING = {
    "dataset": "response",
    "generator": {"latent": 4, "width": 16, "depth": 2},
    "critic": {"width": 16, "depth": 2},
    "objective": {"kind": "wgan_gp"},
    "batch": 64,
    "steps": 4,
    "evaluate_rows": 100,
}


@pytest.fixture(scope="module")
def workflow(new_workflow: Any, tmp_path_factory: pytest.TempPathFactory) -> Workflow:
    """A study of a conditional model, whose sample is there; another sample's model is not."""
    made = new_workflow(tmp_path_factory.mktemp("workflow"))
    momentum = np.random.default_rng(1).uniform(1, 10, 500)
    np.savez(made.directory / "events.npz", momentum=momentum, response=momentum + 1)
    np.savez(made.directory / "given.npz", momentum=momentum, event=np.arange(500))
    study(made)
    done = made.snakemake("--cores", "2", "--", "results/samples/some.root")
    assert done.returncode == 0, done.stdout + done.stderr
    return made


def study(workflow: Workflow, **changes: object) -> None:
    more = {"datasets__response": DATASET, "trainings__response": TRAINING, "samples": SAMPLES}
    workflow.configure(**deepcopy(more), **changes)


@pytest.fixture(autouse=True)
def as_it_was(workflow: Workflow) -> Iterator[None]:
    yield
    study(workflow)


def test_a_sample_holds_the_model_s_events(workflow: Workflow) -> None:
    uproot = pytest.importorskip("uproot")
    results = workflow.directory / "results"
    momentum = np.load(workflow.directory / "given.npz")["momentum"].astype("f4")
    bundle = Bundle.load(results / "models" / "response" / "seed1" / "model.pt")
    with uproot.open(results / "samples" / "some.root") as file:
        found = file["events"].arrays(library="np")
    assert np.array_equal(found["response"], bundle.generate(500, momentum[:, None])[:, 0])
    assert np.array_equal(found["momentum"], momentum)
    assert np.array_equal(found["event"], np.arange(500))


def test_only_what_is_missing_or_touched_is_made(workflow: Workflow) -> None:
    others = Counter(["stage:dis", "train:wgan_gp", "generate:more.h5"])
    assert workflow.would_run("samples") == others
    study(workflow, samples__some__seed=3)
    assert workflow.would_run("samples") == others + Counter(["generate:some.root"])
    study(workflow, samples__some__format="parquet", trainings__response__n_critic=3)
    assert workflow.would_run("samples") == others + Counter(["train:response", "generate:some.parquet"])


def test_new_code_and_new_conditions_touch_it(workflow: Workflow) -> None:
    target, touched = "results/samples/some.root", Counter(["generate:some.root"])
    code, old, new = "pipeline/kantor/generation/writers/root.py", 'TREE = "events"', 'TREE = "Events"'
    workflow.edit(code, old, new)
    try:
        assert workflow.would_run(target) == touched
    finally:
        workflow.edit(code, new, old)
    given = workflow.directory / "given.npz"
    content, before = given.read_bytes(), given.stat()
    # Snakemake looks at the checksum of a file that is newer.
    np.savez(given, momentum=np.linspace(1, 10, 100), event=np.arange(100))
    try:
        assert workflow.would_run(target) == touched
    finally:
        given.write_bytes(content)
        os.utime(given, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_a_sample_is_no_part_of_a_run(workflow: Workflow) -> None:
    assert not any(job.startswith("generate") for job in workflow.would_run())


@pytest.mark.skipif(not Path(sys.executable).with_name("mpiexec").exists(), reason="needs mpiexec")
def test_a_cluster_s_ranks_share_a_sample(workflow: Workflow) -> None:
    done = workflow.snakemake(
        *("--dry-run", "--printshellcmds", "--forcerun", "generate", "--set-resources", "generate:mpi=mpiexec"),
        *("generate:tasks=3", "--", "results/samples/some.root"),
    )
    assert done.returncode == 0, done.stderr
    assert "-n 3 kantor generate --model results/models/response/seed1/model.pt --conditions=given.npz" in done.stdout
    assert "--expect-ranks 3" in done.stdout
