"""What is compiled is kept until one of its sources changes, and compiled by one thread at a time."""

from __future__ import annotations

import importlib.util
import re
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from numba.core import config
from numba.core.caching import CompileResultCacheImpl

import kantor_kernels
from kantor_kernels import compiling

PACKAGE = Path(kantor_kernels.__file__).parent


def loaded(path: Path) -> Any:
    """The module in this file, as a new process would see it."""
    spec = importlib.util.spec_from_file_location("doubling", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_what_is_compiled_is_kept_until_a_source_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "doubling.py"
    file.write_text("from kantor_kernels.compiling import jit\n\n@jit()\ndef double(x):\n    return 2 * x\n")

    def from_disk() -> bool:
        double = loaded(file).double
        assert double(2) == 4
        return bool(double.stats.cache_hits)

    assert not from_disk()
    assert from_disk()
    # As if a file had been edited whose code `double` contains.
    monkeypatch.setattr(compiling, "_state_of_sources", lambda: "another")
    assert not from_disk()
    assert from_disk()


def test_every_file_that_gives_compiled_code_is_a_source() -> None:
    sources = {path for pattern in compiling.SOURCES for path in PACKAGE.glob(pattern)}
    compiles = re.compile(r"^(?:import|from) (?:numba|llvmlite|kantor_kernels\.compiling)\b", re.MULTILINE)
    assert sources >= {path for path in PACKAGE.rglob("*.py") if compiles.search(path.read_text())}


def test_two_threads_do_not_compile_at_once() -> None:
    """Numba reports KeyError now and then."""
    inside, most = 0, 0

    class Slow:
        def _compile_for_args(self, *args: Any) -> None:
            nonlocal inside, most
            inside += 1
            most = max(most, inside)
            time.sleep(0.01)
            inside -= 1

    functions = [compiling._one_at_a_time(Slow()) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda function: function._compile_for_args(1), functions))
    assert most == 1


def test_numba_asks_for_compilation_where_it_is_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entered: list[bool] = []
    lock = compiling._compiling

    class Seen:
        def __enter__(self) -> None:
            entered.append(True)
            lock.acquire()

        def __exit__(self, *_: object) -> None:
            lock.release()

    monkeypatch.setattr(compiling, "_compiling", Seen())
    monkeypatch.setattr("numba.core.config.CACHE_DIR", str(tmp_path))
    double = compiling.jit()(lambda x: 2 * x)
    assert (double(2), double(2), double(1.5)) == (4, 4, 3.0)
    assert len(entered) == 2  # once for each type


def test_without_a_place_of_its_own_it_is_kept_among_temporary_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a node where neither the package nor the home directory can be written."""
    told = [each for each in CompileResultCacheImpl._locator_classes if "UserProvided" in each.__name__]
    assert told
    monkeypatch.setattr(CompileResultCacheImpl, "_locator_classes", told)
    monkeypatch.setattr(config, "CACHE_DIR", "")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    file = tmp_path / "doubling.py"
    file.write_text("from kantor_kernels.compiling import jit\n\n@jit()\ndef double(x):\n    return 2 * x\n")
    hits = []
    for _ in range(2):
        double = loaded(file).double
        assert double(2) == 4
        hits.append(sum(double.stats.cache_hits.values()))
    assert hits == [0, 1]
    (place,) = tmp_path.glob("kantor-kernels-*")
    assert place.stat().st_mode & 0o777 == 0o700

    # What others could have written is not run.
    place.chmod(0o777)
    monkeypatch.setattr(config, "CACHE_DIR", "")
    double = loaded(file).double
    assert double(2) == 4
    assert not double.stats.cache_hits
