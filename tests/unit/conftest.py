"""An archive of files of every kind, and what came out of one."""

import csv
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.conftest import write_jsonl
from tests.unit.test_segment import PAGE


def text_of(i: int) -> str:
    return (
        f"Envoys meet on item {i}\n\nThe ministry rejected point {i} outright. Nobody left.\n"
        f"A deal on {i % 3} is within reach. Talks on item 4 are deadlocked."
    )


def write_csv(path: Path, rows: list[dict]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_parquet(path: Path, rows: list[dict], **options) -> Path:
    pq.write_table(pa.Table.from_pylist(rows), path, **options)
    return path


def rows_of(numbers) -> list[dict]:
    return [{"paper": "x", "article_id": f"id{i}", "text": text_of(i)} for i in numbers]


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Twenty articles in files of every kind; two faulty ones among them."""
    folder = tmp_path / "archive"
    (folder / "more").mkdir(parents=True)
    table = write_jsonl(folder / "a.jsonl", rows_of(range(6)))
    with table.open("a") as file:
        file.write('\n{"text": \n{"text": "Talks stall."}\n')
    write_csv(folder / "b.csv", rows_of(range(6, 11)))
    write_parquet(folder / "c.parquet", rows_of(range(11, 17)), row_group_size=4)
    (folder / "d.txt").write_text(text_of(17))
    (folder / "e.html").write_text(PAGE)
    (folder / "empty.txt").write_text("")
    (folder / "more" / "f.txt").write_text(text_of(18))
    (folder / ".hidden.txt").write_text("Hidden.")
    (folder / "notes.pdf").write_bytes(b"%PDF")
    return folder


def scored(out: Path) -> list[dict]:
    shards = sorted(out.glob("*.parquet"))
    return [row for path in shards for row in pq.read_table(path).to_pylist()]


def rejected(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "rejects.jsonl").read_text().splitlines()]
