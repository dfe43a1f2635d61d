import json

import numpy as np
import pytest

from stance import DataError
from stance.corpus import load_corpus, require_classes

GOOD = {"article_id": "a", "index": 0, "text": "Talks stall.", "label": "obstructive"}
NEXT = {"article_id": "a", "index": 1, "text": "Rain fell.", "label": "none"}


def lines(*rows) -> bytes:
    return "".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows).encode()


def row(**changes) -> dict:
    return {k: v for k, v in {**NEXT, **changes}.items() if v is not ...}


# name of the file, its bytes, what the error must say
FAULTY = {
    "empty file": ("a.jsonl", b"", "no rows"),
    "blank lines only": ("a.jsonl", b"\n \n", "no rows"),
    "broken JSON": ("a.jsonl", lines(GOOD, '{"text": "x"'), "a.jsonl:2: broken JSON"),
    "trailing comma": ("a.jsonl", lines('{"text": "x",}'), ":1: broken JSON"),
    "a list": ("a.jsonl", lines(GOOD, "[1, 2]"), ":2: a list where an object"),
    "a string": ("a.jsonl", lines('"x"'), ":1: a str where an object"),
    "NaN": ("a.jsonl", lines('{"text": "x", "label": NaN}'), "broken JSON"),
    "deep nesting": ("a.jsonl", lines("[" * 100_000), "broken JSON"),
    "one JSON array": ("a.jsonl", b'[\n{"text": "x"}\n]', "broken JSON"),
    "unknown label": ("a.jsonl", lines(GOOD, row(label="optimist")), "unknown label 'optimist'"),
    "label in capitals": ("a.jsonl", lines(GOOD, row(label="None")), "unknown label 'None'"),
    "label a number": ("a.jsonl", lines(GOOD, row(label=3)), "label is 3"),
    "label null": ("a.jsonl", lines(GOOD, row(label=None)), "no 'label'"),
    "no label": ("a.jsonl", lines(GOOD, row(label=...)), ":2: no 'label'"),
    "no text": ("a.jsonl", lines(GOOD, row(text=...)), ":2: no 'text'"),
    "text a number": ("a.jsonl", lines(GOOD, row(text=5)), "text is 5"),
    "text empty": ("a.jsonl", lines(GOOD, row(text="  ")), "text is empty"),
    "an article as text": ("a.jsonl", lines(GOOD, row(text="x " * 20_000)), "split the article"),
    "doubled index": ("a.jsonl", lines(GOOD, NEXT, NEXT), "stands twice"),
    "gap in index": ("a.jsonl", lines(GOOD, row(index=2)), "follows a gap"),
    "index from one": ("a.jsonl", lines(row(index=1)), "follows a gap"),
    "negative index": ("a.jsonl", lines(row(index=-1)), "stands twice"),
    "index a float": ("a.jsonl", lines(GOOD, row(index=1.5)), "index is 1.5"),
    "index true": ("a.jsonl", lines(GOOD, row(index=True)), "index is True"),
    "unknown split": ("a.jsonl", lines(row(index=0, split="dev")), "unknown split 'dev'"),
    "article in two splits": (
        "a.jsonl",
        lines({**GOOD, "split": "train"}, row(split="test")),
        "one split",
    ),
    "unknown holder": ("a.jsonl", lines({**GOOD, "holder": "moscow"}), "unknown holder"),
    "holder on none": ("a.jsonl", lines(GOOD, row(holder="russia")), "leave it out"),
    "unknown certainty": ("a.jsonl", lines({**GOOD, "certainty": "sure"}), "unknown certainty"),
    "span elsewhere": ("a.jsonl", lines({**GOOD, "span": "Moscow"}), "not in the text"),
    "flag a word": ("a.jsonl", lines({**GOOD, "mixed": "maybe"}), "expected true or false"),
    "votes a word": ("a.jsonl", lines({**GOOD, "votes": "none"}), "expected a list"),
    "vote unknown": ("a.jsonl", lines({**GOOD, "votes": ["stuck"]}), "vote for 'stuck'"),
    "vote without label": ("a.jsonl", lines({**GOOD, "votes": [{}]}), "needs a label"),
    "vote twice the same": (
        "a.jsonl",
        lines({**GOOD, "votes": [{"label": "none", "label2": "none"}]}),
        "another label2",
    ),
    "confidence in percent": (
        "a.jsonl",
        lines({**GOOD, "votes": [{"label": "none", "confidence": 80}]}),
        "expected 0 to 1",
    ),
    "Latin-1": (
        "a.jsonl",
        lines(GOOD) + b'{"text": "caf\xe9", "label": "none"}\n',
        ":2: byte 0xe9",
    ),
    "UTF-16": ("a.jsonl", "x".encode("utf-16"), "UTF-16"),
    "NUL": ("a.jsonl", lines(GOOD) + b"\0\0", "NUL"),
    "lone surrogate": ("a.jsonl", lines(r'{"text": "\ud800", "label": "none"}'), "surrogate"),
    "unknown kind": ("a.xlsx", b"PK", "unknown kind '.xlsx'"),
    "CSV without label": ("a.csv", b"text\nTalks stall.\n", "no 'label'"),
    "CSV with too many cells": ("a.csv", b"text,label\nStuck, again,none\n", "more cells"),
    "CSV with an open quote": ("a.csv", b'text,label\n"Stuck,none\n', "broken CSV"),
    "CSV with a doubled column": ("a.csv", b"text,text,label\na,b,none\n", "stands twice"),
}


@pytest.mark.parametrize("name", FAULTY)
def test_faulty_file_gets_one_error_that_names_it(name, tmp_path):
    file, content, expected = FAULTY[name]
    path = tmp_path / file
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        load_corpus(path)
    assert str(path) in str(caught.value)
    assert expected in str(caught.value)


def test_there_are_at_least_forty_faulty_files():
    assert len(FAULTY) >= 40


def test_missing_file_and_folder_without_sentences(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        load_corpus(tmp_path / "none.jsonl")
    with pytest.raises(DataError, match=r"no sentences\.jsonl"):
        load_corpus(tmp_path)


@pytest.mark.parametrize("prefix", [b"", b"\xef\xbb\xbf"], ids=["plain", "BOM"])
@pytest.mark.parametrize("newline", [b"\n", b"\r\n"], ids=["LF", "CRLF"])
def test_bom_and_crlf_load_alike(tmp_path, prefix, newline):
    path = tmp_path / "a.jsonl"
    path.write_bytes(prefix + lines(GOOD, NEXT).replace(b"\n", newline))
    assert load_corpus(path).texts == ["Talks stall.", "Rain fell."]


def test_csv_and_foreign_labels_load(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('text,label\n"Rates, again, rose.",hawkish\nRates fell.,dovish\n')
    corpus = load_corpus(path)
    assert corpus.classes_ == ("dovish", "hawkish")
    assert corpus.texts[0] == "Rates, again, rose."
    assert len(corpus.articles) == 2


def test_one_class_cannot_be_trained_on(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(lines(GOOD))
    with pytest.raises(DataError, match="at least two labels"):
        require_classes(load_corpus(path), "split 'train'")


def test_folder_form_checks_both_files_against_each_other(tmp_path):
    (tmp_path / "sentences.jsonl").write_bytes(lines(GOOD, NEXT))
    (tmp_path / "articles.jsonl").write_bytes(lines({"article_id": "b"}))
    with pytest.raises(DataError, match=r"not in articles\.jsonl"):
        load_corpus(tmp_path)
    (tmp_path / "articles.jsonl").write_bytes(lines({"article_id": "a"}, {"article_id": "b"}))
    with pytest.raises(DataError, match="no sentence of article 'b'"):
        load_corpus(tmp_path)
    (tmp_path / "articles.jsonl").write_bytes(lines({"article_id": "a"}, {"article_id": "a"}))
    with pytest.raises(DataError, match="stands twice"):
        load_corpus(tmp_path)


def test_votes_become_soft_labels_as_the_codebook_says(tmp_path):
    votes = [
        {"annotator": "a", "label": "obstructive", "confidence": 0.8, "label2": "none"},
        {"annotator": "b", "label": "none", "confidence": 0.7},
        {"annotator": "adjudicator", "label": "obstructive"},
    ]
    path = tmp_path / "a.jsonl"
    path.write_bytes(lines({**GOOD, "votes": votes}))
    corpus = load_corpus(path)
    soft = dict(zip(corpus.classes_, corpus.soft_labels()[0], strict=True))
    assert soft == pytest.approx(
        {"none": 0.45, "optimistic": 0.05, "obstructive": 0.45, "conciliatory": 0.05}
    )


def test_contexts_are_the_sentences_before_in_the_same_article(tmp_path):
    path = tmp_path / "a.jsonl"
    other = {**GOOD, "article_id": "b", "text": "Snow fell."}
    path.write_bytes(lines(NEXT, other, GOOD))
    corpus = load_corpus(path)
    assert dict(zip(corpus.texts, corpus.contexts(), strict=True)) == {
        "Talks stall.": (),
        "Rain fell.": ("Talks stall.",),
        "Snow fell.": (),
    }


def test_datasets_hold_the_same_rows(small_data):
    corpus = load_corpus(small_data)
    parts = corpus.to_datasets()
    assert set(parts) == {"train", "validation", "test"}
    assert sum(len(p) for p in parts.values()) == len(corpus)
    train = corpus.split("train")
    assert parts["train"]["text"][:] == train.texts
    assert np.array_equal(parts["train"]["label"][:], train.y)
