"""A second run redoes what a change touches, and nothing else."""

import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest

from kantor_kernels.benchmark import Row

ROOT = Path(__file__).parents[2]
Workflow = Any  # conftest's class, which an importlib-mode test cannot import

pytestmark = pytest.mark.slow
EVERYTHING = Counter(
    ["stage:dis", "stage:other", "train:wgan_gp", "train:cramer", "validate:wgan_gp", "validate:cramer", "gather"]
)


@contextmanager
def edited(workflow: Workflow, file: str, old: str, new: str) -> Iterator[None]:
    workflow.edit(file, old, new)
    try:
        yield
    finally:
        workflow.edit(file, new, old)


@pytest.fixture
def workflow(finished: Workflow) -> Iterator[Workflow]:
    yield finished
    finished.configure()


def test_the_first_run_makes_the_report(workflow: Workflow) -> None:
    results = workflow.directory / "results"
    for name in ("report/index.html", "report/report.json", "report/summary.csv"):
        assert (results / name).stat().st_size > 100
    for log in ("stage/dis.log", "train/wgan_gp/seed1.log", "validate/cramer/seed1.log", "report.log"):
        assert (results / "logs" / log).exists()


def test_a_second_run_does_nothing(workflow: Workflow) -> None:
    assert workflow.would_run() == Counter()


def test_a_training_s_lambda_touches_that_training(workflow: Workflow) -> None:
    workflow.configure(trainings__wgan_gp__objective__penalty={"weight": 3.0})
    assert workflow.would_run() == Counter(["train:wgan_gp", "validate:wgan_gp", "gather"])


def test_a_dataset_s_seed_touches_what_depends_on_it(workflow: Workflow) -> None:
    workflow.configure(datasets__other__source__seed=3)
    assert workflow.would_run() == Counter(["stage:other", "train:cramer", "validate:cramer", "gather"])


def test_validation_settings_touch_no_training(workflow: Workflow) -> None:
    workflow.configure(validation__bins=25)
    assert workflow.would_run() == Counter(["validate:wgan_gp", "validate:cramer", "gather"])


def test_observables_of_one_dataset_touch_its_validation(workflow: Workflow) -> None:
    workflow.configure(validation__observables={"dis": {"px_py": "px * py"}})
    assert workflow.would_run() == Counter(["validate:wgan_gp", "gather"])


def test_the_title_touches_the_page(workflow: Workflow) -> None:
    workflow.configure(title="another")
    assert workflow.would_run() == Counter(["gather"])


def test_equal_settings_spelled_differently_touch_nothing(workflow: Workflow) -> None:
    workflow.configure(trainings__wgan_gp__n_critic=5, datasets__dis__source__electron_energy=50)
    assert workflow.would_run() == Counter()


def test_more_seeds_keep_what_is_there(workflow: Workflow) -> None:
    assert workflow.would_run("report-physics") == Counter(["train:wgan_gp", "validate:wgan_gp", "gather"])


@pytest.mark.parametrize(
    ("file", "old", "new", "expected"),
    [
        ("pipeline/kantor/data/staging.py", "def _check_cuts(", "def _check_all_cuts(", EVERYTHING),
        (
            "pipeline/kantor/training/loop.py",
            "def _decay(",
            "def _decay_rate(",
            Counter(["train:wgan_gp", "train:cramer", "validate:wgan_gp", "validate:cramer", "gather"]),
        ),
        (
            "pipeline/kantor/validation/compare.py",
            "import numpy",
            "import math\nimport numpy",
            Counter(["validate:wgan_gp", "validate:cramer", "gather"]),
        ),
        ("pipeline/kantor/config/documentation.py", "def reference", "x = 1\ndef reference", Counter()),
        ("pipeline/kantor/report/page.py", "def write_report", "x = 1\ndef write_report", Counter(["gather"])),
    ],
    ids=["stage", "train", "validate", "no stage", "report"],
)
def test_a_stage_s_code_touches_it_and_what_follows(
    workflow: Workflow, file: str, old: str, new: str, expected: Counter[str]
) -> None:
    with edited(workflow, file, old, new):
        assert workflow.would_run() == expected


def test_comments_touch_nothing(workflow: Workflow) -> None:
    with edited(workflow, "pipeline/kantor/training/loop.py", "# Critic: n updates", "# The critic's n updates"):
        assert workflow.would_run() == Counter()


def test_a_benchmark_comes_into_the_report_and_a_run_never_measures(workflow: Workflow) -> None:
    page, figures = (workflow.directory / "results" / name for name in ("report/index.html", "benchmark/pairwise.csv"))
    assert "double backward" not in page.read_text()
    figures.parent.mkdir()
    known = {"case": "a case", "backend": "double backward", "metric": "time"}
    columns = {field.name: "0" for field in fields(Row)} | known
    figures.write_text("\n".join(",".join(line) for line in (columns, columns.values())) + "\n")
    for _ in range(2):
        assert workflow.would_run() == Counter(["gather"])
        done = workflow.snakemake()
        assert done.returncode == 0, done.stdout + done.stderr
        assert ("double backward" in page.read_text()) == figures.exists()
        assert workflow.would_run() == Counter()
        figures.unlink(missing_ok=True)


def test_a_wrong_configuration_is_said_before_anything_runs(workflow: Workflow) -> None:
    workflow.configure(trainings__wgan_gp__stepz=5)
    done = workflow.snakemake("--dry-run")
    assert done.returncode != 0
    said = done.stdout + done.stderr
    assert "trainings.wgan_gp.stepz = 5: unknown key" in said
    assert "did you mean 'steps'?" in said
    assert "Traceback" not in said


def test_snakemake_s_own_report_holds_the_page(workflow: Workflow) -> None:
    done = workflow.snakemake("--report", "provenance.zip")
    assert done.returncode == 0, done.stderr
    # docutils leaves a broken link on the page, and goes on.
    assert "(WARNING/" not in done.stderr
    assert "(ERROR/" not in done.stderr
    with ZipFile(workflow.directory / "provenance.zip") as found:
        pages = [name for name in found.namelist() if name.endswith("index.html")]
        page = found.read("provenance/report.html").decode()
    assert len(pages) == 1
    assert "app.showCategory('Report')" in page


def test_the_makefile_s_calls_are_understood(workflow: Workflow) -> None:
    recipes = re.findall(r"\$\(BIN\)/snakemake(.*)", (ROOT / "Makefile").read_text())
    assert len(recipes) >= 2
    for arguments in recipes:
        done = workflow.snakemake(*arguments.split(), "--dry-run")
        assert done.returncode == 0, done.stdout + done.stderr
