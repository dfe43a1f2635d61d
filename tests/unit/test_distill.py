import shutil
from pathlib import Path

import numpy as np
import pytest

from stance import DataError, distill, load, metrics
from stance.bundle import put_first_look
from stance.corpus import load_corpus
from stance.distill import MAX_LOSS, choose_threshold, fit_first_look
from tests.conftest import small_rows, write_jsonl


def validation(n: int, seed: int = 0):
    """A model that is right nine times of ten, and its article numbers."""
    rng = np.random.default_rng(seed)
    y = rng.choice(4, n, p=[0.7, 0.1, 0.1, 0.1])
    said = np.where(rng.random(n) < 0.9, y, rng.integers(0, 4, n))
    proba = 0.1 * np.full((n, 4), 0.25) + 0.9 * np.eye(4)[said]
    return y, proba, np.arange(n) // 10, rng


def loss(scores, threshold, y, proba):
    measure = metrics.mean_f1_of([1, 2, 3])
    y_pred = proba.argmax(1)
    after = np.where(scores < threshold, 0, y_pred)
    return measure(metrics.confusion(y, y_pred, 4)) - measure(metrics.confusion(y, after, 4))


def test_scores_that_tell_let_most_none_be_skipped_at_little_loss():
    y, proba, groups, rng = validation(3000)
    scores = ((y > 0) * 2.0 + rng.normal(0, 0.5, len(y))).astype(np.float32)
    threshold = choose_threshold(scores, proba, y, groups, none=0)
    assert 0.5 < (scores < threshold).mean() < 0.8
    assert loss(scores, threshold, y, proba) <= MAX_LOSS


def test_scores_that_tell_nothing_let_next_to_nothing_be_skipped():
    y, proba, groups, rng = validation(3000)
    scores = rng.normal(0, 1, len(y)).astype(np.float32)
    threshold = choose_threshold(scores, proba, y, groups, none=0)
    assert (scores < threshold).mean() < 0.05


def test_scores_upside_down_let_nothing_be_skipped():
    y, proba, groups, _ = validation(3000)
    scores = -y.astype(np.float32)
    assert not (scores < choose_threshold(scores, proba, y, groups, none=0)).any()


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "large.jsonl"
    return load_corpus(write_jsonl(path, small_rows(160, seed=5)))


@pytest.fixture
def bundle(tiny_bundle, tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(distill, "_MIN_ARTICLES", 1)
    return Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))


def test_a_fitted_look_skips_what_it_says_it_skips(bundle, corpus):
    found = fit_first_look(bundle, corpus)
    assert found is not None
    put_first_look(bundle, found)
    part = corpus.split("validation")
    articles = {g: [s.text for s in part.sentences if s.article_id == g] for g in part.articles}
    made = [p for a in load(bundle).predict_articles(articles.values()) for p in a.sentences]
    is_skipped = np.array([p.is_skipped for p in made])
    assert 0 < is_skipped.mean() <= 1
    answers = np.array([list(p.scores.values()) for p in made])
    assert answers == pytest.approx(found.calibration.proba, abs=1e-5)
    assert found.proba.sum() == pytest.approx(1)
    assert (answers[is_skipped].argmax(1) == 0).all()


def test_weights_separate_what_the_model_separates(corpus):
    texts = corpus.texts
    ids = [[hash_of[w] for w in t.split()] for hash_of in [_ids(texts)] for t in texts]
    is_stance = (corpus.y != 0).astype(float)
    proba = np.stack([1 - 0.9 * is_stance - 0.05, *[(0.9 * is_stance + 0.05) / 3] * 3], 1)
    words = np.random.default_rng(0).normal(size=(5000, 4))
    x = distill.features(ids, len(words))
    groups = np.unique(corpus.groups, return_inverse=True)[1]
    scores = x @ distill._fit(distill._Part(x, proba, corpus.y, groups), words, 0)
    assert scores[is_stance == 1].min() > scores[is_stance == 0].max()


def _ids(texts):
    return {w: i for i, w in enumerate(sorted({w for t in texts for w in t.split()}))}


def test_too_little_data_gives_none(tiny_bundle, small_data):
    assert fit_first_look(tiny_bundle, load_corpus(small_data)) is None


def test_other_labels_are_refused(tiny_bundle, tmp_path):
    rows = [{"text": f"Text {i}.", "label": "ab"[i % 2], "split": "train"} for i in range(4)]
    with pytest.raises(DataError, match="the model knows"):
        fit_first_look(tiny_bundle, load_corpus(write_jsonl(tmp_path / "d.jsonl", rows)))


def test_a_missing_split_is_refused(tiny_bundle, tmp_path):
    rows = [r for r in small_rows(8) if r["split"] == "train"]
    with pytest.raises(DataError, match="no split 'validation'"):
        fit_first_look(tiny_bundle, load_corpus(write_jsonl(tmp_path / "d.jsonl", rows)))
