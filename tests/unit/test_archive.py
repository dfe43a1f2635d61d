import json
import os
import shutil
import tracemalloc
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stance import BundleError, ConfigError, DataError, articles, load, tables
from stance.archive import score_archive
from stance.articles import read_articles
from stance.bundle import put_first_look
from stance.tables import Fields, InputFile, Position
from tests.conftest import write_jsonl
from tests.unit.conftest import rejected, rows_of, scored, text_of, write_csv, write_parquet
from tests.unit.test_first_look import first_look
from tests.unit.test_segment import PAGE


def score(inputs, out, bundle, **options):
    return score_archive(inputs, out, model=bundle, **options)


@pytest.mark.parametrize("shard_sentences", [12, 20_000])
def test_every_kind_of_input_gets_what_predict_article_gives(
    archive, tiny_bundle, tmp_path, shard_sentences
):
    out = tmp_path / "out"
    done = score(archive, out, tiny_bundle, shard_sentences=shard_sentences)
    texts = {f"id{i}": text_of(i) for i in range(17)} | {"a.jsonl:9": "Talks stall."}
    texts |= {"d.txt": text_of(17), "e.html": PAGE, "more/f.txt": text_of(18)}
    rows = scored(out)
    model = load(tiny_bundle)
    expected = []
    for article_id in dict.fromkeys(r["article_id"] for r in rows):
        for index, s in enumerate(model.predict_article(texts.pop(article_id)).sentences):
            flat = s.to_dict() | {"article_id": article_id, "index": index}
            expected.append(flat | {f"score_{k}": v for k, v in flat.pop("scores").items()})
    assert texts == {}
    assert len(rows) == done.n_sentences == len(expected)
    for row, wanted in zip(rows, expected, strict=True):
        assert row.pop("source").startswith(str(archive))
        assert row == pytest.approx(wanted, abs=1e-6)
    assert done.n_articles == 21 and done.n_rejects == 2
    assert [r["source"] for r in rejected(out)] == [f"{archive}/a.jsonl:8", f"{archive}/empty.txt"]
    shards = [pq.read_table(p) for p in sorted(out.glob("*.parquet"))]
    assert len(shards) == done.n_shards == (1 if shard_sentences > 12 else 7)
    for shard in shards[:-1]:
        last = shard["article_id"].to_pylist()[-1]
        assert 12 <= len(shard) < 12 + shard["article_id"].to_pylist().count(last)


def test_source_and_id_say_where_an_article_stands(tiny_bundle, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in" / "y").mkdir(parents=True)
    kept = [{"key": 7, "body": "A b."}, {"key": None, "body": "A b."}, {"body": "A b."}]
    write_jsonl(tmp_path / "in/y/t.jsonl", [*kept, {"key": " ", "body": "A\ud800b."}])
    write_csv(tmp_path / "t.csv", [{"key": "k\n1", "body": "A\nb."}, {"key": "", "body": "A b."}])
    write_parquet(tmp_path / "t.parquet", [{"body": "A b.", "key": 1}, {"body": "A b."}])
    (tmp_path / "t.txt").write_text("A b.")
    inputs = ["t.txt", "in", "t.csv", "t.parquet"]
    score(inputs, "out", tiny_bundle, text_field="body", id_field="key")
    found = [(r["source"], r["article_id"]) for r in scored(tmp_path / "out") if r["index"] == 0]
    assert found == [
        ("t.txt", "t.txt"),
        ("in/y/t.jsonl:1", "7"),
        ("in/y/t.jsonl:2", "y/t.jsonl:2"),
        ("in/y/t.jsonl:3", "y/t.jsonl:3"),
        ("in/y/t.jsonl:4", "y/t.jsonl:4"),
        ("t.csv:1", "k\n1"),
        ("t.csv:2", "t.csv:2"),
        ("t.parquet:1", "1"),
        ("t.parquet:2", "t.parquet:2"),
    ]


def test_articles_of_one_id_are_both_kept(tiny_bundle, tmp_path):
    data = write_jsonl(tmp_path / "t.jsonl", [{"article_id": "a", "text": "Talks stall."}] * 2)
    assert score(data, tmp_path / "out", tiny_bundle).n_articles == 2
    assert [r["source"] for r in scored(tmp_path / "out")] == [f"{data}:1", f"{data}:2"]


GOOD = '{"text": "Talks stall."}\n'
STRINGS = pa.array([b"Talks stall.", b"caf\xe9", b"Talks stall."]).cast(pa.binary())
FAULTY = {
    "bad JSON": ("t.jsonl", GOOD + '{"text": "a\n' + GOOD, 2, "broken JSON"),
    "no object": ("t.jsonl", GOOD + "[1]\n" + GOOD, 2, "a list where an object"),
    "deep JSON": ("t.jsonl", GOOD + "[" * 100_000 + "\n" + GOOD, 2, "recursion"),
    "no value": ("t.jsonl", GOOD + '{"text": null}\n' + GOOD, 2, "no value in column 'text'"),
    "no column": ("t.jsonl", GOOD + '{"body": "A b."}\n' + GOOD, 2, "--text-field"),
    "a number": ("t.jsonl", GOOD + '{"text": 3}\n' + GOOD, 2, "is a int, no text: 3"),
    "an odd id": ("t.jsonl", GOOD + '{"text": "A b.", "article_id": [1]}\n' + GOOD, 2, "a list"),
    "no sentence": ("t.jsonl", GOOD + '{"text": " \\n"}\n' + GOOD, 2, "no sentence in the text"),
    "a menu": ("t.jsonl", GOOD + '{"text": "Share"}\n' + GOOD, 2, "no sentence in the text"),
    "empty HTML": ("t.jsonl", GOOD + '{"text": "<html></html>"}\n' + GOOD, 2, "no article text"),
    "bytes": ("t.jsonl", GOOD.encode() + b'{"text": "caf\xe9"}\n' + GOOD.encode(), 2, "byte 0xe9"),
    "too long": ("t.jsonl", GOOD + f'{{"text": "{"a" * 501}"}}\n' + GOOD, 2, "501 characters"),
    "long line": ("t.jsonl", GOOD + "x" * 900_000 + "\n" + GOOD, 2, "more than 700000 bytes"),
    "CSV quote": ("t.csv", 'text\nA b.\n"A"b.\nA b.\n', 2, "broken CSV"),
    "CSV open quote": ("t.csv", 'text\nA b.\nA b.\n"A\nb.\n', 3, "quotation mark left open"),
    "CSV cells": ("t.csv", "text,x\nA b.,1\nA b.,1,2\nA b.,1\n", 2, "more cells than columns"),
    "CSV no value": ("t.csv", "x,text\n1,A b.\n1\n1,A b.\n", 2, "no value in column 'text'"),
    "CSV bytes": ("t.csv", b"text\nA b.\ncaf\xe9\nA b.\n", 2, "byte 0xe9"),
    "CSV line": ("t.csv", "text\nA b.\n" + "x" * 900_000 + "\nA b.\n", 2, "700000 bytes"),
    "Parquet bytes": ("t.parquet", pa.table({"text": STRINGS}), 2, "byte 0xe9"),
    "Parquet text": ("t.parquet", pa.table({"text": STRINGS.view(pa.string())}), 2, "byte 0xe9"),
    "Parquet null": ("t.parquet", pa.table({"text": ["A b.", None, "A b."]}), 2, "no value"),
}


def write_any(path: Path, content) -> Path:
    if isinstance(content, pa.Table):
        pq.write_table(content, path)
    else:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize("name", FAULTY)
def test_a_faulty_article_is_rejected_and_the_rest_goes_on(
    name, tiny_bundle, tmp_path, monkeypatch
):
    monkeypatch.setattr(articles, "MAX_CHARS", 500)
    monkeypatch.setattr(tables, "_MAX_LINE_BYTES", 700_000)
    file_name, content, number, reason = FAULTY[name]
    path = write_any(tmp_path / file_name, content)
    done = score(path, tmp_path / "out", tiny_bundle)
    assert (done.n_articles, done.n_rejects) == (2, 1)
    (found,) = rejected(tmp_path / "out")
    assert found["source"] == f"{path}:{number}"
    assert reason in found["reason"] and len(found["reason"]) < 200


FAULTY_FILES = {
    "UTF-16 table": ("t.jsonl", GOOD.encode("utf-16"), "UTF-16"),
    "UTF-16": ("t.txt", "Talks stall.".encode("utf-16"), "UTF-16"),
    "bytes": ("t.txt", b"Talks.\n\xe9", "t.txt:2: byte 0xe9"),
    "NUL": ("t.html", b"<p>a\0b", "NUL"),
    "HTML without text": ("t.html", "<html><body></body></html>", "no article text"),
    "no sentence": ("t.txt", "\n\n", "no sentence"),
    "too long": ("t.txt", "Talks stall. " * 100, "1300 characters; at most 500"),
    "long HTML": ("t.html", PAGE + " " * 2000, "at most 1500 make"),
    "huge": ("t.txt", "Talks stall. " * 1000, "a file of 13000 bytes"),
    "CSV column": ("t.csv", "body\nA b.\n", "no column 'text', only body; --text-field"),
    "CSV names": ("t.csv", "text,text\nA b.,A b.\n", "stands twice"),
    "CSV header": ("t.csv", '"text"x\nA b.\n', "broken header"),
    "Parquet column": ("t.parquet", pa.table({"body": ["A b."]}), "no column 'text'"),
    "Parquet cut": ("t.parquet", b"PAR1 and no more", "damaged Parquet"),
    "Parquet empty": ("t.parquet", b"", "damaged Parquet"),
}


@pytest.mark.parametrize("name", FAULTY_FILES)
def test_a_faulty_file_is_one_reject(name, tiny_bundle, tmp_path, monkeypatch):
    monkeypatch.setattr(articles, "MAX_CHARS", 500)
    monkeypatch.setattr(articles, "MAX_HTML_CHARS", 1500)
    (tmp_path / "in").mkdir()
    file_name, content, reason = FAULTY_FILES[name]
    path = write_any(tmp_path / "in" / file_name, content)
    (tmp_path / "in" / "z.txt").write_text("Talks stall.")
    done = score(tmp_path / "in", tmp_path / "out", tiny_bundle)
    assert (done.n_articles, done.n_rejects) == (1, 1)
    (found,) = rejected(tmp_path / "out")
    assert (found["source"], found["article_id"]) == (str(path), file_name)
    assert reason in found["reason"]


def test_a_damaged_part_of_a_parquet_file_is_one_reject(tiny_bundle, tmp_path):
    path = write_parquet(
        tmp_path / "t.parquet", rows_of(range(12)), row_group_size=4, use_dictionary=False
    )
    start = pq.read_metadata(path).row_group(1).column(2).data_page_offset
    raw = bytearray(path.read_bytes())
    raw[start : start + 60] = b"\xff" * 60
    path.write_bytes(raw)
    done = score(path, tmp_path / "out", tiny_bundle)
    assert (done.n_articles, done.n_rejects) == (8, 1)
    (found,) = rejected(tmp_path / "out")
    assert found["source"] == f"{path}:8"
    assert "rows 5 to 8: damaged Parquet file" in found["reason"]
    file = InputFile(str(path), path.name, path.stat().st_size, 0)
    for row, n_left in [(4, 5), (6, 5), (8, 4), (12, 0)]:
        assert len(list(read_articles([file], Position(row=row), Fields()))) == n_left


def test_a_fault_of_the_splitter_is_a_fault_of_one_text(tiny_bundle, tmp_path, monkeypatch):
    split = articles.split_sentences
    monkeypatch.setattr(articles, "split_sentences", lambda t: split(t) if "1" in t else 1 / 0)
    data = write_jsonl(tmp_path / "t.jsonl", rows_of(range(1, 13)))
    data.write_text(data.read_text().replace("item 4", "item four"))
    score(data, tmp_path / "out", tiny_bundle)
    reasons = {r["reason"] for r in rejected(tmp_path / "out")}
    assert reasons == {
        "the text can't be split into sentences (ZeroDivisionError('division by zero'))"
    }


def test_a_file_that_may_not_be_read_is_rejected_and_a_lost_one_stops_the_run(
    archive, tiny_bundle, tmp_path, monkeypatch
):
    opened = Path.open

    def denied(path, *args, **options):
        if path.name == "b.csv":
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *args, **options)

    monkeypatch.setattr(Path, "open", denied)
    done = score(archive, tmp_path / "out", tiny_bundle)
    assert (done.n_articles, done.n_rejects) == (16, 3)
    assert "Permission denied" in rejected(tmp_path / "out")[1]["reason"]
    monkeypatch.undo()
    monkeypatch.setattr(articles, "_READERS", dict(articles._READERS))
    articles._READERS[".txt"] = lambda file, *_: Path("gone").read_bytes()
    with pytest.raises(DataError, match=r"d\.txt: No such file or directory; once it can be read"):
        score(archive, tmp_path / "lost", tiny_bundle, shard_sentences=12)
    monkeypatch.undo()
    score(archive, tmp_path / "lost", tiny_bundle, shard_sentences=12)
    assert len(scored(tmp_path / "lost")) == 101


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.jsonl", ""),
        ("t.csv", ""),
        ("t.csv", "text\n"),
        ("t.parquet", {"text": pa.array([], "string")}),
    ],
)
def test_nothing_in_gives_one_empty_shard_of_the_same_columns(name, content, tiny_bundle, tmp_path):
    content = pa.table(content) if isinstance(content, dict) else content
    path = write_any(tmp_path / name, content)
    done = score(path, tmp_path / "out", tiny_bundle)
    assert (done.n_articles, done.n_rejects, done.n_shards) == (0, 0, 1)
    data = write_jsonl(tmp_path / "full.jsonl", rows_of([1]))
    score(data, tmp_path / "full", tiny_bundle)
    full, empty = (pq.read_schema(tmp_path / n / "part-00000.parquet") for n in ("full", "out"))
    assert full == empty
    assert full.names == [
        *("article_id", "source", "index", "text", "start", "end", "label", "score"),
        *(f"score_{label}" for label in load(tiny_bundle).classes_),
        *("holder", "holder_score", "holder_span", "is_truncated", "is_skipped"),
    ]
    column = pq.read_metadata(tmp_path / "full" / "part-00000.parquet").row_group(0).column(3)
    assert column.compression == "ZSTD"


def test_unsure_and_very_long_sentences_are_marked_and_not_warned_of(tiny_bundle, tmp_path):
    (tmp_path / "t.txt").write_text("The envoy said " + "and said " * 400 + "no.")
    score(tmp_path / "t.txt", tmp_path / "out", tiny_bundle, abstain_below=1.0)
    (row,) = scored(tmp_path / "out")
    assert (row["label"], row["is_truncated"]) == ("abstained", True)


def test_a_first_look_skips_unless_told_not_to(tiny_bundle, tmp_path):
    bundle = Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))
    put_first_look(bundle, first_look(bundle))
    source = write_jsonl(tmp_path / "a.jsonl", rows_of(range(3)))
    for name in ("quick", "full"):
        score_archive(source, tmp_path / name, model=bundle, first_look=name == "quick")
        rows = pq.read_table(tmp_path / name / "part-00000.parquet").to_pylist()
        for row in rows:
            assert row["is_skipped"] == (name == "quick" and "Talks" not in row["text"])
            assert row["label"] == "none" or not row["is_skipped"]
    with pytest.raises(ConfigError, match="another first_look"):
        score_archive(source, tmp_path / "full", model=bundle)


def test_long_texts_fill_a_window_and_a_shard_too(tiny_bundle, tmp_path):
    data = write_jsonl(tmp_path / "t.jsonl", [{"text": "said " * 1200}] * 4)
    done = score(data, tmp_path / "out", tiny_bundle, shard_sentences=10)
    assert (done.n_sentences, done.n_shards) == (4, 2)


class Stop(BaseException):
    pass


def stop_at(monkeypatch, n: int) -> list[str]:
    """Let the n-th step at which a file is written, synced or named be the last one."""
    steps: list[str] = []

    def counted(name, function):
        def step(*args, **options):
            steps.append(name)
            if len(steps) == n:
                raise Stop
            return function(*args, **options)

        return step

    monkeypatch.setattr(os, "fsync", counted("sync", os.fsync))
    monkeypatch.setattr(Path, "replace", counted("name", Path.replace))
    monkeypatch.setattr(pq, "write_table", counted("write", pq.write_table))
    return steps


def test_a_run_stopped_at_any_step_ends_as_an_unbroken_one(
    archive, tiny_bundle, tmp_path, monkeypatch
):
    options = {"shard_sentences": 12}
    whole = tmp_path / "whole"
    with monkeypatch.context() as patch:
        steps = stop_at(patch, 0)
        done = score(archive, whole, tiny_bundle, **options)
    assert set(steps) == {"sync", "name", "write"} and len(steps) > 40
    for n in range(1, len(steps) + 1):
        out = tmp_path / f"out{n}"
        with monkeypatch.context() as patch, pytest.raises(Stop):
            stop_at(patch, n)
            score(archive, out, tiny_bundle, **options)
        again = score(archive, out, tiny_bundle, **options)
        assert (again.n_articles, again.n_rejects) == (done.n_articles, done.n_rejects)
        assert scored(out) == scored(whole)
        assert rejected(out) == rejected(whole)
        assert {p.name for p in out.iterdir()} == {p.name for p in whole.iterdir()}


def test_a_run_stopped_again_and_again_ends_as_an_unbroken_one(
    archive, tiny_bundle, tmp_path, monkeypatch
):
    score(archive, tmp_path / "whole", tiny_bundle, shard_sentences=12)
    n_stops = 0
    while True:
        try:
            with monkeypatch.context() as patch:
                stop_at(patch, 7)
                done = score(archive, tmp_path / "out", tiny_bundle, shard_sentences=12)
            break
        except Stop:
            n_stops += 1
    assert n_stops > 4 and done.n_articles == 21
    assert scored(tmp_path / "out") == scored(tmp_path / "whole")
    assert rejected(tmp_path / "out") == rejected(tmp_path / "whole")


def test_a_finished_run_does_nothing(archive, tiny_bundle, tmp_path):
    out = tmp_path / "out"
    first = score(archive, out, tiny_bundle)
    before = {p.name: p.stat().st_mtime_ns for p in out.glob("[!.]*")}
    again = score(archive, out, tiny_bundle)
    assert again.was_finished and not first.was_finished
    assert str(again) == str(first)
    assert {p.name: p.stat().st_mtime_ns for p in out.glob("[!.]*")} == before
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["inputs"][0]["path"] == str(archive)
    assert manifest["inputs"][0]["n_files"] == 7
    assert len((out / "inputs.jsonl").read_text().splitlines()) == 7


def add_article(archive):
    (archive / "zz.txt").write_text("Talks stall.")


def change_article(archive):
    (archive / "d.txt").write_text("Talks stall.")


def touch_article(archive):
    os.utime(archive / "d.txt", ns=(0, 0))


def remove_article(archive):
    (archive / "d.txt").unlink()


CHANGED = {
    "text_field": ({"text_field": "body"}, None, "another text_field: text there, body now"),
    "id_field": ({"id_field": "key"}, None, "another id_field"),
    "abstain_below": ({"abstain_below": 0.5}, None, "another abstain_below: 0.0 there, 0.5 now"),
    "shard_sentences": ({"shard_sentences": 7}, None, "another shard_sentences"),
    "a further input": ({}, add_article, r"other inputs \(no further file there, .*zz.txt now\)"),
    "a changed input": ({}, change_article, r"other inputs \(.*d.txt has changed\)"),
    "a touched input": ({}, touch_article, r"other inputs \(.*d.txt has changed\)"),
    "a lost input": ({}, remove_article, r"other inputs \(.*d.txt there, .*e.html now\)"),
}


@pytest.mark.parametrize("is_finished", [False, True])
@pytest.mark.parametrize("name", CHANGED)
def test_another_task_in_the_same_folder_is_refused(
    name, is_finished, archive, tiny_bundle, tmp_path, monkeypatch
):
    shutil.move(archive / "more" / "f.txt", archive / "b.txt")
    if is_finished:
        score(archive, tmp_path / "out", tiny_bundle)
    else:
        with monkeypatch.context() as patch, pytest.raises(Stop):
            stop_at(patch, 8)
            score(archive, tmp_path / "out", tiny_bundle)
    options, change, expected = CHANGED[name]
    if change:
        change(archive)
    with pytest.raises(ConfigError, match=expected):
        score(archive, tmp_path / "out", tiny_bundle, **options)


def test_another_model_or_version_is_refused(archive, tiny_bundle, tmp_path, monkeypatch):
    score(archive, tmp_path / "out", tiny_bundle)
    moved = Path(shutil.copytree(tiny_bundle, tmp_path / "moved"))
    assert score(archive, tmp_path / "out", moved).was_finished
    (moved / "manifest.json").write_text((moved / "manifest.json").read_text() + "\n")
    with pytest.raises(ConfigError, match="another model_manifest_sha256"):
        score(archive, tmp_path / "out", moved)
    monkeypatch.setattr("stance.archive.run.__version__", "9.9")
    with pytest.raises(ConfigError, match="another stance_version"):
        score(archive, tmp_path / "out", tiny_bundle)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"abstain_below": float("nan")}, "abstain_below=nan"),
        ({"abstain_below": 2}, "from 0 to 1"),
        ({"shard_sentences": 0}, "1 or more"),
        ({"id_field": "text"}, "name two columns"),
    ],
)
def test_settings_out_of_range_are_refused(options, expected, archive, tiny_bundle, tmp_path):
    with pytest.raises(ConfigError, match=expected):
        score(archive, tmp_path / "out", tiny_bundle, **options)
    assert not (tmp_path / "out").exists()


def test_inputs_that_cannot_be_are_refused_before_anything_is_written(
    archive, tiny_bundle, tmp_path
):
    out = tmp_path / "out"
    for inputs, error, expected in [
        ([], ConfigError, "no inputs"),
        (["none.jsonl"], DataError, "no such file or folder"),
        ([archive / "notes.pdf"], DataError, "unknown kind '.pdf'"),
        ([archive, archive], ConfigError, "given twice"),
        ([archive / "more", archive], ConfigError, "given twice"),
        ([tmp_path / "out" / "x.txt"], ConfigError, "that is written to"),
    ]:
        with pytest.raises(error, match=expected):
            score(inputs, out, tiny_bundle)
    with pytest.raises(BundleError):
        score(archive, out, tmp_path / "none")
    assert not out.exists()
    (tmp_path / "bare").mkdir()
    with pytest.raises(DataError, match="holds no articles"):
        score(tmp_path / "bare", out, tiny_bundle)
    score(archive, out, tiny_bundle)


def test_a_folder_of_other_things_is_left_alone(archive, tiny_bundle, tmp_path):
    with pytest.raises(ConfigError, match="is a file"):
        score(archive, archive / "d.txt", tiny_bundle)
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.doc").write_text("x")
    with pytest.raises(ConfigError, match=r"other files \(thesis.doc\)"):
        score(archive, mine, tiny_bundle)
    assert [p.name for p in mine.iterdir()] == ["thesis.doc"]
    with pytest.raises(ConfigError, match="is not one of stance score"):
        score(archive, tiny_bundle, tiny_bundle)


def test_the_output_may_lie_inside_the_input(archive, tiny_bundle, tmp_path):
    out = archive / "out"
    done = score(archive, out, tiny_bundle)
    assert score(archive, out, tiny_bundle).was_finished
    assert done.n_articles == 21


def test_two_runs_in_one_folder_are_refused(archive, tiny_bundle, tmp_path, monkeypatch):
    predict = type(load(tiny_bundle)).predict_articles

    def meanwhile(*args, **options):
        with pytest.raises(ConfigError, match="at work"):
            score(archive, tmp_path / "out", tiny_bundle)
        return predict(*args, **options)

    monkeypatch.setattr(type(load(tiny_bundle)), "predict_articles", meanwhile)
    assert score(archive, tmp_path / "out", tiny_bundle).n_articles == 21


def test_what_was_damaged_since_is_named(archive, tiny_bundle, tmp_path, monkeypatch):
    out = tmp_path / "out"
    with monkeypatch.context() as patch, pytest.raises(Stop):
        stop_at(patch, 26)
        score(archive, out, tiny_bundle, shard_sentences=12)
    shards = sorted(out.glob("part-*"))
    assert len(shards) > 2
    shards[0].rename(tmp_path / "kept")
    with pytest.raises(ConfigError, match=r"part-00000\.parquet is missing"):
        score(archive, out, tiny_bundle, shard_sentences=12)
    (tmp_path / "kept").rename(shards[0])
    shards[-1].write_bytes(b"PAR1")
    with pytest.raises(DataError, match="damaged; remove it"):
        score(archive, out, tiny_bundle, shard_sentences=12)
    shards[-1].unlink()
    (out / "rejects.jsonl").write_text("")
    with pytest.raises(DataError, match="lines are missing"):
        score(archive, out, tiny_bundle, shard_sentences=12)
    shutil.rmtree(out)
    score(archive, out, tiny_bundle, shard_sentences=12)
    for path in sorted(out.glob("part-*"))[3:]:
        path.unlink()
    with pytest.raises(ConfigError, match="is missing"):
        score(archive, out, tiny_bundle, shard_sentences=12)
    (out / "manifest.json").write_text("{")
    with pytest.raises(ConfigError, match="damaged"):
        score(archive, out, tiny_bundle, shard_sentences=12)


def test_a_full_disk_is_one_error_and_the_run_goes_on(archive, tiny_bundle, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(pq, "write_table", full)
        with pytest.raises(DataError, match=r"No space left on device\); once it can"):
            score(archive, tmp_path / "out", tiny_bundle)
    assert score(archive, tmp_path / "out", tiny_bundle).n_articles == 21


@pytest.mark.parametrize("write", [write_jsonl, write_csv])
def test_tables_are_never_read_whole(write, tmp_path):
    rows = [{"article_id": str(i), "text": text_of(i) * 20} for i in range(5000)]
    path = write(tmp_path / ("t.csv" if write is write_csv else "t.jsonl"), rows)
    file = InputFile(str(path), path.name, path.stat().st_size, 0)
    assert file.size > 14e6
    tracemalloc.start()
    assert sum(1 for _ in read_articles([file], Position(), Fields())) == 5000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1e6


def test_a_parquet_file_with_empty_parts_is_read(tmp_path):
    table = pa.Table.from_pylist(rows_of(range(3)))
    with pq.ParquetWriter(tmp_path / "t.parquet", table.schema) as writer:
        for part in (table[:0], table[:2], table[:0], table[2:], table[:0]):
            writer.write_table(part)
    file = InputFile(str(tmp_path / "t.parquet"), "t.parquet", 99, 0)
    found = list(read_articles([file], Position(), Fields()))
    assert [a.article_id for a in found] == ["id0", "id1", "id2"]


@pytest.mark.parametrize("name", ["a.jsonl", "b.csv", "c.parquet"])
def test_reading_goes_on_after_any_article(name, archive):
    path = archive / name
    file = InputFile(str(path), name, path.stat().st_size, 0)
    found = list(read_articles([file], Position(), Fields()))
    assert found[-1].after.offset == file.size
    for i, article in enumerate(found):
        assert list(read_articles([file], article.after, Fields())) == found[i + 1 :]
