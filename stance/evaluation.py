"""Gold labels and anyone's predictions to a report with intervals.

Knows only arrays: `proba` may come from this package, a baseline or a file.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stance import metrics
from stance.corpus import Corpus
from stance.errors import DataError
from stance.labels import NONE, STANCES, is_stance_set
from stance.neutrality import Classifier, neutrality
from stance.records import Prediction
from stance.splits import words

Floats = NDArray[np.float64]
_N_BINS = 10
_MIN_SLICE = 20


@dataclass(frozen=True)
class Measure:
    """A figure and its 95 % interval, from a bootstrap over articles."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class EvaluationReport:
    """How good predictions are.

    Attributes
    ----------
    measures : by name; `macro_f1` is over all labels, `f_stance` over the three stances,
        `stance_f1` of finding a stance at all; `soft_cross_entropy` in nats against the votes.
    per_label : precision, recall, f1, support.
    confusion : rows true, columns predicted, in the order of `classes_`.
    reliability : confidence, accuracy and count of ten equal-width bins.
    slices : measures of parts of the data, by field and value.
    rulings : by ruling, how many minimal pairs (or single sentences) and the share that is wholly
        right; empty where the data names no rulings.
    risk_coverage : share of answers kept, the least score among them, share of them that is wrong.
    neutrality : what swapping the belligerents' names changes (`stance.neutrality`); None where no
        model was run, or nobody is named.
    holders : how often the holder is right (`holders_right`); None where unknown.
    """

    data: str
    split: str
    system: str
    classes_: tuple[str, ...]
    n_articles: int
    n_sentences: int
    measures: dict[str, Measure]
    per_label: dict[str, dict[str, float]]
    confusion: list[list[int]]
    reliability: dict[str, list[float]]
    slices: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    rulings: dict[str, dict[str, float]] = field(default_factory=dict)
    risk_coverage: list[dict[str, float]] = field(default_factory=list)
    neutrality: dict[str, Any] | None = None
    holders: dict[str, float] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain types, ready for `json.dumps`."""
        return asdict(self)


def choose_split(corpus: Corpus, split: str) -> tuple[Corpus, str]:
    """The part to evaluate on; `auto` takes test, else validation, else everything."""
    if split == "auto":
        split = next((s for s in ("test", "validation") if s in corpus.splits), "all")
    if split == "all":
        return corpus, split
    if split not in corpus.splits:
        named = ", ".join(corpus.splits) or "none"
        raise DataError(f"{corpus.path}: no split {split!r}; splits named there: {named}")
    return corpus.split(split), split


def evaluate(
    classifier: Classifier,
    corpus: Corpus,
    *,
    split: str = "auto",
    system: str = "",
    n_resamples: int = 2000,
    seed: int = 13,
) -> EvaluationReport:
    """Predict a corpus in context and report.

    Raises
    ------
    DataError : the data has labels that the model does not know, or no such split.
    """
    part, split = choose_split(corpus, split)
    holders = None
    if says_holders := getattr(classifier, "predict_in_context", None):
        made = says_holders(part.texts, part.contexts())
        proba = np.array([list(p.scores.values()) for p in made])
        holders = holders_right(part, made)
    else:
        proba = classifier.predict_proba(part.texts, part.contexts())
    report = report_on(
        part,
        align(proba, classifier.classes_, part),
        split=split,
        system=system,
        n_resamples=n_resamples,
        seed=seed,
    )
    swapped = neutrality(classifier, part.texts)
    return replace(
        report,
        neutrality=swapped.to_dict() if swapped.n_sentences else None,
        holders=holders,
    )


def holders_right(corpus: Corpus, predictions: Sequence[Prediction]) -> dict[str, float] | None:
    """How often the holder of a stance sentence that was found is right.

    `accuracy` is over the `n_found` sentences that have a stance by both and a known holder;
    `span_f1` is the mean overlap in words of the spans that name it, over those sentences of which
    either has one.
    """
    pairs = [
        (s, p) for s, p in zip(corpus.sentences, predictions, strict=True) if s.holder and p.holder
    ]
    if not pairs:
        return None
    found = {
        "n_found": len(pairs),
        "accuracy": float(np.mean([s.holder == p.holder for s, p in pairs])),
    }
    named = [_overlap(s.span, p.holder_span) for s, p in pairs if s.span or p.holder_span]
    if any(s.span for s, _ in pairs):
        found |= {"n_named": len(named), "span_f1": float(np.mean(named))}
    return found


def _overlap(one: str, other: str) -> float:
    a, b = words(one), words(other)
    n_common = sum((Counter(a) & Counter(b)).values())
    return 2 * n_common / max(1, len(a) + len(b))  # a span of punctuation alone has no words


def align(proba: Floats, classes: Sequence[str], corpus: Corpus) -> Floats:
    """Columns of `proba` in the corpus's label order; the two must have the same labels.

    Raises
    ------
    DataError : the two label sets differ.
    """
    lost = sorted(set(corpus.classes_) - set(classes))
    if lost or len(classes) != len(corpus.classes_):
        raise DataError(
            f"{corpus.path}: labels {', '.join(corpus.classes_)}, but the model knows "
            f"{', '.join(classes)}"
        )
    return proba[:, [list(classes).index(c) for c in corpus.classes_]]


def report_on(
    corpus: Corpus,
    proba: Floats,
    *,
    split: str = "all",
    system: str = "",
    n_resamples: int = 2000,
    seed: int = 13,
) -> EvaluationReport:
    """Report on probabilities, shape (n_sentences, n_classes), columns as `corpus.classes_`."""
    classes = corpus.classes_
    y_pred = proba.argmax(1)
    per_article = metrics.group_confusions(corpus.y, y_pred, corpus.groups, len(classes))
    total = per_article.sum(0)
    weights = metrics.bootstrap_weights(len(per_article), n_resamples, seed)
    measures = {
        name: Measure(value, *metrics.interval(samples))
        for name, (value, samples) in resampled_measures(corpus, proba, weights).items()
    }
    precision, recall, f1 = metrics.precision_recall_f1(total)
    confidence, accuracy, n = metrics.reliability(corpus.y, proba, _N_BINS)
    return EvaluationReport(
        data=corpus.name,
        split=split,
        system=system,
        classes_=classes,
        n_articles=len(per_article),
        n_sentences=len(corpus),
        measures=measures,
        per_label={
            label: {
                "precision": float(precision[i]),
                "recall": float(recall[i]),
                "f1": float(f1[i]),
                "support": int(total[i].sum()),
            }
            for i, label in enumerate(classes)
        },
        confusion=total.astype(int).tolist(),
        reliability={
            "confidence": confidence.tolist(),
            "accuracy": accuracy.tolist(),
            "n": n.tolist(),
        },
        slices=_slices(corpus, y_pred),
        rulings=rulings_right(corpus, y_pred),
        risk_coverage=_risk_coverage(corpus, proba),
    )


def matrix_measures(classes: Sequence[str]) -> dict[str, Callable[[Floats], Floats]]:
    """The measures of a label set that are functions of confusions."""
    measures: dict[str, Callable[[Floats], Floats]] = {"macro_f1": metrics.macro_f1}
    if is_stance_set(tuple(classes)):
        measures["f_stance"] = metrics.mean_f1_of([list(classes).index(s) for s in STANCES])
        measures["stance_f1"] = metrics.stance_f1(list(classes).index(NONE))
    return {
        **measures,
        "mcc": metrics.mcc,
        "weighted_f1": metrics.weighted_f1,
        "accuracy": metrics.accuracy,
    }


def resampled_measures(
    corpus: Corpus, proba: Floats, weights: Floats
) -> dict[str, tuple[float, Floats]]:
    """Each measure's value, and its values where articles are drawn again.

    Parameters
    ----------
    weights : how often each article is drawn, shape (n_resamples, n_articles), articles sorted by
        id (`stance.metrics.bootstrap_weights`).
    """
    n_classes = len(corpus.classes_)
    per_article = metrics.group_confusions(corpus.y, proba.argmax(1), corpus.groups, n_classes)
    resampled = np.tensordot(weights, per_article, 1)
    measures = {
        name: (float(of(per_article.sum(0))), of(resampled))
        for name, of in matrix_measures(corpus.classes_).items()
    }
    names, ids = np.unique(np.asarray(corpus.groups), return_inverse=True)
    soft, hard = corpus.soft_labels(), np.eye(n_classes)[corpus.y]

    def by_article(values: Floats) -> Floats:
        return np.bincount(ids, values, len(names)).astype(np.float64)

    n = by_article(np.ones(len(corpus)))
    for name, rows in (
        ("soft_cross_entropy", metrics.cross_entropy(soft, proba)),
        ("brier", metrics.brier(hard, proba)),
    ):
        measures[name] = (float(rows.mean()), weights @ by_article(rows) / (weights @ n))
    gap = proba.max(1) - (proba.argmax(1) == corpus.y)
    bins = metrics.confidence_bins(proba, _N_BINS)
    gaps = np.stack([by_article(np.where(bins == b, gap, 0.0)) for b in range(_N_BINS)], 1)
    measures["ece"] = (
        metrics.ece(corpus.y, proba, _N_BINS),
        np.abs(weights @ gaps).sum(1) / (weights @ n),
    )
    return measures


def _slices(corpus: Corpus, y_pred: NDArray[np.int64]) -> dict[str, dict[str, dict[str, float]]]:
    articles = [corpus.articles[s.article_id] for s in corpus.sentences]
    fields: dict[str, list[str]] = {
        "genre": [a.genre for a in articles],
        "process": [a.process for a in articles],
        "year": [a.date[:4] if a.date[:4].isdecimal() else "" for a in articles],
        "needs_context": ["yes" if s.needs_context else "no" for s in corpus.sentences],
    }
    measures = matrix_measures(corpus.classes_)
    shown: list[str] = [
        name for name in ("macro_f1", "f_stance", "stance_f1", "mcc") if name in measures
    ]
    slices: dict[str, dict[str, dict[str, float]]] = {}
    for name, column in fields.items():
        values = np.array(column)
        found = sorted(v for v in set(column) if v and (values == v).sum() >= _MIN_SLICE)
        if len(found) < 2:
            continue
        slices[name] = {}
        for value in found:
            rows = values == value
            matrix = metrics.confusion(corpus.y[rows], y_pred[rows], len(corpus.classes_))
            slices[name][value] = {"n_sentences": int(rows.sum())}
            slices[name][value].update({m: float(measures[m](matrix)) for m in shown})
    return slices


def rulings_right(corpus: Corpus, y_pred: NDArray[np.int64]) -> dict[str, dict[str, float]]:
    """By ruling, and in `all`: number of minimal pairs, share of which every sentence is right.

    A sentence that belongs to no pair counts as one of its own.
    """
    right: dict[str, dict[str, bool]] = defaultdict(dict)
    for sentence, is_right in zip(corpus.sentences, corpus.y == y_pred, strict=True):
        article = corpus.articles[sentence.article_id]
        if article.ruling:
            unit = article.event or f"{sentence.article_id}:{sentence.index}"
            for units in (right["all"], right[article.ruling]):
                units[unit] = units.get(unit, True) and bool(is_right)
    return {
        ruling: {"n": len(units), "right": float(np.mean(list(units.values())))}
        for ruling, units in right.items()
    }


def _risk_coverage(corpus: Corpus, proba: Floats) -> list[dict[str, float]]:
    coverage, risk, threshold = metrics.risk_coverage(corpus.y, proba)
    rows = [int(np.searchsorted(coverage, c - 1e-9)) for c in (1.0, 0.9, 0.8, 0.7, 0.6, 0.5)]
    return [
        {"coverage": float(coverage[r]), "score": float(threshold[r]), "risk": float(risk[r])}
        for r in rows
    ]
