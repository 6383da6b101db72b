"""A test that another process is to run, and does not, is a failure here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

Elsewhere = Callable[..., None]
FILE = """import pytest

def test_there(): pass

@pytest.mark.parametrize("n", ["first", "second"])
def test_more(n): pass
"""


@pytest.mark.parametrize(
    "names, more, message",
    [
        (["test_there", "test_more"], "", ""),
        (["test_there", "test_renamed"], "", "test_renamed"),
        (["test_there", "test_late"], "\ndef test_late(): pytest.skip('not here')\n", "skipped where they were to run"),
        (["test_there", "test_wrong"], "\ndef test_wrong(): assert False\n", "test_wrong"),
    ],
    ids=["all there", "renamed", "skipped", "failed"],
)
def test_what_is_asked_for_has_run(
    names: list[str], more: str, message: str, elsewhere: Elsewhere, tmp_path: Path
) -> None:
    file = tmp_path / "test_some.py"
    file.write_text(FILE + more)
    if not message:
        elsewhere({file: names})
        return
    with pytest.raises(AssertionError, match=message):
        elsewhere({file: names})


def test_what_is_left_out_altogether_is_missed(elsewhere: Elsewhere, tmp_path: Path) -> None:
    file = tmp_path / "test_some.py"
    file.write_text(FILE)
    elsewhere({file: ["test_there", "test_more"]}, "-k", "not second")
    with pytest.raises(AssertionError, match="not at all"):
        elsewhere({file: ["test_there", "test_more"]}, "-k", "not more")
