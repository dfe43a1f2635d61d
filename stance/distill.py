"""Fit a first look (`stance.first_look`) to a model."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold

from stance import metrics
from stance.bundle import load_bundle
from stance.calibration import Calibration
from stance.classifier import load
from stance.corpus import Corpus
from stance.errors import DataError
from stance.first_look import MAX_WEIGHTS, N_PAIRS, FirstLook, features
from stance.labels import NONE
from stance.model import InputBuilder

log = logging.getLogger(__name__)
Floats = NDArray[np.float64]
MAX_LOSS = 0.005
_CONFIDENCE = 0.8  # the least that keeps both shipped models within MAX_LOSS on left-out articles
_STRENGTHS = (0.3, 1.0, 3.0)
_N_FOLDS = 3
_MIN_SENTENCES, _MIN_ARTICLES = 200, 20
_N_RESAMPLES = 1000
_NEGLIGIBLE = 1e-3


@dataclass(frozen=True)
class _Part:
    """A split as the model sees it: features, its answers, label ids, articles."""

    x: sparse.csr_matrix
    proba: Floats
    y: NDArray[np.int64]
    groups: NDArray[np.int64]


def fit_first_look(folder: Path, corpus: Corpus) -> FirstLook | None:
    """Fit a first look to the model of a bundle; None where there is none to be had.

    A logistic regression learns the model's own probability of a stance on the train split; its
    strength is chosen by cross-validation over articles. Beside tokens and pairs it sees the sum of
    the model's word embeddings, so rare words lean on their neighbours; being linear too, those
    weights become token weights afterwards. The threshold comes from validation, see
    `choose_threshold`.

    None: the labels lack `none`, a split holds too little, the model says next to nothing but one
    label, or nothing can be skipped.

    Raises
    ------
    DataError : the corpus has other labels than the model, or lacks a split.
    BundleError : as in `load_bundle`.
    """
    bundle = load_bundle(folder)
    classes = bundle.spec.classes_
    if set(classes) != set(corpus.classes_):
        raise DataError(
            f"{corpus.path}: labels {', '.join(corpus.classes_)}, but the model knows "
            f"{', '.join(classes)}"
        )
    if lost := sorted({"train", "validation"} - set(corpus.splits)):
        raise DataError(f"{corpus.path}: no split {lost[0]!r}; a first look is fitted on it")
    split = {name: corpus.split(name) for name in ("train", "validation")}
    if NONE not in classes or any(
        len(p) < _MIN_SENTENCES or len(p.articles) < _MIN_ARTICLES for p in split.values()
    ):
        return None
    embedding = bundle.model.encoder.get_input_embeddings().weight.detach()  # type: ignore[operator]
    words = embedding.double().cpu().numpy()[: MAX_WEIGHTS - N_PAIRS]
    inputs = InputBuilder(bundle.tokenizer, bundle.spec)
    train, validation = (_part(folder, split[n], inputs, classes, len(words)) for n in split)
    none = classes.index(NONE)
    n_none = int((train.proba.argmax(1) == none).sum())
    if min(n_none, len(train.y) - n_none) < _MIN_ARTICLES:
        return None
    weights = _fit(train, words, none).astype(np.float16).astype(np.float32)
    return _with_threshold(weights, validation, none)


def _part(
    folder: Path, corpus: Corpus, inputs: InputBuilder, classes: tuple[str, ...], n_words: int
) -> _Part:
    encoded = inputs.encode(corpus.texts)
    return _Part(
        features([e.ids[: e.n_sentence + 2] for e in encoded], n_words),
        load(folder, first_look=False).predict_proba(corpus.texts, corpus.contexts()),
        np.array([classes.index(s.label) for s in corpus.sentences]),
        np.unique(corpus.groups, return_inverse=True)[1].astype(np.int64),
    )


def _fit(train: _Part, words: Floats, none: int) -> Floats:
    """Weights of tokens and pairs, shape (n_words + N_PAIRS,)."""
    centred = words - words.mean(0)
    centred /= np.sqrt((centred**2).sum(1).mean())
    of_words = sparse.csr_matrix((train.x[:, : len(words)] @ centred).astype(np.float32))
    x = sparse.hstack([train.x, of_words]).tocsr()
    target = 1 - train.proba[:, none]
    coefficients = _regression(x, target, _choose_strength(x, target, train.groups)).coef_[0]
    weights = coefficients[: train.x.shape[1]].astype(np.float64)
    weights[: len(words)] += centred @ coefficients[train.x.shape[1] :]
    return weights


def _choose_strength(x: sparse.csr_matrix, target: Floats, groups: NDArray[np.int64]) -> float:
    """The inverse strength of the penalty that predicts left-out articles best."""
    loss = dict.fromkeys(_STRENGTHS, 0.0)
    for fitted, left_out in GroupKFold(_N_FOLDS).split(x, groups=groups):
        soft = np.stack([1 - target[left_out], target[left_out]], 1)
        for strength in _STRENGTHS:
            made = _regression(x[fitted], target[fitted], strength).predict_proba(x[left_out])
            loss[strength] += metrics.cross_entropy(soft, made).sum()
    best = min(loss, key=loss.__getitem__)
    log.info("first look: C=%g, cross-entropy %.4f", best, loss[best] / len(target))
    return best


def _regression(x: sparse.csr_matrix, target: Floats, strength: float) -> LogisticRegression:
    """A logistic regression on soft targets: each row once as a stance and once as none."""
    ones, zeros = (np.flatnonzero(t > _NEGLIGIBLE) for t in (target, 1 - target))
    y = np.repeat([1, 0], [len(ones), len(zeros)])
    weight = np.concatenate([target[ones], 1 - target[zeros]])
    model = LogisticRegression(C=strength, max_iter=1000, tol=1e-3)
    return model.fit(sparse.vstack([x[ones], x[zeros]]), y, sample_weight=weight)


def _with_threshold(weights: NDArray[np.float32], part: _Part, none: int) -> FirstLook | None:
    scores = part.x @ weights
    threshold = choose_threshold(scores, part.proba, part.y, part.groups, none)
    is_skipped = scores < threshold
    n_true = np.bincount(part.y[is_skipped], minlength=part.proba.shape[1]) + 1
    proba = n_true / n_true.sum()
    if not is_skipped.any() or proba.argmax() != none:
        return None
    answers = np.where(is_skipped[:, None], proba, part.proba)
    return FirstLook(weights, threshold, proba, Calibration(answers, part.y, part.groups))


def choose_threshold(
    scores: NDArray[np.float32],
    proba: Floats,
    y: NDArray[np.int64],
    groups: NDArray[np.int64],
    none: int,
    confidence: float = _CONFIDENCE,
) -> float:
    """The score below which sentences can be skipped; minus infinity if none can.

    One more hundredth of the sentences is skipped as long as the mean F1 of the stances falls by
    no more than `MAX_LOSS` in a share `confidence` of redraws of the articles. Looking at the
    redraws and not at the one loss that was measured makes up for choosing and measuring on the
    same articles.

    Parameters
    ----------
    scores, proba, y, groups : of a validation split, lengths n; proba of shape (n, n_classes).
    none : the column of `none`.
    confidence : how many of the redraws must agree; `scripts/first_look.py --choose` compares.
    """
    n_classes = proba.shape[1]
    measure = metrics.mean_f1_of([c for c in range(n_classes) if c != none])
    drawn = metrics.bootstrap_weights(len(np.unique(groups)), _N_RESAMPLES, 13)
    y_pred = proba.argmax(1)

    def resampled(y_pred: NDArray[np.int64]) -> Floats:
        names = [f"{g:09d}" for g in groups]
        return measure(
            np.tensordot(drawn, metrics.group_confusions(y, y_pred, names, n_classes), 1)
        )

    before = resampled(y_pred)
    chosen = -np.inf
    for threshold in np.quantile(scores, np.arange(0.01, 1, 0.01)):
        loss = before - resampled(np.where(scores < threshold, none, y_pred))
        if np.quantile(loss, confidence) > MAX_LOSS:
            break
        chosen = float(threshold)
    return float(np.float32(chosen))
