"""Rows out of tables: .jsonl, .ndjson, .csv and .parquet files, streamed from a position on.

A row that can't be read comes out too, with the reason; so does what is left of a damaged file.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from stance.errors import DataError
from stance.rows import json_object, short

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

MAX_CELL_CHARS = 10_000_000
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
class Row:
    """A row of a table, counted from 1, that ends at a byte; or a whole file, `number` 0."""

    number: int
    end: int
    cells: dict[str, Any]
    fault: str = ""


def decoded(raw: bytes) -> str:
    """UTF-8 bytes as text; `DataError` names the first byte that is none."""
    try:
        return raw.decode()
    except UnicodeDecodeError as err:
        raise DataError(_not_utf8(raw[err.start])) from err


def _not_utf8(byte: int) -> str:
    return f"byte 0x{byte:02x} is not UTF-8; save the file as UTF-8"


def _json_rows(file: InputFile, begin: Position, _: Fields) -> Iterator[Row]:
    with _lines(file) as lines:
        lines.seek(begin.offset)
        number = begin.row
        while (line := lines.read()) != b"":
            number += 1
            if line is None or line.strip():
                yield _json_row(number, lines.offset, line)


def _json_row(number: int, end: int, line: bytes | None) -> Row:
    if line is None:
        return Row(number, end, {}, f"a line of more than {_MAX_LINE_BYTES} bytes")
    try:
        return Row(number, end, json_object(decoded(line), allow_nan=True))
    except ValueError as err:
        return Row(number, end, {}, str(err))


def _csv_rows(file: InputFile, begin: Position, fields: Fields) -> Iterator[Row]:
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
                yield Row(number, lines.offset, {}, fault)
                continue
            if cells:
                number += 1
                yield _csv_row(number, lines.offset, names, cells)


def _csv_row(number: int, end: int, names: list[str], cells: list[str]) -> Row:
    if len(cells) > len(names):
        return Row(number, end, {}, "more cells than columns; quote texts with commas")
    if byte := next(filter(None, map(_ESCAPED.search, cells)), None):
        return Row(number, end, {}, _not_utf8(ord(byte[0]) - 0xDC00))
    return Row(number, end, dict(zip(names, cells, strict=False)))


@contextmanager
def _long_cells() -> Iterator[None]:
    """Let the csv module read cells as long as the longest article."""
    before = csv.field_size_limit()
    csv.field_size_limit(max(before, MAX_CELL_CHARS))
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


def _parquet_rows(file: InputFile, begin: Position, fields: Fields) -> Iterator[Row]:
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
                    yield Row(number, end, {} if isinstance(found, str) else found, fault)


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


TABLE_READERS: dict[str, Callable[[InputFile, Position, Fields], Iterator[Row]]] = {
    ".jsonl": _json_rows,
    ".ndjson": _json_rows,
    ".csv": _csv_rows,
    ".parquet": _parquet_rows,
}
