"""Tests that need a process of their own, and the certainty that it ran them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from xml.etree import ElementTree

import pytest


class Elsewhere:
    """Runs tests in another process."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, tests: Mapping[Path, Collection[str]], *options: str, **environment: str) -> None:
        """Pass these tests, all of them and no others, by file and name; a name that is not there is a failure.

        Args:
            options: of pytest; they may leave out some of a test's parameters, never all of them.
            environment: what the process finds there beside this one's.
        """
        report = self.folder / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}", *options]
        command += [f"{file}::{name}" for file, names in tests.items() for name in names]
        done = subprocess.run(
            command,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            cwd=Path(__file__).parents[2],
            check=False,
        )
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
        cases = ElementTree.parse(report).findall(".//testcase")
        skipped = [case.get("name") for case in cases if case.find("skipped") is not None]
        assert not skipped, f"skipped where they were to run: {skipped}"
        ran = {
            (str(case.get("classname")).rpartition(".")[2], str(case.get("name")).partition("[")[0]) for case in cases
        }
        wanted = {(file.stem, name) for file, names in tests.items() for name in names}
        assert ran == wanted, f"ran without being asked, or not at all: {ran ^ wanted}"


@pytest.fixture
def elsewhere(tmp_path: Path) -> Elsewhere:
    return Elsewhere(tmp_path)
