import json

import numpy as np
import pytest
from sklearn import metrics as sk

from stance import DataError, load
from stance.corpus import load_corpus
from stance.evaluation import evaluate, report_on
from stance.predictions import read_predictions
from stance.report import markdown_table, to_markdown, write_report
from tests.conftest import small_rows, write_jsonl


@pytest.fixture
def corpus(small_data):
    return load_corpus(small_data)


def noisy(corpus, seed=0):
    rng = np.random.default_rng(seed)
    proba = rng.dirichlet(np.ones(4), len(corpus))
    proba[np.arange(len(corpus)), corpus.y] += rng.random(len(corpus))
    return proba / proba.sum(1, keepdims=True)


def test_report_figures_equal_scikit_learn_and_lie_in_their_intervals(corpus):
    proba = noisy(corpus)
    report = report_on(corpus, proba, n_resamples=200)
    y_pred = proba.argmax(1)
    f1 = sk.f1_score(corpus.y, y_pred, average=None)
    assert report.measures["macro_f1"].value == pytest.approx(f1.mean(), abs=1e-12)
    assert report.measures["f_stance"].value == pytest.approx(f1[1:].mean(), abs=1e-12)
    assert report.confusion == sk.confusion_matrix(corpus.y, y_pred).tolist()
    for name, measure in report.measures.items():
        if name != "ece":  # absolute gaps of resamples are biased upwards
            assert measure.low <= measure.value <= measure.high, name
    assert report.per_label["none"]["support"] == (corpus.y == 0).sum()
    assert set(report.slices["genre"]) == {"wire", "op_ed"}


def test_perfect_predictions_are_perfect(corpus):
    report = report_on(corpus, np.eye(4)[corpus.y], n_resamples=50)
    assert report.measures["macro_f1"].value == report.measures["mcc"].value == 1.0
    assert report.measures["ece"].value == report.measures["brier"].value == 0.0


def test_intervals_are_clustered_by_article(tmp_path):
    rows = [{**r, "text": f"{r['text']} {i}"} for i, r in enumerate(small_rows(8))]
    corpus = load_corpus(write_jsonl(tmp_path / "d.jsonl", rows))
    right = np.array([int(s.article_id[1:]) % 2 == 0 for s in corpus.sentences])
    proba = np.eye(4)[np.where(right, corpus.y, (corpus.y + 1) % 4)]
    clustered = report_on(corpus, proba).measures["accuracy"]
    assert clustered.high - clustered.low > 0.5  # 8 articles, all or nothing; by sentence: 0.24


def test_predictions_file_gives_the_same_report(corpus, tmp_path):
    proba = noisy(corpus)
    path = tmp_path / "p.jsonl"
    lines = [
        json.dumps(
            {
                "article_id": s.article_id,
                "index": s.index,
                "label": corpus.classes_[p.argmax()],
                "scores": dict(zip(corpus.classes_, p.tolist(), strict=True)),
            }
        )
        for s, p in zip(corpus.sentences, proba, strict=True)
    ]
    path.write_text("\n".join(lines))
    assert np.allclose(read_predictions(path, corpus), proba)
    path.write_text("\n".join(lines[:-1]))
    with pytest.raises(DataError, match="no prediction for sentence"):
        read_predictions(path, corpus)
    for bad in (
        '{"index": 1}',
        "[]",
        '{"article_id": "a", "index": 0, "label": "x"}',
        "{",
        lines[0],
    ):
        path.write_text("\n".join([lines[0], bad]))
        with pytest.raises(DataError, match=r"p\.jsonl:2"):
            read_predictions(path, corpus)


def test_model_and_data_must_speak_of_the_same_labels(tiny_bundle, tmp_path):
    rows = [{"text": f"Rates {i} rose.", "label": ("hawkish", "dovish")[i % 2]} for i in range(10)]
    corpus = load_corpus(write_jsonl(tmp_path / "f.jsonl", rows))
    with pytest.raises(DataError, match="but the model knows"):
        evaluate(load(tiny_bundle), corpus)
    with pytest.raises(DataError, match="no split 'test'"):
        evaluate(load(tiny_bundle), corpus, split="test")


def test_report_is_written_as_json_markdown_and_png(corpus, tmp_path):
    report = report_on(corpus, noisy(corpus), n_resamples=50)
    paths = write_report(report, tmp_path)
    assert [p.suffix for p in paths] == [".json", ".md", ".png"]
    assert json.loads(paths[0].read_text())["measures"]["macro_f1"]["value"] > 0
    assert "| macro_f1 |" in to_markdown(report)
    assert paths[2].read_bytes().startswith(b"\x89PNG")


def test_markdown_table():
    assert markdown_table(["a", "b"], [["x", 0.5]]) == "| a | b |\n| --- | --- |\n| x | 0.500 |"
