"""Articles out of files and folders, one after another, in memory that does not grow with them.

Tables (.jsonl, .ndjson, .csv, .parquet) hold an article a row and are streamed; text and HTML files
hold one article each. What can't be read comes out too, with the reason, and the rest goes on.
"""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from stance.errors import ConfigError, DataError
from stance.rows import json_object, short
from stance.segment import SegmentedText, decode_text, is_html, split_sentences

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

MAX_CHARS = 1_000_000
MAX_HTML_CHARS = 10_000_000
_MAX_LINE_BYTES = 2**25
_ROWS_PER_BATCH = 256
_ESCAPED = re.compile("[\udc80-\udcff]")


@dataclass(frozen=True, slots=True)
class InputFile:
    """A file to read: its path, its name below the input it was found in, size and mtime."""

    path: str
    name: str
    size: int
    mtime_ns: int


@dataclass(frozen=True, slots=True)
class Position:
    """A place between two articles.

    `row` and `offset` count what was read of file number `file`, `before` the bytes of the files
    before it.
    """

    file: int = 0
    row: int = 0
    offset: int = 0
    before: int = 0


@dataclass(frozen=True, slots=True)
class Fields:
    """The columns of a table in which text and id of an article stand."""

    text: str = "text"
    article_id: str = "article_id"


@dataclass(frozen=True, slots=True)
class FoundArticle:
    """An article as it was found; `fault` says why it can't be used, `after` is where it ends."""

    article_id: str
    source: str
    text: str
    fault: str
    after: Position


@dataclass(frozen=True, slots=True)
class _Row:
    """A row of a table, counted from 1, that ends at a byte; or a whole file, `number` 0."""

    number: int
    end: int
    cells: dict[str, Any]
    fault: str = ""


def check_inputs(inputs: Sequence[str], out: Path) -> None:
    """Refuse inputs that can't be read or would be read twice.

    Raises
    ------
    DataError : no such file or folder, or an unknown kind.
    ConfigError : none, one given twice, inside another one or inside `out`.
    """
    if not inputs:
        raise ConfigError("no inputs; give files or folders with articles")
    given = {Path(name).resolve() for name in inputs}
    seen: set[Path] = set()
    for name in inputs:
        path = Path(name).resolve()
        if path.is_relative_to(out.resolve()):
            raise ConfigError(f"{name} lies in the folder that is written to; choose another one")
        if path in seen or not given.isdisjoint(path.parents):
            raise ConfigError(f"{name} is given twice; leave one out, or it would be scored twice")
        seen.add(path)
        if not path.is_dir() and not path.is_file():
            raise DataError(f"{name}: no such file or folder; give files or folders with articles")
        if path.is_file() and path.suffix.lower() not in _READERS:
            raise DataError(f"{name}: unknown kind {path.suffix!r}; expected {', '.join(_READERS)}")


def list_files(name: str, out: Path) -> Iterator[InputFile]:
    """An input's files, a folder's in sorted order without hidden ones, other kinds and `out`.

    Raises
    ------
    DataError : a folder that can't be listed or holds no articles.
    """
    if Path(name).is_dir():
        yield from _walk(name, out.resolve())
    else:
        yield _stated(Path(name), Path(name).name)


def _walk(top: str, out: Path) -> Iterator[InputFile]:
    def refuse(err: OSError) -> None:
        raise DataError(f"{err.filename}: {err.strerror}; make it readable or leave it out")

    is_empty = True
    for folder, below, names in os.walk(top, onerror=refuse):
        below[:] = sorted(n for n in below if n[0] != "." and Path(folder, n).resolve() != out)
        for name in sorted(names):
            path = Path(folder, name)
            if name[0] != "." and path.suffix.lower() in _READERS:
                is_empty = False
                yield _stated(path, path.relative_to(top).as_posix())
    if is_empty:
        raise DataError(f"{top}: holds no articles; expected files of {', '.join(_READERS)}")


def _stated(path: Path, name: str) -> InputFile:
    try:
        found = path.stat()
    except OSError as err:
        raise DataError(f"{path}: {err.strerror}; bring it back or remove it") from err
    return InputFile(str(path), name, found.st_size, found.st_mtime_ns)


def read_articles(
    files: Iterable[InputFile], start: Position, fields: Fields
) -> Iterator[FoundArticle]:
    """The articles of some files, from a position on.

    Parameters
    ----------
    files : those from number `start.file` on.
    start : where to begin; `Position()` or the `after` of an article.
    fields : columns of the tables. An article without id gets ``<file name>:<row>``, a text or HTML
        file's id is its name. Rows count from 1; the header of a CSV file is none, a blank line of
        a JSONL file is one.

    Raises
    ------
    DataError : a file is gone or the disk fails; a file that may not be read is only a fault.
    """
    begin = start
    for number, file in enumerate(files, start.file):
        end = Position(number + 1, before=begin.before + file.size)
        try:
            for row in _READERS[Path(file.path).suffix.lower()](file, begin, fields):
                after = Position(number, row.number, row.end, begin.before) if row.number else end
                yield _article(file, row, fields, after)
        except (DataError, PermissionError) as err:
            fault = f"{err.strerror}; allow reading it" if isinstance(err, OSError) else str(err)
            yield _article(file, _Row(0, 0, {}, fault), fields, end)
        except OSError as err:
            raise DataError(
                f"{file.path}: {err.strerror}; once it can be read, the same command goes on"
            ) from err
        begin = end


def split_article(text: str) -> SegmentedText:
    """The sentences of an article.

    Raises
    ------
    DataError : more than `MAX_CHARS` characters (HTML: `MAX_HTML_CHARS`), HTML without article
        text, no sentence, or a text on which the splitter fails.
    """
    limit = MAX_HTML_CHARS if is_html(text) else MAX_CHARS
    if len(text) > limit:
        raise DataError(f"a text of {len(text)} characters; at most {limit} make an article")
    try:
        split = split_sentences(text)
    except (DataError, MemoryError):
        raise
    except Exception as err:  # any fault inside the splitter is a fault of this text
        raise DataError(f"the text can't be split into sentences ({err!r})") from err
    if len(split.text) > MAX_CHARS:
        raise DataError(f"HTML with {len(split.text)} characters of text; at most {MAX_CHARS}")
    if not split.sentences:
        raise DataError("no sentence in the text")
    return split


def _article(file: InputFile, row: _Row, fields: Fields, after: Position) -> FoundArticle:
    where = f":{row.number}" if row.number else ""
    article_id, text, fault = file.name + where, "", row.fault
    if not fault:
        try:
            article_id = _id(row.cells.get(fields.article_id), fields.article_id) or article_id
            text = _text(row.cells.get(fields.text), fields.text)
        except DataError as err:
            fault = str(err)
    return FoundArticle(_storable(article_id), _storable(file.path + where), text, fault, after)


def _storable(text: str) -> str:
    """A text without lone surrogates, which no file can hold."""
    return text.encode("utf-8", "replace").decode()


def _id(value: object, field: str) -> str:
    if isinstance(value, dict | list | bytes):
        raise DataError(f"column {field!r} is a {type(value).__name__}: {short(value)}")
    is_missing = value is None or value != value
    return "" if is_missing else str(value).strip()


def _text(value: object, field: str) -> str:
    if isinstance(value, bytes):
        value = _decoded(value)
    if value is None or value == "":
        raise DataError(f"no value in column {field!r}; --text-field names the column")
    if not isinstance(value, str):
        raise DataError(f"column {field!r} is a {type(value).__name__}, no text: {short(value)}")
    return value


def _decoded(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as err:
        raise DataError(_not_utf8(raw[err.start])) from err


def _not_utf8(byte: int) -> str:
    return f"byte 0x{byte:02x} is not UTF-8; save the file as UTF-8"


def _page(file: InputFile, _: Position, fields: Fields) -> Iterator[_Row]:
    if file.size > 4 * MAX_HTML_CHARS:
        raise DataError(f"a file of {file.size} bytes; at most {MAX_HTML_CHARS} characters")
    text = decode_text(Path(file.path).read_bytes(), file.path)
    yield _Row(0, file.size, {fields.text: text}, "" if text else "no sentence in the text")


def _json_rows(file: InputFile, begin: Position, _: Fields) -> Iterator[_Row]:
    with _lines(file) as lines:
        lines.seek(begin.offset)
        number = begin.row
        while (line := lines.read()) != b"":
            number += 1
            if line is None or line.strip():
                yield _json_row(number, lines.offset, line)


def _json_row(number: int, end: int, line: bytes | None) -> _Row:
    if line is None:
        return _Row(number, end, {}, f"a line of more than {_MAX_LINE_BYTES} bytes")
    try:
        return _Row(number, end, json_object(_decoded(line), allow_nan=True))
    except ValueError as err:
        return _Row(number, end, {}, str(err))


def _csv_rows(file: InputFile, begin: Position, fields: Fields) -> Iterator[_Row]:
    with _lines(file) as lines, _long_cells():
        reader = csv.reader(lines, strict=True)
        try:
            names = next((cells for cells in reader if cells), [])
        except csv.Error as err:
            raise DataError(f"broken header ({err})") from err
        if not names:
            return
        if len(set(names)) != len(names):
            raise DataError(f"a column name stands twice in {short(names)}")
        _demand(fields.text, names)
        if begin.row:
            lines.seek(begin.offset)
        number = begin.row
        while True:
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as err:
                number += 1
                fault = f"broken CSV ({err}); is a quotation mark left open?"
                yield _Row(number, lines.offset, {}, fault)
                continue
            if cells:
                number += 1
                yield _csv_row(number, lines.offset, names, cells)


def _csv_row(number: int, end: int, names: list[str], cells: list[str]) -> _Row:
    if len(cells) > len(names):
        return _Row(number, end, {}, "more cells than columns; quote texts with commas")
    if byte := next(filter(None, map(_ESCAPED.search, cells)), None):
        return _Row(number, end, {}, _not_utf8(ord(byte[0]) - 0xDC00))
    return _Row(number, end, dict(zip(names, cells, strict=False)))


@contextmanager
def _long_cells() -> Iterator[None]:
    """Let the csv module read cells as long as the longest article."""
    before = csv.field_size_limit()
    csv.field_size_limit(max(before, MAX_HTML_CHARS))
    try:
        yield
    finally:
        csv.field_size_limit(before)


class _Lines:
    """Lines of an open file and the number of bytes read; a very long line is passed over."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.offset = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self.read()
        if line is None:
            raise csv.Error(f"a line of more than {_MAX_LINE_BYTES} bytes")
        if not line:
            raise StopIteration
        return line.decode("utf-8", "surrogateescape")

    def seek(self, offset: int) -> None:
        """Go on at another place."""
        self._file.seek(offset)
        self.offset = offset

    def read(self) -> bytes | None:
        """The next line, empty at the end of the file, None where it is too long."""
        is_first = self.offset == 0
        line = self._file.readline(_MAX_LINE_BYTES)
        self.offset += len(line)
        if len(line) < _MAX_LINE_BYTES:
            return line.removeprefix(b"\xef\xbb\xbf") if is_first else line
        while line and not line.endswith(b"\n"):
            line = self._file.readline(_MAX_LINE_BYTES)
            self.offset += len(line)
        return None


@contextmanager
def _lines(file: InputFile) -> Iterator[_Lines]:
    with Path(file.path).open("rb") as opened:
        if opened.read(2) in (b"\xff\xfe", b"\xfe\xff"):
            raise DataError("the file is UTF-16; save it as UTF-8")
        opened.seek(0)
        yield _Lines(opened)


def _parquet_rows(file: InputFile, begin: Position, fields: Fields) -> Iterator[_Row]:
    import pyarrow.parquet as pq

    with _damage_named(), pq.ParquetFile(file.path, buffer_size=2**20, pre_buffer=False) as source:
        _demand(fields.text, source.schema_arrow.names)
        names = [n for n in (fields.text, fields.article_id) if n in source.schema_arrow.names]
        n_rows, last = source.metadata.num_rows, 0
        for group in range(source.num_row_groups):
            first, last = last + 1, last + source.metadata.row_group(group).num_rows
            if last < first or last <= begin.row:
                continue
            for number, found in _group_rows(source, group, names, range(first, last + 1)):
                if number > begin.row:
                    end = file.size * number // n_rows
                    fault = found if isinstance(found, str) else ""
                    yield _Row(number, end, {} if isinstance(found, str) else found, fault)


def _group_rows(
    source: pq.ParquetFile, group: int, names: Sequence[str], numbers: range
) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """Number and cells of each row of a group, or its fault; a damaged group ends with one."""
    number = numbers[0] - 1
    try:
        with _damage_named():
            for batch in source.iter_batches(_ROWS_PER_BATCH, [group], names, use_threads=False):
                for cells in _cells(batch, names):
                    number += 1
                    yield number, cells
    except DataError as err:
        yield numbers[-1], f"rows {number + 1} to {numbers[-1]}: {err}"


@contextmanager
def _damage_named() -> Iterator[None]:
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError) as err:
        if getattr(err, "errno", None):
            raise
        raise DataError(f"damaged Parquet file ({short(err)}); write it anew") from err


def _cells(batch: pa.RecordBatch, names: Sequence[str]) -> Iterator[dict[str, Any] | str]:
    columns = [batch.column(name) for name in names]
    for i in range(batch.num_rows):
        try:
            yield {n: c[i].as_py() for n, c in zip(names, columns, strict=True)}
        except UnicodeDecodeError as err:
            yield _not_utf8(err.object[err.start])
        except ValueError as err:
            yield f"a value that can't be read ({short(err)})"


def _demand(field: str, names: Sequence[str]) -> None:
    if field not in names:
        raise DataError(
            f"no column {field!r}, only {short(', '.join(names))}; --text-field names the column"
        )


_READERS: dict[str, Callable[[InputFile, Position, Fields], Iterator[_Row]]] = {
    ".jsonl": _json_rows,
    ".ndjson": _json_rows,
    ".csv": _csv_rows,
    ".parquet": _parquet_rows,
    ".txt": _page,
    ".html": _page,
    ".htm": _page,
}
