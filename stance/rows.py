"""Rows of JSONL and CSV files, with one clear error for every fault."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stance.errors import DataError
from stance.segment import decode_text


def read_rows(source: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number, row) of a JSONL or CSV file; blank lines are skipped.

    Raises
    ------
    DataError : the first fault, as ``file:line: what is wrong; what to do``.
    """
    if not source.is_file():
        raise DataError(f"{source}: no such file; give a .jsonl or .csv file or a corpus folder")
    if source.suffix not in (".jsonl", ".csv", ".ndjson"):
        raise DataError(f"{source}: unknown kind {source.suffix!r}; expected .jsonl or .csv")
    text = decode_text(source.read_bytes(), str(source))
    yield from (_csv_rows if source.suffix == ".csv" else _json_rows)(source, text)


def _json_rows(source: Path, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            yield number, json_object(line)
        except ValueError as err:
            raise DataError(f"{source}:{number}: {err}") from err


def json_object(line: str, *, allow_nan: bool = False) -> dict[str, Any]:
    """The object of a JSON line; `ValueError` says what is wrong with it."""

    def constant(value: str) -> float:
        if not allow_nan:
            raise ValueError(f"{value} is not JSON")
        return float(value)

    try:
        row = json.loads(line, parse_constant=constant)
    except (ValueError, RecursionError) as err:
        why = err.msg if isinstance(err, json.JSONDecodeError) else str(err)
        raise ValueError(f"broken JSON ({why}): {short(line)}; one object a line") from err
    if not isinstance(row, dict):
        raise ValueError(f"a {type(row).__name__} where an object was expected: {short(line)}")
    return row


def _csv_rows(source: Path, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        names = reader.fieldnames or []
        if len(set(names)) != len(names):
            raise DataError(f"{source}:1: a column name stands twice in {names}")
        for row in reader:
            if None in row:
                raise DataError(
                    f"{source}:{reader.line_num}: more cells than columns; quote texts with commas"
                )
            yield reader.line_num, {k: v for k, v in row.items() if v not in ("", None)}
    except csv.Error as err:
        raise DataError(f"{source}:{reader.line_num}: broken CSV ({err})") from err


def short(value: object) -> str:
    """A value as text for an error, cut at sixty characters."""
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."
