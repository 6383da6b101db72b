"""Text tables as people and programs write them."""

from __future__ import annotations

import bz2
import gzip
import lzma
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pytest

from kantor.data.readers import csv
from kantor.errors import InputError

if TYPE_CHECKING:
    from conftest import ReadAll

FILES = Path(__file__).parents[1] / "files"


@pytest.mark.parametrize(
    "text",
    [
        "a,b\n1,2\n3,4\n",
        "# made by a program\n# run 7\na,b\n1,2\n3,4\n",
        "# run 7\n# a b\n1 2\n3 4\n",
        "# a, b\n1 2\n3 4\n",
        "# a b\n# GeV GeV\na,b\n1,2\n3,4\n",
        "a,b\n# half time\n1,2\n3,4\n",
        "a,b\n1,2\n#3,5\n3,4\n",
        "a,b,\n1,2,\n3,4,\n",
        "a,b\n1,2,\n3,4,\n",
        "a;b\n1;2\n3;4\n",
        "sep=;\na;b\n1;2\n3;4\n",
        "  a   b\n 1  2 \n\t3\t 4\n",
        "a , b\n 1 , 2\n 3 , 4\n",
        '"a","b"\n"1",1,2\n"2",3,4\n',
        '"a" "b"\n"1" 1 2\n"2" 3 4\n',
        "a b\n1 1 2\n2 3 4\n",
        '"","a","b"\n"1",1,2\n"2",3,4\n',
        'remark,a,b\n"two\nlines",1,2\n"a, ""b""",3,4\n',
        'remark,a,b\n"begins\n# here",1,2\nx,3,4\n',
        "a,b\r\n1,2\r\n3,4\r\n",
        "a,b\r1,2\r3,4\r",
        "a,b\n\n1,2\n   \n3,4",
        "a,b\n+1,2.0e+0\n0.3e+01,+4\n",
        "a,b\n0.1D+01,2d0\n3,4\n",
    ],
)
def test_the_same_rows(tmp_path: Path, read_all: ReadAll, text: str) -> None:
    path = tmp_path / "events.csv"
    path.write_bytes(text.encode())
    found = read_all(path, "a", "b")
    assert found["a"].tolist() == [1, 3]
    assert found["b"].tolist() == [2, 4]


def test_comments_before_rows_that_header_names(tmp_path: Path, read_all: ReadAll) -> None:
    path = tmp_path / "events.csv"
    path.write_text("# made by a program\n# run 7\n1,2\n3,4\n")
    with pytest.raises(InputError, match="name its columns by 'header'"):
        read_all(path, "a")
    assert read_all(path, "b", header=["a", "b"])["b"].tolist() == [2, 4]


def test_text_columns_below_a_comment_that_is_the_header(tmp_path: Path, read_all: ReadAll) -> None:
    path = tmp_path / "events.csv"
    path.write_text("# a,species\n1,muon\n2,pion\n")
    assert read_all(path, "a")["a"].tolist() == [1, 2]


@pytest.mark.parametrize("word", csv.MISSING)
def test_words_for_missing_values(tmp_path: Path, read_all: ReadAll, word: str) -> None:
    path = tmp_path / "events.csv"
    path.write_text(f"a,b\n1,{word}\n{word},4\n")
    found = read_all(path, "a", "b")
    assert np.array_equal(found["a"], [1, np.nan], equal_nan=True)
    assert np.array_equal(found["b"], [np.nan, 4], equal_nan=True)


def test_true_and_false(tmp_path: Path, read_all: ReadAll) -> None:
    path = tmp_path / "events.csv"
    path.write_text("a,b\nTrue,FALSE\nfalse,TRUE\n")
    assert read_all(path, "a")["a"].tolist() == [1, 0]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "latin-1", "utf-16", "utf-32"])
def test_encodings(tmp_path: Path, read_all: ReadAll, encoding: str) -> None:
    path = tmp_path / "events.csv"
    path.write_text("µ,remark\n1,é\n2,ü\n", encoding=encoding)
    assert read_all(path, "µ")["µ"].tolist() == [1, 2]


@pytest.mark.parametrize(
    "ending, pack",
    [
        (".gz", gzip.compress),
        (".bz2", bz2.compress),
        (".xz", lzma.compress),
        (".zst", lambda text: pa.compress(text, "zstd", asbytes=True)),
    ],
)
def test_packed(tmp_path: Path, read_all: ReadAll, ending: str, pack) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / f"events.csv{ending}"
    content = pack("".join(["a,b\n", *(f"{n},{n * n}\n" for n in range(1000))]).encode())
    path.write_bytes(content)
    assert read_all(path, "b", rows=300)["b"].tolist() == [n * n for n in range(1000)]
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match="truncated or damaged"):
        read_all(path, "b")


@pytest.mark.parametrize(
    "text, what, cure",
    [
        ("a;b\n1,5;2,5\n", "line 2: column 'a' holds '1,5'", "decimal points"),
        ("a\n1,5\n2,5\n", "line 2: column 'a' holds '1,5'", "decimal points"),
        ("a,b\n1,2\nx,4\n5,6\n", "line 3: column 'a' holds 'x', which is no number", "mend the line"),
        ('r,a,b\n"two\nlines",1,2\ny,x,4\n', "line 4: column 'a' holds 'x'", "mend the line"),
        ("a,b\n1,2\n# c\n\n3\n5,6\n", "line 5 has 1 fields instead of 2", "mend the line"),
        ("a,b\n1,2\n3", "line 3 has 1 fields instead of 2", "truncated"),
        ("a,b\n1,2,3\n2,3,4\n", "line 2 has 3 fields instead of 2", "mend the line"),
        ("a,b\n1_0,2\n", "'1_0', which is no number", "mend the line"),
        ("b,c\n1,2\n", "no column 'a'; the columns are: b, c", "'header'"),
        ("a,b\n1,\x002\n", "line 2 holds a zero byte", "text file"),
        ("", "is empty", "copied whole"),
        ("\n\n", "is empty", "copied whole"),
    ],
)
def test_what_is_wrong(tmp_path: Path, read_all: ReadAll, text: str, what: str, cure: str) -> None:
    path = tmp_path / "events.csv"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        read_all(path, "a")
    assert what in str(caught.value)
    assert cure in (caught.value.cure or "")


def test_an_open_quote(tmp_path: Path, read_all: ReadAll, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv, "_BLOCK", 64)
    monkeypatch.setattr(csv, "_LONGEST", 1000)
    path = tmp_path / "events.csv"
    path.write_text('a,b\n1,2\n3,"4\n' + "5,6\n" * 1000)
    with pytest.raises(InputError, match="row that begins in line 3 is longer"):
        read_all(path, "a")


def test_blocks_do_not_matter(tmp_path: Path, read_all: ReadAll, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(5)
    values = rng.normal(size=(500, 2))
    remarks = ["plain", '"two\nlines"', '"a ""quote"""', '""', '"x,\n\n# y"']
    rows = [
        f"{a!r},{remarks[n % 5]},{b!r}\n" + "# comment's \"\n" * (n % 7 == 0)
        for n, (a, b) in enumerate(values.tolist())
    ]
    path = tmp_path / "events.csv"
    path.write_text("a,remark,b\n" + "".join(rows))
    for size in (60, 333, 1 << 20):
        monkeypatch.setattr(csv, "_BLOCK", size)
        found = read_all(path, "b", "a", rows=64)
        assert np.array_equal(np.stack([found["a"], found["b"]], axis=1), values)


def test_fast_and_careful_agree(tmp_path: Path, read_all: ReadAll, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(6)
    numbers = rng.normal(size=300) * 10.0 ** rng.integers(-300, 300, size=300)
    path = tmp_path / "events.csv"
    path.write_text("a\n" + "".join(f"{number!r}\n" for number in numbers.tolist()) + "inf\n-Infinity\n1e400\n5e-324\n")
    fast = read_all(path, "a")["a"]
    monkeypatch.setattr(csv, "_fast", lambda *_: None)
    assert np.array_equal(read_all(path, "a")["a"], fast)
    assert np.array_equal(fast[:300], numbers)


def test_geant4(read_all: ReadAll) -> None:
    found = read_all(FILES / "geant4_nt_hits.csv", "layer", "energy")
    assert found["layer"].tolist() == [n % 3 for n in range(50)]
    assert found["energy"] == pytest.approx(np.arange(50) ** 2 / 7, rel=1e-5)
