"""Measures of classification quality, as pure functions of arrays.

Everything that can be had from confusion matrices is computed on stacks of them, so a bootstrap
over articles is one matrix product. Definitions equal scikit-learn's with `zero_division=0`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


def confusion(y_true: ArrayLike, y_pred: ArrayLike, n_classes: int) -> Floats:
    """Counts, shape (n_classes, n_classes): rows true, columns predicted."""
    pairs = np.asarray(y_true, dtype=np.int64) * n_classes + np.asarray(y_pred, dtype=np.int64)
    counts = np.bincount(pairs, minlength=n_classes * n_classes)
    return counts.reshape(n_classes, n_classes).astype(np.float64)


def _ratio(numerator: Floats, denominator: Floats) -> Floats:
    out = np.zeros(np.broadcast_shapes(numerator.shape, denominator.shape))
    return np.divide(numerator, denominator, out=out, where=denominator > 0)


def precision_recall_f1(matrix: Floats) -> tuple[Floats, Floats, Floats]:
    """Per label, (..., n_classes) each, from confusions (..., n_classes, n_classes)."""
    hits = np.diagonal(matrix, axis1=-2, axis2=-1)
    n_true, n_predicted = matrix.sum(-1), matrix.sum(-2)
    return (
        _ratio(hits, n_predicted),
        _ratio(hits, n_true),
        _ratio(2 * hits, n_true + n_predicted),
    )


def accuracy(matrix: Floats) -> Floats:
    """Share of right answers, shape (...)."""
    return _ratio(np.trace(matrix, axis1=-2, axis2=-1), matrix.sum((-2, -1)))


def macro_f1(matrix: Floats) -> Floats:
    """Unweighted mean of F1 over all labels, shape (...)."""
    return precision_recall_f1(matrix)[2].mean(-1)


def weighted_f1(matrix: Floats) -> Floats:
    """Mean of F1 weighted by true counts, shape (...)."""
    n_true = matrix.sum(-1)
    return _ratio((precision_recall_f1(matrix)[2] * n_true).sum(-1), n_true.sum(-1))


def mean_f1_of(labels: Sequence[int]) -> Callable[[Floats], Floats]:
    """A measure: mean F1 over some label ids (`f_stance`: the three stances)."""
    return lambda matrix: precision_recall_f1(matrix)[2][..., list(labels)].mean(-1)


def stance_f1(none_id: int) -> Callable[[Floats], Floats]:
    """A measure: F1 of finding a stance at all, whichever it is, against `none`."""

    def measure(matrix: Floats) -> Floats:
        found = np.delete(np.delete(matrix, none_id, -2), none_id, -1).sum((-2, -1))
        n_true = np.delete(matrix, none_id, -2).sum((-2, -1))
        n_predicted = np.delete(matrix, none_id, -1).sum((-2, -1))
        return _ratio(2 * found, n_true + n_predicted)

    return measure


def mcc(matrix: Floats) -> Floats:
    """Matthews correlation, many classes, shape (...). Source: Gorodkin 2004, R_K statistic."""
    n_true, n_predicted = matrix.sum(-1), matrix.sum(-2)
    total = matrix.sum((-2, -1))
    covariance = np.trace(matrix, axis1=-2, axis2=-1) * total - (n_true * n_predicted).sum(-1)
    spread = (total**2 - (n_predicted**2).sum(-1)) * (total**2 - (n_true**2).sum(-1))
    return _ratio(covariance, np.sqrt(spread))


def softmax(logits: Floats) -> Floats:
    """Rows to probabilities, shape (n, n_classes)."""
    shifted = np.exp(logits - logits.max(1, keepdims=True)) if len(logits) else logits
    return shifted / shifted.sum(1, keepdims=True)


def cross_entropy(target: Floats, proba: Floats) -> Floats:
    """Cross-entropy in nats of each row: target and proba of shape (n, n_classes) -> (n,)."""
    return -(target * np.log(np.clip(proba, 1e-12, 1.0))).sum(1)


def brier(target: Floats, proba: Floats) -> Floats:
    """Squared distance of each row, in [0, 2]: (n, n_classes) twice -> (n,). Brier 1950."""
    return ((target - proba) ** 2).sum(1)


def confidence_bins(proba: Floats, n_bins: int) -> NDArray[np.int64]:
    """Equal-width bin of each row's top probability, (n,): bin b holds (b/n_bins, (b+1)/n_bins]."""
    return np.clip(np.ceil(proba.max(1) * n_bins).astype(np.int64) - 1, 0, n_bins - 1)


def reliability(
    y_true: ArrayLike, proba: Floats, n_bins: int = 10
) -> tuple[Floats, Floats, NDArray[np.int64]]:
    """Mean confidence, accuracy and count of equal-width bins of the top probability, (n_bins,)."""
    confidence = proba.max(1)
    is_right = (proba.argmax(1) == np.asarray(y_true)).astype(np.float64)
    bins = confidence_bins(proba, n_bins)
    n = np.bincount(bins, minlength=n_bins)
    total = n.astype(np.float64)
    return (
        _ratio(np.bincount(bins, confidence, n_bins).astype(np.float64), total),
        _ratio(np.bincount(bins, is_right, n_bins).astype(np.float64), total),
        n,
    )


def ece(y_true: ArrayLike, proba: Floats, n_bins: int = 10) -> float:
    """Expected calibration error of the top label, in [0, 1]. Source: Guo et al. 2017, eq. 3."""
    confidence, right, n = reliability(y_true, proba, n_bins)
    return float((n * np.abs(confidence - right)).sum() / max(1, n.sum()))


def risk_coverage(y_true: ArrayLike, proba: Floats) -> tuple[Floats, Floats, Floats]:
    """What answering only above a threshold costs and saves, (n_thresholds,) each.

    Coverage (share answered), risk (share of those that are wrong) and threshold (on the top
    probability), for every threshold that occurs, from the highest on. Source: El-Yaniv and Wiener
    2010.
    """
    confidence = proba.max(1)
    order = np.argsort(-confidence, kind="stable")
    is_wrong = (proba.argmax(1) != np.asarray(y_true))[order]
    threshold = confidence[order]
    last = np.append(np.flatnonzero(np.diff(threshold)), len(threshold) - 1)
    n = np.arange(1, len(threshold) + 1)
    return (n / len(n))[last], (np.cumsum(is_wrong) / n)[last], threshold[last]


def bootstrap_weights(n_groups: int, n_resamples: int, seed: int) -> Floats:
    """How often each group is drawn, shape (n_resamples, n_groups); rows sum to n_groups."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(n_groups, np.full(n_groups, 1 / n_groups), n_resamples).astype(
        np.float64
    )


def group_confusions(
    y_true: ArrayLike, y_pred: ArrayLike, groups: Sequence[str], n_classes: int
) -> Floats:
    """One confusion a group, shape (n_groups, n_classes, n_classes), in sorted group order."""
    names, ids = np.unique(np.asarray(groups), return_inverse=True)
    y_true, y_pred = np.asarray(y_true, np.int64), np.asarray(y_pred, np.int64)
    cells = (ids * n_classes + y_true) * n_classes + y_pred
    counts = np.bincount(cells, minlength=len(names) * n_classes**2)
    return counts.reshape(len(names), n_classes, n_classes).astype(np.float64)


def interval(samples: Floats, level: float = 0.95) -> tuple[float, float]:
    """Percentile interval of bootstrap samples. Source: Efron and Tibshirani 1993, ch. 13."""
    low, high = np.quantile(samples, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def permutation_p(
    of: Callable[[Floats], Floats],
    one: Floats,
    other: Floats,
    n_permutations: int = 10_000,
    seed: int = 13,
) -> float:
    """Two-sided p of the difference in a measure between two systems on the same articles.

    In each permutation every article's predictions change hands or not, all seeds of it together.
    Source: Noreen 1989 (approximate randomization), with articles as units.

    Parameters
    ----------
    of : the measure, a function of confusions.
    one, other : confusions of each seed and article, (n_seeds, n_articles, n_classes, n_classes).
    """
    gap = other - one
    rng = np.random.default_rng(seed)
    swaps = rng.integers(0, 2, (n_permutations, one.shape[1])).astype(np.float64)

    def difference(moved: Floats) -> Floats:
        return (of(one.sum(1)[:, None] + moved) - of(other.sum(1)[:, None] - moved)).mean(0)

    moved = np.stack([np.tensordot(swaps, g, 1) for g in gap])
    observed = abs(difference(np.zeros_like(moved[:, :1])))
    n_extreme = int((np.abs(difference(moved)) >= observed - 1e-12).sum())
    return (1 + n_extreme) / (1 + n_permutations)


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values corrected for their number. Source: Holm 1979."""
    order = np.argsort(p_values)
    corrected = np.empty(len(p_values))
    running = 0.0
    for rank, index in enumerate(order):
        running = max(running, (len(p_values) - rank) * p_values[index])
        corrected[index] = min(1.0, running)
    return [float(p) for p in corrected]
