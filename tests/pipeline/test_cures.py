"""What an error tells the user to do works: each test fails, does what was said, and goes on."""

import re
from pathlib import Path

import numpy as np
import pytest
import yaml

from kantor.cli import main
from kantor.config import Dataset, Training
from kantor.data.staging import stage
from kantor.errors import ConfigError, InputError
from kantor.machine.ranks import Ranks
from kantor.training.assembly import assemble
from kantor.training.job import Job
from kantor.training.worker import work

ROWS = 1000
RNG = np.random.default_rng(4)
COLUMNS = {"px": RNG.normal(size=ROWS), "energy": RNG.exponential(size=ROWS), "one": np.ones(ROWS)}


class User:
    """Somebody with events in a file, one configuration, and the last error."""

    def __init__(self, directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.directory, self.capsys = directory, capsys
        self.config = {
            "datasets": {"d": {"source": {"kind": "file", "paths": ["events.npz"], "features": ["px", "energy"]}}},
            "trainings": {"t": {"dataset": "d", "objective": {"kind": "wgan_gp"}, "steps": 2, "batch": 32}},
            "targets": {"run": {"trainings": ["t"]}},
        }
        np.savez(directory / "events.npz", **COLUMNS)
        self.write()

    def write(self) -> None:
        (self.directory / "config.yaml").write_text(yaml.safe_dump(self.config))

    def kantor(self, *command: str) -> str:
        """What it says, an empty string where it works."""
        status = main([*command, "--config", "config.yaml"] if command[0] in ("stage", "config") else command)
        said = self.capsys.readouterr().err
        assert status in (0, 2), said
        assert "Traceback" not in said
        return said if status else ""

    def stage(self) -> str:
        return self.kantor("stage", "--dataset", "d", "--out", "staged")


@pytest.fixture
def user(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> User:
    monkeypatch.chdir(tmp_path)
    return User(tmp_path, capsys)


# Of the dataset: what is wrong, what the error and its cure say, and what the user then writes.
@pytest.mark.parametrize(
    ("wrong", "said", "right"),
    [
        pytest.param({"fetures": ["px"]}, "did you mean 'features'?", {"features": ["px", "energy"]}, id="unknown key"),
        pytest.param(
            {"features": ["px", "enrgy"]}, "did you mean energy?", {"features": ["px", "energy"]}, id="column"
        ),
        pytest.param({"paths": ["event.npz"]}, "check 'paths'", {"paths": ["events.npz"]}, id="path"),
        pytest.param({"paths": ["*.npy"]}, "check 'paths'", {"paths": ["*.npz"]}, id="pattern"),
        pytest.param({"paths": ["$NOT_SET/a.npz"]}, "write the path out", {"paths": ["events.npz"]}, id="variable"),
        pytest.param({"paths": ["events.npz"] * 2}, "list every file once", {"paths": ["events.npz"]}, id="twice"),
    ],
)
def test_of_a_source(user: User, wrong: dict[str, object], said: str, right: dict[str, object]) -> None:
    source = user.config["datasets"]["d"]["source"]
    before = dict(source)
    source |= wrong
    user.write()
    assert said in user.stage()
    user.config["datasets"]["d"]["source"] = before | right
    user.write()
    assert user.stage() == ""


@pytest.mark.parametrize(
    ("wrong", "said", "right"),
    [
        pytest.param({"cuts": ["px"]}, "write a comparison", {"cuts": ["px > 0"]}, id="no condition"),
        pytest.param({"cuts": ["px >"]}, "write it as in Python", {"cuts": ["px > 0"]}, id="no expression"),
        pytest.param(
            {"cuts": ["pt2 > 0.1"]}, "unknown column 'pt2'", {"quantities": {"pt2": "px**2"}}, id="column of a cut"
        ),
        pytest.param(
            {"cuts": ["px > 0"], "failing_rows": "error"},
            "or set failing_rows: drop",
            {"failing_rows": "drop"},
            id="broken cut",
        ),
        pytest.param({"cuts": ["px > 100"]}, "loosen 'cuts'", {"cuts": ["px > -1"]}, id="nothing left"),
        pytest.param(
            {"split": {"train": 0.989, "validation": 0.001, "test": 0.01}},
            "raise split.validation",
            {"split": {"train": 0.9, "validation": 0.05, "test": 0.05}},
            id="small split",
        ),
    ],
)
def test_of_a_dataset(user: User, wrong: dict[str, object], said: str, right: dict[str, object]) -> None:
    for change in (wrong, right):
        user.config["datasets"]["d"] |= change
        user.write()
        found = user.stage()
        assert (said in found) if change is wrong else (found == "")


def test_of_rows_that_are_not_finite(user: User) -> None:
    np.savez(
        "events.npz",
        allow_pickle=False,
        **(COLUMNS | {"px": np.where(np.arange(ROWS) % 10 == 0, np.nan, COLUMNS["px"])}),
    )
    assert "set invalid_rows: drop" in user.stage()
    user.config["datasets"]["d"]["invalid_rows"] = "drop"
    user.write()
    assert user.stage() == ""


def test_of_a_dataset_in_the_place_of_its_own_input(user: User) -> None:
    assert user.stage() == ""
    user.config["datasets"]["d"]["source"]["paths"] = ["staged/shard-0000.h5"]
    user.write()
    assert "stage into another directory" in user.stage()
    assert user.kantor("stage", "--dataset", "d", "--out", "other") == ""


@pytest.mark.parametrize(
    ("wrong", "said", "right"),
    [
        pytest.param({"batch": 2000}, "lower 'batch'", {"batch": 200}, id="batch"),
        pytest.param(
            {"transforms": {"engy": [{"kind": "log"}]}}, "px, energy", {"transforms": {"energy": [{"kind": "log"}]}},
            id="unknown column",
        ),
        pytest.param(
            {"transforms": {"px": [{"kind": "log"}]}}, "raise 'offset'",
            {"transforms": {"px": [{"kind": "log", "offset": 10.0}]}}, id="logarithm",
        ),
        pytest.param(
            {"transforms": {"px": [{"kind": "log_distance", "edge": 0.0}]}}, "move 'edge'",
            {"transforms": {"px": [{"kind": "log_distance", "edge": 10.0}]}}, id="edge",
        ),
        pytest.param(
            {"critic_features": {"ratio": "px / mass"}}, "px", {"critic_features": {"ratio": "px / energy"}},
            id="unknown name",
        ),
        pytest.param(
            {"critic_features": {"root": "sqrt(px)"}}, "change the expression",
            {"critic_features": {"root": "sqrt(px ** 2)"}}, id="not finite",
        ),
        pytest.param({"autocast": "bfloat16"}, "set autocast to none", {"autocast": "none"}, id="no device"),
    ],
)  # fmt: skip
def test_of_a_training(user: User, wrong: dict[str, object], said: str, right: dict[str, object]) -> None:
    assert user.stage() == ""
    for number, change in enumerate((wrong, right)):
        settings = Training.model_validate(user.config["trainings"]["t"] | change)
        job = Job("t", 1, settings, user.directory / "staged" / "manifest.json", user.directory / str(number), "code")
        if change is wrong:
            with pytest.raises((InputError, ConfigError)) as error:
                work(job)
            assert said in str(error.value.cure)
        else:
            work(job)
            assert (job.out / "model.pt").exists()


@pytest.fixture
def finished(user: User) -> User:
    """A model that has learned nothing, validated and reported."""
    events = Dataset.model_validate(user.config["datasets"]["d"])
    stage("d", events, user.directory / "staged", Ranks(), 1)
    training = Training.model_validate(user.config["trainings"]["t"])
    bundle = assemble(training, 1, user.directory / "staged" / "manifest.json").bundle("t", {})
    bundle.save(user.directory / "model.pt")
    user.config["validation"] = {"rows": 100, "splits": 5, "replicas": 20}
    user.write()
    return user


VALIDATE = ("validate", "--config", "config.yaml", "--model", "model.pt", "--manifest", "staged/manifest.json")


@pytest.mark.parametrize("name", ["model.pt", "staged/manifest.json", "staged/shard-0000.h5"])
@pytest.mark.parametrize("damage", ["missing", "truncated", "noise", "directory"])
def test_of_what_a_stage_before_has_written(finished: User, name: str, damage: str) -> None:
    """Each error names the file; to make it again is the cure, once it is out of the way."""
    path = finished.directory / name
    whole = path.read_bytes()
    path.unlink()
    if damage == "truncated":
        path.write_bytes(whole[: len(whole) // 2])
    if damage == "noise":
        path.write_bytes(RNG.bytes(len(whole)))
    if damage == "directory":
        path.mkdir()
    said = finished.kantor(*VALIDATE, "--out", "validated")
    assert re.search(rf"{name}: .*\n  cure: ", said), said
    assert damage not in ("truncated", "noise") or "cure: remove " in said
    assert not (finished.directory / "validated" / "metrics.json").exists()
    if path.is_dir():
        path.rmdir()
    path.write_bytes(whole)
    assert finished.kantor(*VALIDATE, "--out", "validated") == ""
