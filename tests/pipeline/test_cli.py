"""The command line: every stage by hand, exit codes, and what a user is told."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from kantor.cli import main
from kantor.fingerprint import STAGES, _reached, fingerprint

ROOT = Path(__file__).parents[2]
MPIEXEC = Path(sys.executable).with_name("mpiexec")
SMALL = {"source": {"kind": "dis", "events": 500, "block": 250}, "shard_rows": 250}


def kantor(*arguments: str, launcher: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    command = [*launcher, sys.executable, "-m", "kantor.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def test_help_names_every_command() -> None:
    done = kantor("--help")
    assert done.returncode == 0
    for command in ("stage", "train", "validate", "report", "summary", "doctor", "config", "fingerprint"):
        assert command in done.stdout


def test_wrong_usage_ends_with_2() -> None:
    assert kantor("stage").returncode == 2
    assert kantor("fly").returncode == 2


def test_a_stage_by_hand(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "logs" / "stage.log"
    arguments = ["--settings", json.dumps(SMALL), "--dataset", "dis", "--out", str(tmp_path / "dis"), "--log", str(log)]
    assert main(["stage", *arguments, "--processes", "1"]) == 0
    assert (tmp_path / "dis" / "manifest.json").exists()
    assert "500 rows" in capsys.readouterr().err
    assert "500 rows" in log.read_text()


def test_the_dataset_is_looked_up_in_the_configuration(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = str(ROOT / "config" / "config.yaml")
    assert main(["stage", "--config", config, "--dataset", "dsi", "--out", str(tmp_path)]) == 2
    assert "there is no 'dsi' in 'datasets'\n  cure: choose: dis" in capsys.readouterr().err


def test_a_reader_who_has_seen_enough_is_no_failure() -> None:
    command = (
        f"{sys.executable} -m kantor.cli config --schema | head -c 10; status=${{PIPESTATUS[0]}}; echo; echo $status"
    )
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False, timeout=120)
    assert done.stdout[:1] == "{"
    # 0 where all of it fitted into the pipe.
    assert done.stdout.splitlines()[-1] in {"0", "141"}
    assert done.stderr == ""


def test_full_disks_are_said_without_a_traceback(tmp_path: Path) -> None:
    arguments = [sys.executable, "-m", "kantor.cli", "config", "--reference"]
    with open("/dev/full", "w") as full:  # noqa: PTH123 - a device
        done = subprocess.run(arguments, stdout=full, stderr=subprocess.PIPE, text=True, check=False, timeout=120)
    assert done.returncode == 2
    assert "standard output: cannot write: No space left on device" in done.stderr
    assert "Traceback" not in done.stderr
    stage = ["stage", "--settings", json.dumps(SMALL), "--dataset", "dis", "--out", str(tmp_path), "--processes", "1"]
    done = kantor(*stage, "--log", "/dev/full")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("/dev/full: the log is not complete") == 1
    assert "Traceback" not in done.stderr


def test_a_terminal_without_greek_shows_something(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    done = kantor("config", "--reference")
    assert done.returncode == 0, done.stderr
    assert "integer ? 10" in done.stdout


def test_a_directory_that_cannot_be_made_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    arguments = ["--settings", json.dumps(SMALL), "--dataset", "dis", "--out", str(tmp_path / "file" / "dis")]
    assert main(["stage", *arguments]) == 2
    assert "cannot write" in capsys.readouterr().err


def test_two_ranks_are_one_world(tmp_path: Path) -> None:
    arguments = ("--settings", json.dumps(SMALL), "--dataset", "dis", "--out", str(tmp_path), "--processes", "1")
    done = kantor("stage", *arguments, "--expect-ranks", "2", launcher=(str(MPIEXEC), "-n", "2"))
    assert done.returncode == 0, done.stderr
    assert "2 MPI ranks" in done.stderr


def test_a_world_of_the_wrong_size_is_refused(tmp_path: Path) -> None:
    arguments = ("--settings", json.dumps(SMALL), "--dataset", "dis", "--out", str(tmp_path), "--expect-ranks", "2")
    done = kantor("stage", *arguments)
    assert done.returncode == 2
    assert "one rank (no MPI launcher)" in done.stderr
    assert "the MPI world has 1 rank(s), not the expected 2" in done.stderr
    assert not list(tmp_path.iterdir())


def test_config_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "--check", str(ROOT / "config" / "config.yaml")]) == 0
    (tmp_path / "wrong.yaml").write_text("titel: x\n")
    assert main(["config", "--check", str(tmp_path / "wrong.yaml")]) == 2
    captured = capsys.readouterr()
    assert "valid" in captured.out
    assert "did you mean 'title'?" in captured.err


def test_config_schema_is_a_schema(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "--schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    assert schema["$schema"].startswith("https://json-schema.org/")
    assert schema["additionalProperties"] is False


def test_fingerprints(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fingerprint"]) == 0
    assert json.loads(capsys.readouterr().out) == {stage: fingerprint(stage) for stage in STAGES}
    assert len({fingerprint(stage) for stage in STAGES}) == len(STAGES)


def test_backends_loaded_by_name_count() -> None:
    reached = _reached(STAGES["train"])
    assert {"kantor_kernels.pairwise.cpu", "kantor_kernels.pairwise.triton", "kantor.losses.cramer"} <= reached
    assert not {name for name in reached if "benchmark" in name or name.startswith("kantor.report")}
