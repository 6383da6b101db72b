"""Files are whole or not there."""

import errno
from pathlib import Path

import pytest

from kantor.errors import InputError
from kantor.machine.files import explained, sha256, whole, write_text


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "result.txt"
    write_text(path, "old")

    def write_half() -> None:
        with whole(path) as temporary:
            temporary.write_text("half")
            raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        write_half()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS])
def test_the_system_s_refusals_are_explained(code: int, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot write.*\n  cure: "), explained(tmp_path):
        raise OSError(code, "refused")


def test_other_failures_are_not_input_errors(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="broken"), explained(tmp_path):
        raise OSError(errno.EIO, "broken")


def test_sha256(tmp_path: Path) -> None:
    path = tmp_path / "a"
    write_text(path, "abc")
    assert sha256(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
