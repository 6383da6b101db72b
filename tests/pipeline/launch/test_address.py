"""Which Ray a training uses, and what is said before Ray is asked."""

import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kantor.config import Training
from kantor.errors import InputError
from kantor.launch.address import MARK, ray_address
from kantor.machine.addresses import free_ports


def test_a_ray_of_its_own_is_the_default() -> None:
    assert ray_address(None, {}) == "local"
    assert ray_address(None, {"RAY_ADDRESS": "local", "SLURM_JOB_ID": "7"}) == "local"


def test_the_launcher_s_ray_is_used_inside_of_its_job() -> None:
    here = {"RAY_ADDRESS": "10.0.0.1:6379", MARK: "10.0.0.1:6379", "SLURM_JOB_ID": "7"}
    assert ray_address(None, here) == "10.0.0.1:6379"


def test_another_s_ray_is_not_used_in_a_job_unless_it_is_asked_for() -> None:
    inherited = {"RAY_ADDRESS": "10.0.0.1:6379", "SLURM_JOB_ID": "7"}
    with pytest.raises(InputError, match="that this job has not started") as caught:
        ray_address(None, inherited)
    assert caught.value.cure == "unset RAY_ADDRESS; or, if it is meant: --ray-address 10.0.0.1:6379"
    with pytest.raises(InputError, match="that this job has not started"):
        ray_address(None, inherited | {MARK: "10.0.0.2:6379"})


@pytest.mark.parametrize("address", ["http://127.0.0.1:8265", "ray://127.0.0.1:10001", "nowhere", ":6379", "host:"])
def test_what_is_no_address_is_said(address: str) -> None:
    with pytest.raises(InputError, match="is no address of a Ray, which has the form host:port") as caught:
        ray_address(None, {"RAY_ADDRESS": address})
    assert caught.value.where == f"RAY_ADDRESS = {address}"
    assert caught.value.cure is not None
    assert caught.value.cure.startswith("unset RAY_ADDRESS")


def test_a_dead_address_is_said_at_once() -> None:
    (port,) = free_ports("127.0.0.1", 1)
    began = time.monotonic()
    with pytest.raises(InputError, match="no Ray answers there"):
        ray_address(f"127.0.0.1:{port}", {})
    with pytest.raises(InputError, match="no Ray answers there"):
        ray_address(None, {"RAY_ADDRESS": f"127.0.0.1:{port}"})
    assert time.monotonic() - began < 5


@pytest.mark.slow
def test_what_listens_but_is_no_ray_is_said_in_time() -> None:
    began = time.monotonic()
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        pytest.raises(InputError, match="cannot be used from here"),
    ):
        ray_address(f"127.0.0.1:{server.getsockname()[1]}", {})
    assert time.monotonic() - began < 35


@pytest.mark.slow
def test_a_long_temporary_directory_is_said_in_doctor_s_words(
    small_training: Training, weighted_manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = tmp_path / ("a_long_name_" * 7)
    long.mkdir()
    monkeypatch.setenv("TMPDIR", str(long))
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    command = [sys.executable, "-m", "kantor.cli", "train", "--training", "t", "--settings", small_training.canonical()]
    done = subprocess.run(
        [*command, "--manifest", str(weighted_manifest), "--out", str(tmp_path / "out"), "--workers", "2"],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 2, done.stderr
    assert "is too long: Ray's sockets would have" in done.stderr
    assert "cure: export RAY_TMPDIR=/tmp" in done.stderr
    assert "Traceback" not in done.stderr
