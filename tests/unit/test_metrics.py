import warnings

import numpy as np
import pytest
from sklearn import metrics as sk

from stance import metrics

N_CASES = 10_000


def test_figures_equal_scikit_learn_on_ten_thousand_random_cases():
    rng = np.random.default_rng(0)
    worst = 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(N_CASES):
            n_classes = int(rng.integers(2, 6))
            n = int(rng.integers(1, 60))
            y_true = rng.integers(0, n_classes, n)
            y_pred = np.where(rng.random(n) < 0.5, y_true, rng.integers(0, n_classes, n))
            matrix = metrics.confusion(y_true, y_pred, n_classes)
            ours = metrics.precision_recall_f1(matrix)
            theirs = sk.precision_recall_fscore_support(
                y_true, y_pred, labels=range(n_classes), zero_division=0
            )
            gaps = [np.abs(a - b).max() for a, b in zip(ours, theirs, strict=False)]
            gaps.append(abs(metrics.macro_f1(matrix) - theirs[2].mean()))
            gaps.append(abs(metrics.weighted_f1(matrix) - np.average(theirs[2], weights=theirs[3])))
            gaps.append(abs(metrics.accuracy(matrix) - sk.accuracy_score(y_true, y_pred)))
            gaps.append(abs(metrics.mcc(matrix) - sk.matthews_corrcoef(y_true, y_pred)))
            gaps.append(
                abs(
                    metrics.stance_f1(0)(matrix)
                    - sk.f1_score(y_true != 0, y_pred != 0, zero_division=0)
                )
            )
            worst = max(worst, *map(float, gaps))
    assert worst <= 1e-12


def test_proper_scores_equal_scikit_learn():
    rng = np.random.default_rng(1)
    for _ in range(200):
        proba = rng.dirichlet(np.ones(4), 30)
        y = rng.integers(0, 4, 30)
        hard = np.eye(4)[y]
        loss = sk.log_loss(y, proba, labels=range(4))
        assert metrics.cross_entropy(hard, proba).mean() == pytest.approx(loss, abs=1e-12)
        brier = sk.brier_score_loss(y, proba, labels=range(4), scale_by_half=False)
        assert metrics.brier(hard, proba).mean() == pytest.approx(brier, abs=1e-12)


def test_ece_of_a_known_case():
    proba = np.array([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.6, 0.4]])
    # bin of 0.9: one of two right; bin of 0.6: both right
    assert metrics.ece([0, 1, 0, 0], proba) == pytest.approx(0.5 * 0.4 + 0.5 * 0.4)


def test_group_confusions_add_up_to_the_whole():
    rng = np.random.default_rng(2)
    y_true, y_pred = rng.integers(0, 4, (2, 500))
    groups = [f"g{i}" for i in rng.integers(0, 30, 500)]
    parts = metrics.group_confusions(y_true, y_pred, groups, 4)
    assert (parts.sum(0) == metrics.confusion(y_true, y_pred, 4)).all()
    assert len(parts) == len(set(groups))


def test_clustered_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(3)
    n_covered = 0
    for trial in range(300):
        hits = rng.binomial(10, np.clip(rng.normal(0.7, 0.1, 40), 0, 1))
        matrices = np.array([[[h, 10 - h], [0, 0]] for h in hits], dtype=float)
        weights = metrics.bootstrap_weights(40, 400, trial)
        low, high = metrics.interval(metrics.accuracy(np.tensordot(weights, matrices, 1)))
        n_covered += low <= 0.7 <= high
    assert n_covered / 300 >= 0.90
