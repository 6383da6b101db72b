"""CSV and other text with one row per line: fields between commas, semicolons, tabs or blanks.

Arrow parses blocks of rows; a block that it refuses is read again field by field, which also finds the line that is
wrong. Before the rows there may be comments (#), of which the last one may be the header, and what spreadsheets (sep=;)
and Geant4 (#column) write there. Byte-order marks tell UTF-8 and UTF-16; other text is taken for Latin-1.
"""

import bz2
import codecs
import csv
import gzip
import lzma
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from kantor.data.readers.base import DAMAGED, File, Format, Request, Table, places, regrouped
from kantor.errors import InputError
from kantor.machine.packages import optional

# Words of programs for a value that is missing; NaN itself is a number here.
MISSING = (
    *("", "NA", "N/A", "n/a", "na", "<NA>", "#N/A", "#NA", "null", "NULL", "Null", "None", "none", "-", "--", "?"),
    *("nan", "NaN", "NAN", "-nan", "-NaN", "-nan(ind)", "nan(ind)", "NaT", "#NUM!", "#DIV/0!", "#VALUE!"),
)
_WORDS = {"true": 1.0, "false": 0.0}
_BLOCK = 1 << 20  # bytes that are parsed at a time
_LONGEST = 64 << 20  # bytes of a row, beyond which this is no text table
_SHOWN = 40  # characters of a field in an error
_SAMPLE = 100  # rows that tell separators from decoration
# A line that begins with a spreadsheet's #N/A is a row.
_COMMENT = re.compile(rb"(?m)^[ \t]*#(?!N/?A\b|NUM!|DIV/0!|VALUE!)[^\n]*(?:\n|\Z)")
_FORTRAN = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+))[dD]([+-]?\d+)")
_DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+([eE][+-]?\d+)?")
_UNPACKED: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


@dataclass(frozen=True)
class Record:
    """A row as it stands in the file, which is several lines where a line break is quoted."""

    line: int
    end: int  # where in its block the next one begins
    text: str

    @property
    def comment(self) -> bool:
        return _COMMENT.match(self.text.encode("utf-8", "replace")) is not None


@dataclass(frozen=True)
class Layout:
    """How the rows are written: their separator (None: blanks), and the names of all fields."""

    separator: str | None
    names: Sequence[str]


def _read(file: File, request: Request) -> Iterator[Table]:
    optional("pyarrow.csv", "parquet", "reading CSV")
    with _opened(Path(file)) as stream:
        yield from regrouped(_tables(file, request, stream), request.rows)


def _tables(file: File, request: Request, stream: IO[bytes]) -> Iterator[Table]:
    layout, found = None, {}
    for line, block in _blocks(file, stream):
        lines = block.count(b"\n")
        if layout is None:
            layout, rest = _layout(file, block, request)
            found = _columns(file, layout, request)
            line += lines - block.count(b"\n", rest)
            block = block[rest:]
        table = _fast(block, layout, found)
        yield table if table is not None else _careful(file, block, line, layout, found)
    if layout is None:
        raise InputError("the file is empty", where=file, cure="check that it was copied whole")


def _columns(file: File, layout: Layout, request: Request) -> dict[str, int]:
    """Which field each wanted column is."""
    cure = None if request.header is not None else "if the file has no header line, name its columns by 'header'"
    found = {}
    known = {name: field for field, name in enumerate(layout.names)}
    for column, (field, index) in places(file, request.columns, known, cure).items():
        if index:
            raise InputError(f"there is no column '{column}'", where=file, cure="a field of CSV holds one number")
        if list(layout.names).count(column) > 1:
            raise InputError(f"the column '{column}' is there twice", where=file, cure="give each its own name")
        found[column] = field
    return found


# -------------------------------------------------------------------------------------------------- bytes and blocks


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    """The file's content, unpacked."""
    if path.suffix.lower() == ".zst":
        stream = optional("pyarrow", "parquet", "reading .zst").input_stream(str(path), compression="zstd")
    else:
        stream = _UNPACKED.get(path.suffix.lower(), open)(path, "rb")
    with stream:
        yield stream


def _blocks(file: File, stream: IO[bytes]) -> Iterator[tuple[int, bytes]]:
    """Whole rows in UTF-8 or another encoding that contains ASCII, with the number of their first line."""
    line, rest, decoder, first, old_mac = 1, b"", None, True, False
    while True:
        read = stream.read(_BLOCK)
        if first:
            mark, encoding = next((known for known in _MARKS if read.startswith(known[0])), (b"", ""))
            read = read[len(mark) :]
            decoder = codecs.getincrementaldecoder(encoding)() if encoding.startswith(("utf-16", "utf-32")) else None
            old_mac = b"\r" in read and b"\n" not in read and decoder is None
            first = False
        final = not read
        if decoder is not None:
            read = decoder.decode(read, final).encode()
        if b"\0" in read:
            where = line + rest.count(b"\n") + read.count(b"\n", 0, read.index(0))
            raise InputError(
                f"cannot be read as CSV: line {where:,} holds a zero byte, as no text does",
                where=file,
                cure="check that this is a text file; save UTF-16 without its mark as UTF-8",
            )
        rest += read.replace(b"\r", b"\n") if old_mac else read
        cut = len(rest) if final else _end_of_rows(rest)
        if cut:
            yield line, rest[:cut]
            line += rest.count(b"\n", 0, cut)
            rest = rest[cut:]
        elif len(rest) > _LONGEST:
            raise InputError(
                f"the row that begins in line {line:,} is longer than {_LONGEST >> 20} MB",
                where=file,
                cure='close the quote (") that is left open in it, or check that this is a text table',
            )
        if final:
            return


def _end_of_rows(text: bytes) -> int:
    """Where the last whole row ends: at a line break that is not quoted."""
    cut = text.rfind(b"\n") + 1
    if b'"' not in text:
        return cut
    if _COMMENT.search(text):
        # Quotes in comments open nothing, and a quoted line may look like a comment.
        return next((begin for begin, _, whole in _spans(text) if not whole), cut)
    quotes = text.count(b'"', 0, cut)
    while cut and quotes % 2:
        earlier = text.rfind(b"\n", 0, cut - 1) + 1
        quotes -= text.count(b'"', earlier, cut)
        cut = earlier
    return cut


def _records(block: bytes, line: int = 1) -> Iterator[Record]:
    """The rows and comments of a block; empty lines are left out."""
    for begin, end, _ in _spans(block):
        text = _decoded(block[begin:end]).rstrip("\r\n")
        if text.strip():
            yield Record(line, end, text)
        line += block.count(b"\n", begin, end)


def _spans(block: bytes) -> Iterator[tuple[int, int, bool]]:
    """Where rows and comments begin and end, and whether they are whole."""
    begin = 0
    while begin < len(block):
        end = block.find(b"\n", begin) + 1
        quotes = 0 if _COMMENT.match(block, begin) else block.count(b'"', begin, end or len(block))
        while end and quotes % 2:
            last, end = end, block.find(b"\n", end) + 1
            quotes += block.count(b'"', last, end or len(block))
        yield begin, end or len(block), end > 0
        begin = end or len(block)


def _decoded(text: bytes) -> str:
    try:
        return text.decode()
    except UnicodeDecodeError:
        return text.decode("latin-1")


# -------------------------------------------------------------------------------------------------- header and fields


def _fields(text: str, separator: str | None) -> list[str]:
    if separator is None:
        text, separator = text.replace("\t", " ").strip(), " "
    rows = list(csv.reader([text], delimiter=separator, skipinitialspace=True, strict=False))
    return [field.strip() for field in rows[0]] if rows else []


def _layout(file: File, block: bytes, request: Request) -> tuple[Layout, int]:
    """How the rows are written, and where in the first block they begin."""
    comments: list[Record] = []
    rows: list[Record] = []
    end = 0  # of what precedes the first row
    separator = None
    for record in _records(block):
        if not rows and record.comment:
            comments.append(record)
        elif not rows and re.fullmatch(r"sep=.", record.text):
            separator = record.text[-1]
        elif not record.comment:
            rows.append(record)
        if not rows:
            end = record.end
        if len(rows) > _SAMPLE:
            break
    geant4 = [found for record in comments if (found := re.fullmatch(r"#column \S+ (.+)", record.text))]
    if geant4:
        code = next((int(r.text.split()[1]) for r in comments if re.fullmatch(r"#separator \d+", r.text)), ord(","))
        return Layout(chr(code), [found[1] for found in geant4]), end
    if request.header is not None:
        return _with_header(file, request.header, rows, separator), end
    texts = [record.text.lstrip("# \t") for record in reversed(comments)]
    if rows:
        first = _from_line(rows[0].text, rows[1:], separator)
        named = [layout for text in texts if (layout := _from_line(text, rows, separator, strict=True)) is not None]
        if named and first is not None and _is_header(named[0], first, rows[0], request):
            return named[0], end
        assert first is not None
        return first, rows[0].end
    if texts:
        layout = _from_line(texts[0], [], separator)
        assert layout is not None
        return layout, end
    raise InputError("the file is empty", where=file, cure="check that it was copied whole")


def _is_header(comment: Layout, line: Layout, row: Record, request: Request) -> bool:
    """Whether the last fitting comment names the columns, rather than the line that follows."""
    both = [all(column in layout.names for column in request.columns) for layout in (comment, line)]
    if both[0] != both[1]:
        return both[0]
    return any(_is_number(field) for field in _fields(row.text, comment.separator))


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _from_line(header: str, rows: Sequence[Record], separator: str | None, strict: bool = False) -> Layout | None:
    """The layout where this line names the columns; None if it is strict, and does not fit the rows."""
    marks = [separator] if separator is not None else ["\t", ",", ";"]
    above, below = _present(marks, header), _present(marks, rows[0].text if rows else header)
    same = [mark for mark in below if mark in above]
    # Of the header, the separator may be another: "# x, y, z" above rows of blanks, "# x y z" above commas.
    mixed = [(mark, other) for mark in reversed(below) for other in above if mark != other]
    for mark, other in [*((mark, mark) for mark in same[:-1]), *mixed[: len(above) - 1], (None, None), *mixed]:
        fitted = _fitted(_fields(header, other), rows, mark, exact=mark != other)
        if fitted is not None and (len(fitted) > 1 or above == [None]):
            return Layout(mark, fitted)
    return None if strict else Layout(above[0], _fields(header, above[0]))


def _present(marks: Sequence[str], text: str) -> list[str | None]:
    """Which separators may be that of a line; at last, blanks."""
    return [*(mark for mark in marks if mark in text), None]


def _with_header(file: File, header: Sequence[str], rows: Sequence[Record], separator: str | None) -> Layout:
    marks = [separator] if separator is not None else ["\t", ",", ";"]
    found = None
    for mark in _present(marks, rows[0].text if rows else ""):
        if rows and _fields(rows[0].text.lstrip("# "), mark) == list(header):
            raise InputError("the file has a header line", where=file, cure="leave out 'header'")
        fitted = _fitted(list(header), rows, mark)
        if fitted is not None:
            return Layout(mark, fitted)
        found = found or mark
    return Layout(found, list(header))


def _fitted(names: list[str], rows: Sequence[Record], separator: str | None, exact: bool = False) -> list[str] | None:
    """A name for each field: rows may end with a separator, or begin with names of their own, as R writes them.

    None if the names do not fit.
    """
    if not rows:
        return names
    fields = [_fields(row.text, separator) for row in rows[:_SAMPLE]]
    count = len(fields[0])
    if count == len(names):
        return names
    if exact:
        return None
    if count + 1 == len(names) and not names[-1]:
        return names[:-1]
    if count != len(names) + 1:
        return None
    if all(not row[-1] for row in fields):
        return [*names, ""]
    labels = [row[0] for row in fields]
    quoted = all(row.text.lstrip().startswith('"') for row in rows[:_SAMPLE])
    # Beside commas, a number may as well be the first half of one with a decimal comma.
    counted = separator != "," and labels == [str(n) for n in range(1, len(labels) + 1)]
    if quoted or counted or not any(map(_is_number, labels)):
        return ["", *names]
    return None


# ------------------------------------------------------------------------------------------------------------- rows


def _fast(block: bytes, layout: Layout, found: dict[str, int]) -> Table | None:
    """The columns of a block by Arrow; None where it cannot."""
    import pyarrow as pa
    from pyarrow import csv as arrow

    if b"#" in block and _COMMENT.search(block):
        if b'"' in block:
            return None  # a quoted line may look like a comment
        block = _COMMENT.sub(b"", block)
    if layout.separator is None:
        block = _single_blanks(block)
    if b"+" in block:
        for before in (layout.separator or " ", "\n", '"'):
            block = block.replace(f"{before}+".encode(), before.encode())
        block = block.removeprefix(b"+")
    if not block.strip():
        return {column: np.empty(0) for column in found}
    read = arrow.ReadOptions(
        use_threads=False, block_size=len(block) + 1, column_names=[str(n) for n in range(len(layout.names))]
    )
    parse = arrow.ParseOptions(delimiter=layout.separator or " ", newlines_in_values=b'"' in block)
    for types in ({}, _flags(block, layout, found)):
        convert = arrow.ConvertOptions(
            include_columns=[str(index) for index in dict.fromkeys(found.values())],
            column_types={str(index): types.get(index, pa.float64()) for index in found.values()},
            null_values=list(MISSING),
            check_utf8=False,
        )
        try:
            table = arrow.read_csv(pa.py_buffer(block), read, parse, convert)
        except pa.ArrowInvalid:
            continue
        for index in types:
            column = table.column(str(index)).cast(pa.uint8()).cast(pa.float64())
            table = table.set_column(table.column_names.index(str(index)), str(index), column)
        return {column: table.column(str(index)).to_numpy() for column, index in found.items()}
    return None


def _single_blanks(block: bytes) -> bytes:
    """One blank between fields, none at the ends of lines."""
    block = block.translate(bytes.maketrans(b"\t\r", b"  "))
    while b"  " in block:
        block = block.replace(b"  ", b" ")
    return block.replace(b"\n ", b"\n").replace(b" \n", b"\n").strip(b" ")


def _flags(block: bytes, layout: Layout, found: dict[str, int]) -> dict[int, Any]:
    """The columns that hold True and False, by their first row."""
    import pyarrow as pa

    first = _fields(next(_records(block)).text, layout.separator)
    return {index: pa.bool_() for index in found.values() if index < len(first) and first[index].lower() in _WORDS}


def _careful(file: File, block: bytes, line: int, layout: Layout, found: dict[str, int]) -> Table:
    """The same field by field, or the line that is wrong."""
    values: list[list[float]] = []
    for record in _records(block, line):
        if record.comment:
            continue
        fields = _fields(record.text, layout.separator)
        if len(fields) != len(layout.names):
            cut = record.end == len(block) and not block.endswith(b"\n")
            raise InputError(
                f"line {record.line:,} has {len(fields)} fields instead of {len(layout.names)}",
                where=file,
                cure=DAMAGED if cut else f"mend the line; fields are separated by {layout.separator or 'blanks'!r}",
            )
        values.append([_number(file, record, column, fields[index]) for column, index in found.items()])
    return dict(zip(found, np.array(values).reshape(len(values), len(found)).T, strict=True))


def _number(file: File, record: Record, column: str, text: str) -> float:
    if text in MISSING:
        return float("nan")
    try:
        if "_" in text:  # Python's own digits
            raise ValueError(text)
        return float(text)
    except ValueError as error:
        word = _WORDS.get(text.lower())
        if word is not None:
            return word
        if fortran := _FORTRAN.fullmatch(text):
            return float(f"{fortran[1]}e{fortran[2]}")
        cure = "mend the line, or choose a column of numbers"
        if _DECIMAL_COMMA.fullmatch(text):
            cure = "write decimal points instead of commas (in R: write.csv instead of write.csv2)"
        shown = " ".join(text[:_SHOWN].split()) + ("..." if len(text) > _SHOWN else "")
        raise InputError(
            f"line {record.line:,}: column '{column}' holds '{shown}', which is no number", where=file, cure=cure
        ) from error


def _damaged(file: File, error: Exception) -> bool:
    return isinstance(error, zlib.error | lzma.LZMAError | EOFError | OSError | UnicodeError)


CSV = Format("CSV", (".csv", ".tsv", ".txt", ".dat"), _read, _damaged, packed=(".gz", ".bz2", ".xz", ".zst"))
