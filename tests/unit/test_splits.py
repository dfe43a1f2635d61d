import pytest

from stance import DataError
from stance.audit import audit, find_leakage
from stance.corpus import load_corpus
from stance.splits import near_copies, with_splits, with_train_share
from tests.conftest import small_rows, write_jsonl

LONG = "The two delegations met again in Geneva on Sunday and agreed on nothing at all of note."


def corpus_of(tmp_path, rows):
    return load_corpus(write_jsonl(tmp_path / "c.jsonl", rows))


def unsplit(rows):
    return [{k: v for k, v in r.items() if k != "split"} for r in rows]


def test_near_copies_are_found_and_others_not():
    texts = [
        LONG,
        LONG.replace("note", "weight"),
        LONG.upper(),
        "Rain fell on the town.",
        "No.",
    ]
    assert set(near_copies(texts)) == {(0, 1), (0, 2), (1, 2)}


def test_articles_events_and_copies_stay_together(tmp_path):
    rows = unsplit(small_rows(40))
    for r in rows:
        r["event"] = f"e{int(r['article_id'][1:]) // 2}"
    rows[0]["text"] = rows[-1]["text"] = LONG
    corpus = with_splits(corpus_of(tmp_path, rows), {"validation": 0.2, "test": 0.2}, seed=1)
    assert set(corpus.splits) == {"train", "validation", "test"}
    assert find_leakage(corpus) == []
    assert 0.1 < len(corpus.split("validation")) / len(corpus) < 0.35


def test_named_splits_are_kept(tmp_path):
    corpus = corpus_of(tmp_path, small_rows(16))
    assert with_splits(corpus, {"validation": 0.3, "test": 0.3}, seed=1).articles == corpus.articles


def test_half_named_splits_are_refused(tmp_path):
    rows = small_rows(8)
    for r in rows[:8]:
        del r["split"]
    with pytest.raises(DataError, match="names no split, others do"):
        with_splits(corpus_of(tmp_path, rows), {"validation": 0.2}, seed=1)


def test_too_few_groups_are_refused(tmp_path):
    with pytest.raises(DataError, match="too few"):
        with_splits(corpus_of(tmp_path, unsplit(small_rows(3))), {"validation": 0.1}, seed=1)


def test_audit_finds_each_planted_fault(tmp_path):
    rows = small_rows(24)
    assert audit(corpus_of(tmp_path, rows)).leakage == ()
    rows[0]["text"] = LONG
    rows[-1]["text"] = LONG + " Yes."
    for r in rows:
        if r["article_id"] in ("a000", "a003"):
            r["event"] = "summit"
    report = audit(corpus_of(tmp_path, rows))
    assert any("near copies" in line for line in report.leakage)
    assert any("event 'summit'" in line for line in report.leakage)
    assert any("near copies" in line for line in report.faults)


def test_audit_sees_labels_that_follow_from_names(tmp_path):
    rows = small_rows(24)
    for r in rows:
        name = {"obstructive": "Moscow", "optimistic": "Kyiv"}.get(r["label"], "They")
        r["text"] = f"{name} {r['text']}"
    assert any("actor names alone" in f for f in audit(corpus_of(tmp_path, rows)).faults)


def test_audit_asks_for_holder_and_certainty_where_holders_are_coded(tmp_path):
    rows = small_rows(12)
    stance = [r for r in rows if r["label"] != "none"]
    for r in stance:
        r.update(holder="russia", certainty="stated")
    assert not any("holder" in f for f in audit(corpus_of(tmp_path, rows)).faults)
    del stance[0]["certainty"]
    assert any("without holder or certainty" in f for f in audit(corpus_of(tmp_path, rows)).faults)


def test_a_share_of_train_is_part_of_every_larger_share_and_leaves_other_splits(tmp_path):
    rows = [
        {**r, "made": "retold" if r["article_id"] < "a020" else "composed"} for r in small_rows(40)
    ]
    corpus = load_corpus(write_jsonl(tmp_path / "d.jsonl", rows))
    parts = [
        set(with_train_share(corpus, share, seed=5).split("train").articles)
        for share in (0.2, 0.5, 1)
    ]
    assert parts[0] < parts[1] < parts[2]
    assert [len(p) for p in parts] == [4, 10, 20]
    small = with_train_share(corpus, 0.2, seed=5)
    assert set(small.split("test").articles) == set(corpus.split("test").articles)
    composed = with_train_share(corpus, 1, seed=5, made="composed").split("train")
    assert {a.made for a in composed.articles.values()} == {"composed"}
    with pytest.raises(DataError, match="made='typed'"):
        with_train_share(corpus, 1, seed=5, made="typed")
