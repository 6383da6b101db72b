"""Snakemake reads a configuration just as `kantor config --check` does."""

import json
import re
from collections import Counter
from pathlib import Path

import pytest
import yaml

from kantor.cli import main

pytestmark = pytest.mark.slow

# What the text of a valid file becomes, each wrong for another rule.
WRONG = {
    "a key twice": ("title: quick", "title: quick\ntitle: slow"),
    "no YAML": ("title: quick", "title: [quick"),
    "an unknown key": ("title: quick", "titel: quick"),
    "pathvars": ("title: quick", "title: quick\npathvars: {results: elsewhere}"),
    "an unknown kind": ("kind: cramer", "kind: crammer"),
    "a value out of range": ("batch: 64", "batch: 63"),
    "a name that is not defined": ("dataset: other", "dataset: another"),
    "no target run": ("  run:", "  other:"),
    "parts that disagree": ("kind: cramer", "kind: sn_gan\n    critic_optimiser: {warm_up: 50}"),
}


def text_of(workflow) -> str:  # type: ignore[no-untyped-def]
    return (workflow.directory / "config" / "config.yaml").read_text()


@pytest.fixture(scope="module")
def workflow(new_workflow, tmp_path_factory: pytest.TempPathFactory):  # type: ignore[no-untyped-def]
    return new_workflow(tmp_path_factory.mktemp("workflow"))


@pytest.mark.parametrize("what", WRONG)
def test_the_same_is_refused_with_the_same_words(what, workflow, monkeypatch, capsys) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.chdir(workflow.directory)
    (old, new), text, path = WRONG[what], text_of(workflow), Path("config", "config.yaml")
    assert old in text
    path.write_text(text.replace(old, new, 1))
    try:
        assert main(["config", "--check", str(path)]) == 2
        done = workflow.snakemake("--dry-run")
    finally:
        path.write_text(text)
    assert done.returncode != 0
    assert capsys.readouterr().err.removeprefix("kantor config: ").strip() in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def test_a_configfile_is_read_alone(workflow, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    own = tmp_path / "own.yaml"
    minimal = {
        "datasets": {"dis": {"source": {"kind": "dis", "events": 2000}}},
        "trainings": {"wgan_gp": {"dataset": "dis", "objective": {"kind": "wgan_gp"}}},
        "targets": {"run": {"trainings": ["wgan_gp"]}},
    }
    own.write_text(yaml.safe_dump(minimal))
    done = workflow.snakemake("--dry-run", "--printshellcmds", "--configfile", str(own))
    assert done.returncode == 0, done.stdout + done.stderr
    (settings,) = re.findall(r"kantor train .*? --settings '(.*?)'", done.stdout)
    # The shipped file of this workflow has 20 steps and a batch of 64.
    assert (json.loads(settings)["steps"], json.loads(settings)["batch"]) == (4000, 512)
    two = workflow.snakemake("--dry-run", "--configfile", str(own), "config/config.yaml")
    assert two.returncode != 0
    assert "--configfile names several" in two.stdout + two.stderr


def test_keys_can_be_changed_on_the_command_line(workflow) -> None:  # type: ignore[no-untyped-def]
    change = ["--config", "trainings={wgan_gp: {steps: 21}}", "pathvars={results: elsewhere}"]
    done = workflow.snakemake("--dry-run", "--printshellcmds", *change)
    assert done.returncode == 0, done.stdout + done.stderr
    settings = [json.loads(found) for found in re.findall(r"kantor train .*? --settings '(.*?)'", done.stdout)]
    assert sorted((each["objective"]["kind"], each["steps"], each["batch"]) for each in settings) == [
        ("cramer", 20, 64),
        ("wgan_gp", 21, 64),
    ]
    assert "elsewhere/report/index.html" in done.stdout


def test_a_study_more_needs_no_code(workflow) -> None:  # type: ignore[no-untyped-def]
    workflow.configure(targets__my_study={"trainings": ["cramer"], "seeds": [4, 5]})
    try:
        assert workflow.would_run("report-my_study") == Counter(
            {"stage:other": 1, "train:cramer": 2, "validate:cramer": 2, "gather": 1}
        )
        assert workflow.snakemake("--dry-run", "report-nobodys").returncode != 0
    finally:
        workflow.configure()
