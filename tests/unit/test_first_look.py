import shutil
from pathlib import Path

import numpy as np
import pytest

from stance import load
from stance.bundle import load_bundle, put_first_look
from stance.calibration import Calibration, label_shares
from stance.first_look import N_PAIRS, FirstLook, features

ARTICLES = [
    ["Talks on item 4 are deadlocked.", "The plan has 5 points and an annex.", "123 -- !?"],
    ["The delegations landed at 7 in the evening.", "Talks are stuck.", "Talks are stuck."],
]
PROBA = np.array([0.85, 0.05, 0.05, 0.05])


def first_look(tiny_bundle: Path) -> FirstLook:
    """Skips whatever lacks the word "talks"."""
    found = load_bundle(tiny_bundle)
    weights = np.zeros(found.tokenizer.get_vocab_size() + N_PAIRS, np.float32)
    weights[found.tokenizer.token_to_id("talks")] = 1.0
    y = np.array([0, 0, 1, 2])
    answers = np.eye(4)[[0, 0, 0, 2]]
    return FirstLook(weights, 0.01, PROBA, Calibration(answers, y, np.array([0, 0, 1, 1])))


@pytest.fixture(scope="module")
def bundle(tiny_bundle, tmp_path_factory) -> Path:
    folder = Path(shutil.copytree(tiny_bundle, tmp_path_factory.mktemp("looks") / "bundle"))
    put_first_look(folder, first_look(tiny_bundle))
    return folder


def test_features_count_tokens_and_neighbours_within_a_sentence():
    x = features([[1, 5, 5, 2], [], [1, 5]], n_words=10).toarray()
    scale = 7**-0.25
    assert x.shape == (3, 10 + N_PAIRS)
    assert x[0, :10] == pytest.approx(scale * np.array([0, 1, 1, 0, 0, 2, 0, 0, 0, 0]))
    assert x[0, 10:].sum() == pytest.approx(3 * scale)
    assert not x[1].any()
    shared = (x[0, 10:] > 0) & (x[2, 10:] > 0)
    assert shared.sum() == 1


def test_pairs_know_the_order_of_their_tokens_and_rows_do_not_depend_on_others():
    there, back = features([[3, 4], [4, 3]], 10).toarray()[:, 10:]
    assert not (there * back).any()
    both = features([[3, 4, 7], [4, 3]], 10)
    assert (both[1] != features([[4, 3]], 10)).nnz == 0


def test_skipped_sentences_share_the_stored_answer_and_the_rest_is_as_without(bundle):
    quick, full = (load(bundle, first_look=f).predict_articles(ARTICLES) for f in (True, False))
    is_skipped = [[s.is_skipped for s in a.sentences] for a in quick]
    assert is_skipped == [[False, True, False], [True, False, False]]
    assert not any(s.is_skipped for a in full for s in a.sentences)
    for one, other in zip(quick, full, strict=True):
        assert one.text == other.text
        for a, b in zip(one.sentences, other.sentences, strict=True):
            assert sum(a.scores.values()) == pytest.approx(1)
            assert (a.text, a.start, a.end) == (b.text, b.start, b.end)
            if a.is_skipped:
                assert (a.label, a.holder) == ("none", None)
                assert list(a.scores.values()) == pytest.approx(PROBA)
            else:
                assert (a.label, a.holder, a.holder_span) == (b.label, b.holder, b.holder_span)
                assert dict(a.scores) == pytest.approx(dict(b.scores), abs=1e-6)


def test_kept_sentences_have_the_same_bits_where_none_is_skipped(bundle):
    texts = [["Talks stall.", "Talks on 4 and 5 go on."]]
    quick, full = (load(bundle, first_look=f).predict_articles(texts)[0] for f in (True, False))
    assert quick == full


def test_only_archives_skip(bundle, tiny_bundle):
    model, bare = load(bundle), load(tiny_bundle)
    text = ARTICLES[0][1]
    assert not model.predict(text).is_skipped
    assert model.predict(text) == bare.predict(text)
    assert model.predict_article(ARTICLES[0]) == bare.predict_article(ARTICLES[0])
    assert model.predict_proba([text]).tolist() == bare.predict_proba([text]).tolist()


def test_everything_may_be_skipped(bundle):
    made = load(bundle).predict_articles([["A plan.", "A plan."], []])
    assert [s.is_skipped for s in made[0].sentences] == [True, True]
    assert made[1].sentences == ()


def test_the_model_is_loaded_once_with_and_without(bundle):
    assert load(bundle) is load(bundle)
    assert load(bundle, first_look=False)._backend is load(bundle)._backend
    assert load(bundle).looks_first


def test_a_bundle_without_one_reads_everything(tiny_bundle):
    model = load(tiny_bundle)
    assert model.first_look is None
    assert not model.looks_first
    assert not any(s.is_skipped for a in model.predict_articles(ARTICLES) for s in a.sentences)


def test_shares_are_corrected_for_the_errors_of_the_first_look_too(bundle):
    model = load(bundle)
    skipping = model.predict_articles(ARTICLES)
    assert model.label_shares(skipping) == label_shares(skipping, model.first_look.calibration)
    assert load(bundle, first_look=False).label_shares(skipping) == model.label_shares(skipping)
    full = [model.predict_article(a) for a in ARTICLES]
    assert model.label_shares(full) == label_shares(full, model.calibration)
