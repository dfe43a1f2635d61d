"""Articles out of files and folders, one after another, in memory that does not grow with them.

Tables hold an article a row; text and HTML files hold one article each. What can't be read comes
out too, with the reason, and the rest goes on.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from stance.errors import ConfigError, DataError
from stance.rows import short
from stance.segment import SegmentedText, decode_text, is_html, split_sentences
from stance.tables import (
    MAX_CELL_CHARS,
    TABLE_READERS,
    Fields,
    InputFile,
    Position,
    Row,
    decoded,
)

MAX_CHARS = 1_000_000
MAX_HTML_CHARS = MAX_CELL_CHARS


@dataclass(frozen=True, slots=True)
class FoundArticle:
    """An article as it was found; `fault` says why it can't be used, `after` is where it ends."""

    article_id: str
    source: str
    text: str
    fault: str
    after: Position


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
            yield _article(file, Row(0, 0, {}, fault), fields, end)
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


def _article(file: InputFile, row: Row, fields: Fields, after: Position) -> FoundArticle:
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
        value = decoded(value)
    if value is None or value == "":
        raise DataError(f"no value in column {field!r}; --text-field names the column")
    if not isinstance(value, str):
        raise DataError(f"column {field!r} is a {type(value).__name__}, no text: {short(value)}")
    return value


def _page(file: InputFile, _: Position, fields: Fields) -> Iterator[Row]:
    if file.size > 4 * MAX_HTML_CHARS:
        raise DataError(f"a file of {file.size} bytes; at most {MAX_HTML_CHARS} characters")
    text = decode_text(Path(file.path).read_bytes(), file.path)
    yield Row(0, file.size, {fields.text: text}, "" if text else "no sentence in the text")


_READERS: dict[str, Callable[[InputFile, Position, Fields], Iterator[Row]]] = {
    **TABLE_READERS,
    ".txt": _page,
    ".html": _page,
    ".htm": _page,
}
