import numpy as np
import pytest

from stance import BundleError, InputError, load
from stance.bundle import load_bundle
from stance.calibration import Calibration, label_shares
from stance.classifier import StanceClassifier
from stance.metrics import risk_coverage
from stance.records import ArticlePrediction, Prediction

CLASSES = ("none", "optimistic", "obstructive", "conciliatory")
# Rows true, columns predicted: a model that overlooks stances.
ERRORS = np.array(
    [
        [0.92, 0.02, 0.03, 0.03],
        [0.4, 0.55, 0.01, 0.04],
        [0.45, 0.02, 0.5, 0.03],
        [0.4, 0.05, 0.05, 0.5],
    ]
)


def draw_articles(rng, n_articles, shares, n_sentences=15):
    """True and predicted labels, articles differing in how much stance they hold."""
    y, predicted, group = [], [], []
    for article in range(n_articles):
        own = rng.dirichlet(20 * np.asarray(shares))
        labels = rng.choice(4, n_sentences, p=own)
        y.append(labels)
        predicted.append([rng.choice(4, p=ERRORS[label]) for label in labels])
        group.append(np.full(n_sentences, article))
    return np.concatenate(y), np.concatenate(predicted), np.concatenate(group)


def calibration_of(y, predicted, group):
    return Calibration(np.eye(4)[predicted] * 0.9 + 0.025, y, group)


def articles_of(predicted, group):
    made = []
    for article in np.unique(group):
        labels = [CLASSES[p] for p in predicted[group == article]]
        sentences = tuple(
            Prediction("x", label, 1.0, {c: float(c == label) for c in CLASSES}) for label in labels
        )
        made.append(ArticlePrediction("", sentences, CLASSES))
    return made


def test_shares_are_corrected_toward_the_truth():
    rng = np.random.default_rng(0)
    calibration = calibration_of(*draw_articles(rng, 300, [0.7, 0.1, 0.1, 0.1]))
    y, predicted, group = draw_articles(rng, 300, [0.4, 0.1, 0.4, 0.1])
    found = label_shares(articles_of(predicted, group), calibration, n_resamples=200)
    truth = (y == 2).mean()
    share = found["obstructive"]
    assert share.counted < truth - 0.1
    assert share.value == pytest.approx(truth, abs=0.05)
    assert share.low < truth < share.high
    assert sum(s.value for s in found.values()) == pytest.approx(1)


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    rng = np.random.default_rng(1)
    hits = []
    for _ in range(100):
        shares = rng.dirichlet([14, 2, 2, 2])
        calibration = calibration_of(*draw_articles(rng, 80, [0.7, 0.1, 0.1, 0.1]))
        _, predicted, group = draw_articles(rng, 40, shares)
        found = label_shares(articles_of(predicted, group), calibration, n_resamples=200)
        hits += [found[c].low <= s <= found[c].high for c, s in zip(CLASSES, shares, strict=True)]
    assert np.mean(hits) >= 0.9


def test_no_sentences_have_no_shares():
    calibration = calibration_of(*draw_articles(np.random.default_rng(0), 5, [0.25] * 4))
    with pytest.raises(InputError, match="no sentences"):
        label_shares([ArticlePrediction("", (), CLASSES)], calibration)


def test_risk_and_coverage_by_hand():
    proba = np.array([[0.9, 0.1], [0.2, 0.8], [0.7, 0.3], [0.7, 0.3]])
    coverage, risk, threshold = risk_coverage([0, 0, 0, 1], proba)
    assert coverage.tolist() == [0.25, 0.5, 1.0]
    assert risk.tolist() == [0.0, 0.5, 0.5]
    assert threshold.tolist() == [0.9, 0.8, 0.7]


def test_threshold_keeps_the_risk_and_says_where_it_can_not():
    rng = np.random.default_rng(2)
    proba = rng.dirichlet([1, 1, 1, 1], 500)
    y = np.array([rng.choice(4, p=p) for p in proba])
    calibration = Calibration(proba, y, np.arange(500))
    threshold = calibration.threshold_for(0.2)
    kept = proba.max(1) >= threshold
    assert (proba.argmax(1) != y)[kept].mean() <= 0.2
    assert 0 < kept.mean() < 1
    wrong = Calibration(proba, (proba.argmax(1) + 1) % 4, np.arange(500))
    with pytest.raises(InputError, match="no threshold"):
        wrong.threshold_for(0.1)


def test_prediction_sets_hold_the_truth_as_often_as_asked():
    rng = np.random.default_rng(3)
    proba = rng.dirichlet([0.5] * 4, 3000)
    y = np.array([rng.choice(4, p=p) for p in proba])
    calibration = Calibration(proba[:1500], y[:1500], np.arange(1500))
    for level in (0.8, 0.95):
        sets = calibration.prediction_sets(proba[1500:], level)
        assert sets.shape == (1500, 4)
        held = sets[np.arange(1500), y[1500:]].mean()
        assert held == pytest.approx(level, abs=0.035)


def test_abstaining_is_an_answer_of_its_own(tiny_bundle):
    model = load(tiny_bundle)
    sure = model.predict("Talks on item 5 are deadlocked.")
    assert sure.label in CLASSES
    unsure = model.predict("Talks on item 5 are deadlocked.", abstain_below=1.0)
    assert unsure.label == "abstained" and unsure.holder is None
    assert unsure.scores == sure.scores and unsure.label_of_scores == sure.label
    article = model.predict_article(["Talks stall.", "Rain fell."], abstain_below=1.0)
    assert article.counts["abstained"] == 2 and article.stance_sentences == ()
    shares = model.label_shares([article])
    assert sum(s.counted for s in shares.values()) == pytest.approx(1)
    assert 0 <= model.threshold_for(0.9) <= 1


def test_a_bundle_without_calibration_says_so(tiny_bundle):
    full = load_bundle(tiny_bundle)
    bare = StanceClassifier(full.model, full.spec, full.tokenizer)
    with pytest.raises(BundleError, match="no calibration"):
        bare.threshold_for(0.1)
