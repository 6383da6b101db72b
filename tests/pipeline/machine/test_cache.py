"""Directories that are made once: whole or not at all, by one of many."""

import subprocess
import sys
from pathlib import Path

import pytest

from kantor.errors import InputError
from kantor.machine.cache import cached_directory, user_cache


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "kantor"


def fill(directory: Path) -> None:
    (directory / "a").write_text("1")


def test_it_is_made_once(cache: Path) -> None:
    def again(directory: Path) -> None:
        raise AssertionError

    made = cached_directory("tables", fill)
    assert made == cache / "tables"
    assert (made / "a").read_text() == "1"
    assert cached_directory("tables", again) == made


def test_a_failure_leaves_nothing(cache: Path) -> None:
    def half(directory: Path) -> None:
        fill(directory)
        raise RuntimeError("half")

    with pytest.raises(RuntimeError, match="half"):
        cached_directory("tables", half)
    assert [path.name for path in cache.iterdir()] == [".tables.lock"]
    assert (cached_directory("tables", fill) / "a").exists()


KILLED = """
import os, signal
from kantor.machine.cache import cached_directory
def half(directory):
    (directory / "a").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
cached_directory("tables", half)
"""


def test_what_a_killed_process_left_is_removed(cache: Path) -> None:
    assert subprocess.run([sys.executable, "-c", KILLED], check=False).returncode == -9
    assert not (cache / "tables").exists()
    assert len(list(cache.glob(".tables.partial-*"))) == 1
    assert (cached_directory("tables", fill) / "a").read_text() == "1"
    assert not list(cache.glob(".tables.partial-*"))


SLOW = """
import sys, time
from pathlib import Path
from kantor.machine.cache import cached_directory
def slow(directory):
    print("filled", flush=True)
    time.sleep(0.5)
    (directory / "a").write_text("1")
assert (cached_directory("tables", slow) / "a").read_text() == "1"
"""


def test_one_of_many_processes_fills_it() -> None:
    started = [subprocess.Popen([sys.executable, "-c", SLOW], stdout=subprocess.PIPE, text=True) for _ in range(3)]
    said = [process.communicate()[0] for process in started]
    assert [process.returncode for process in started] == [0, 0, 0]
    assert sorted(said) == ["", "", "filled\n"]


def test_without_locks_one_is_kept(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process finishes while this one fills."""

    def no_locks(descriptor: int, operation: int) -> None:
        raise OSError(38, "Function not implemented")

    def late(directory: Path) -> None:
        (cache / "tables").mkdir()
        (cache / "tables" / "a").write_text("the other's")
        fill(directory)

    monkeypatch.setattr("fcntl.flock", no_locks)
    assert (cached_directory("tables", late) / "a").read_text() == "the other's"
    assert not list(cache.glob(".tables.partial-*"))


def test_a_cache_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(InputError, match="cannot write"):
        cached_directory("tables", fill)
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/nowhere")
    assert user_cache() == Path("/nowhere/.cache")
