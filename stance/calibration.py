"""What a model's errors on its validation split say: thresholds for abstaining, honest shares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stance import metrics
from stance.errors import InputError, MissingPackageError
from stance.records import ArticlePrediction

Floats = NDArray[np.float64]
_N_EM_STEPS = 300


@dataclass(frozen=True)
class Share:
    """The share of sentences with a label: as counted, and corrected with a 95 % interval."""

    counted: float
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Calibration:
    """Calibrated answers on the validation split.

    Attributes
    ----------
    proba : shape (n, n_classes).
    y : label ids, shape (n,).
    group : number of each sentence's article, shape (n,).
    """

    proba: Floats
    y: NDArray[np.int64]
    group: NDArray[np.int64]

    def threshold_for(self, risk: float) -> float:
        """The least score at or above which at most `risk` of validation answers are wrong.

        Raises
        ------
        InputError : no threshold is that safe.
        """
        _, found, threshold = metrics.risk_coverage(self.y, self.proba)
        safe = np.flatnonzero(found <= risk)
        if not len(safe):
            raise InputError(f"no threshold has an error rate of {risk:.3g} or less on validation")
        return float(threshold[safe[-1]])

    def confusions(self) -> Floats:
        """Confusion of each article, shape (n_articles, n_classes, n_classes)."""
        names = [str(g) for g in self.group]
        return metrics.group_confusions(self.y, self.proba.argmax(1), names, self.proba.shape[1])

    def prediction_sets(self, proba: Floats, confidence_level: float = 0.9) -> NDArray[np.bool_]:
        """Conformal sets: which labels can't be excluded, shape (n, n_classes), by MAPIE.

        The sets hold the true label with probability `confidence_level` where sentences are
        exchangeable with validation ones. Method: least ambiguous sets (Sadinle et al. 2019).

        Raises
        ------
        MissingPackageError : MAPIE is not installed.
        """
        try:
            from mapie.classification import SplitConformalClassifier
        except ImportError as err:
            raise MissingPackageError(
                "prediction sets need MAPIE: pip install 'peace-stance[conformal]'"
            ) from err
        sets = SplitConformalClassifier(
            _Given(self.proba.shape[1]),
            confidence_level=confidence_level,
            conformity_score="lac",
            prefit=True,
        )
        sets.conformalize(self.proba, self.y)
        found: NDArray[np.bool_] = sets.predict_set(proba)[1][:, :, 0]
        return found


class _Given:
    """A fitted estimator in scikit-learn's sense whose inputs are probabilities already."""

    def __init__(self, n_classes: int) -> None:
        self.classes_ = np.arange(n_classes)

    def fit(self, x: Floats, y: NDArray[np.int64]) -> _Given:
        return self

    def predict(self, x: Floats) -> NDArray[np.int64]:
        return np.asarray(x).argmax(1)

    def predict_proba(self, x: Floats) -> Floats:
        return np.asarray(x)

    def __sklearn_is_fitted__(self) -> bool:
        return True


def label_shares(
    articles: Sequence[ArticlePrediction],
    calibration: Calibration,
    n_resamples: int = 2000,
    seed: int = 13,
) -> dict[str, Share]:
    """The share of each label among the sentences of some articles, corrected for known errors.

    Counting labels is biased: what a model finds is a mixture of what is there and of its errors.
    Given how often each true label is taken for each other one on validation, the likeliest true
    shares are found by expectation maximisation (Vardi and Lee 1993); the interval draws again
    both the articles and the validation articles. It holds where the model errs on these articles
    as it did on validation.

    Raises
    ------
    InputError : no sentences.
    """
    if not any(a.sentences for a in articles):
        raise InputError("no sentences to count")
    classes = articles[0].classes_
    counts = np.array(
        [[sum(s.label_of_scores == c for s in a.sentences) for c in classes] for a in articles],
        dtype=np.float64,
    )
    known = calibration.confusions()
    counted = counts.sum(0) / counts.sum()
    value = _true_shares(counts.sum(0)[None], known.sum(0)[None])[0]
    of_articles = metrics.bootstrap_weights(len(counts), n_resamples, seed) @ counts
    drawn = np.tensordot(metrics.bootstrap_weights(len(known), n_resamples, seed + 1), known, 1)
    samples = _true_shares(of_articles, drawn)
    low, high = np.quantile(samples, [0.025, 0.975], axis=0)
    return {
        label: Share(float(counted[i]), float(value[i]), float(low[i]), float(high[i]))
        for i, label in enumerate(classes)
    }


def _true_shares(counts: Floats, confusion: Floats) -> Floats:
    """Shares (m, k) that make counted labels (m, k) likeliest under confusions (m, k, k)."""
    given_true = (confusion + 1e-3) / (confusion + 1e-3).sum(2, keepdims=True)
    observed = counts / counts.sum(1, keepdims=True)
    shares = np.full(counts.shape, 1 / counts.shape[1])
    for _ in range(_N_EM_STEPS):
        expected = np.einsum("mt,mtp->mp", shares, given_true)
        shares = shares * np.einsum("mtp,mp->mt", given_true, observed / expected)
    return shares / shares.sum(1, keepdims=True)
