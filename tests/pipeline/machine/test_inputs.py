"""Paths as people write them."""

from pathlib import Path

import pytest

from kantor.errors import InputError
from kantor.machine.inputs import found, is_remote, refuse_twice


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("b.root", "a.root", "run[1].csv", "run1.csv", "$x.csv", "deep/c.root", "parts/day=2/1.parquet"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    for name in ("parts/0.parquet", "parts/_metadata", "parts/_temporary/9.pq", "parts/.hidden.parquet"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("DATA", str(tmp_path))
    monkeypatch.delenv("NOWHERE", raising=False)
    return tmp_path


@pytest.mark.parametrize(
    "path, files",
    [
        ("a.root", ["a.root"]),
        ("missing.root", ["missing.root"]),
        ("*.root", ["a.root", "b.root"]),
        ("**/*.root", ["a.root", "b.root", "deep/c.root"]),
        ("[ab].root", ["a.root", "b.root"]),
        ("run[1].csv", ["run[1].csv"]),
        ("run[12].csv", ["run1.csv"]),
        ("$x.csv", ["$x.csv"]),
        ("~/a.root", ["{}/a.root"]),
        ("$DATA/?.root", ["{}/a.root", "{}/b.root"]),
        ("${DATA}/a.root", ["{}/a.root"]),
        ("parts", ["parts/0.parquet", "parts/day=2/1.parquet"]),
        ("deep", ["deep"]),
        ("root://host//store/a.root", ["root://host//store/a.root"]),
    ],
)
def test_found(folder: Path, path: str, files: list[str]) -> None:
    assert found([path]) == [file.format(folder) for file in files]
    assert found(found([path])) == found([path])


@pytest.mark.parametrize(
    "path, what",
    [
        ("*.h5", "no file matches this pattern"),
        ("$NOWHERE/a.root", r"the variable \$NOWHERE has no value"),
        ("root://host//store/*.root", "not expanded in addresses"),
    ],
)
def test_not_found(folder: Path, path: str, what: str) -> None:
    with pytest.raises(InputError, match=what) as caught:
        found([path])
    assert caught.value.where == path
    assert caught.value.cure is not None


def test_one_file_by_two_names(folder: Path) -> None:
    Path("link.root").symlink_to("a.root")
    Path("hard.root").hardlink_to("a.root")
    refuse_twice(["a.root", "b.root", "missing.root", "missing.root"])
    for other in ("./a.root", str(folder / "a.root"), "deep/../a.root", "link.root", "hard.root"):
        with pytest.raises(InputError, match=r"is the same file as a\.root") as caught:
            refuse_twice(["b.root", "a.root", other])
        assert caught.value.where == other
    for twice in ("a.root", "root://host//a.root"):
        with pytest.raises(InputError, match="stands there twice"):
            refuse_twice([twice, twice])


def test_addresses() -> None:
    assert is_remote("root://host//a.root")
    assert is_remote("https://host/a.root")
    assert not is_remote("a:b.root")
    assert not is_remote(Path("root:/host"))
