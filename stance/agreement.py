"""How far annotators agree, before adjudication."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import krippendorff
import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import cohen_kappa_score

from stance import metrics
from stance.corpus import ADJUDICATOR, Corpus
from stance.errors import DataError
from stance.labels import NONE

_MISSING = -1


@dataclass(frozen=True)
class AgreementReport:
    """Agreement of the annotators of a corpus.

    Attributes
    ----------
    alpha : Krippendorff's alpha, nominal, with its 95 % interval (bootstrap over articles).
    gate_alpha : alpha of stance against `none`; None without a `none` label.
    per_label_alpha : alpha of each label against the rest.
    kappa, f1, confusion : Cohen's kappa, F1 by label and confusion of each pair of annotators.
    """

    n_sentences: int
    n_articles: int
    annotators: tuple[str, ...]
    classes_: tuple[str, ...]
    alpha: tuple[float, float, float]
    gate_alpha: float | None
    per_label_alpha: dict[str, float]
    kappa: dict[str, float]
    f1: dict[str, dict[str, float]]
    confusion: dict[str, list[list[int]]]

    def to_dict(self) -> dict[str, Any]:
        """Plain types, ready for `json.dumps`."""
        return asdict(self)


def alpha(ratings: NDArray[np.int64]) -> float:
    """Krippendorff's alpha, nominal. `ratings`: (n_annotators, n_sentences), -1 for no answer.

    NaN where nothing varies or nobody rated a sentence twice. Source: Krippendorff 2011.
    """
    values = np.where(ratings == _MISSING, np.nan, ratings.astype(float))
    pairable = values[:, (~np.isnan(values)).sum(0) > 1]
    if len(np.unique(pairable[~np.isnan(pairable)])) < 2:
        return float("nan")
    return float(krippendorff.alpha(values, level_of_measurement="nominal"))


def agreement(corpus: Corpus, *, n_resamples: int = 1000, seed: int = 13) -> AgreementReport:
    """Agreement over all sentences with at least two votes, the adjudicator's left out.

    Raises
    ------
    DataError : fewer than two annotators.
    """
    votes = [
        {v.annotator: v.label for v in s.votes if v.annotator != ADJUDICATOR}
        for s in corpus.sentences
    ]
    counted = Counter(name for row in votes for name in row)
    annotators = tuple(sorted(counted))
    if len(annotators) < 2:
        raise DataError(
            f"{corpus.path}: votes of {', '.join(annotators) or 'nobody'}; agreement needs two "
            "annotators (field `votes`)"
        )
    id_of = {label: i for i, label in enumerate(corpus.classes_)}
    ratings = np.array(
        [[id_of[row[name]] if name in row else _MISSING for row in votes] for name in annotators]
    )
    kept = (ratings != _MISSING).sum(0) > 1
    ratings = ratings[:, kept]
    groups = np.array(corpus.groups)[kept]
    pairs = {
        f"{annotators[a]} / {annotators[b]}": (a, b)
        for a, b in combinations(range(len(annotators)), 2)
    }
    kappa, f1, confusion = {}, {}, {}
    for name, (a, b) in pairs.items():
        both = (ratings[a] != _MISSING) & (ratings[b] != _MISSING)
        if not both.any():
            continue
        matrix = metrics.confusion(ratings[a, both], ratings[b, both], len(id_of))
        kappa[name] = float(cohen_kappa_score(ratings[a, both], ratings[b, both]))
        scores = metrics.precision_recall_f1(matrix)[2]
        f1[name] = {label: float(scores[i]) for label, i in id_of.items()}
        confusion[name] = matrix.astype(int).tolist()
    return AgreementReport(
        n_sentences=int(kept.sum()),
        n_articles=len(np.unique(groups)),
        annotators=annotators,
        classes_=corpus.classes_,
        alpha=(alpha(ratings), *_interval(ratings, groups, n_resamples, seed)),
        gate_alpha=alpha(_against(ratings, id_of[NONE])) if NONE in id_of else None,
        per_label_alpha={label: alpha(_against(ratings, i)) for label, i in id_of.items()},
        kappa=kappa,
        f1=f1,
        confusion=confusion,
    )


def _against(ratings: NDArray[np.int64], label_id: int) -> NDArray[np.int64]:
    return np.where(ratings == _MISSING, _MISSING, (ratings == label_id).astype(np.int64))


def _interval(
    ratings: NDArray[np.int64], groups: NDArray[np.str_], n_resamples: int, seed: int
) -> tuple[float, float]:
    names, ids = np.unique(groups, return_inverse=True)
    rows_of = [np.flatnonzero(ids == i) for i in range(len(names))]
    rng = np.random.default_rng(seed)
    samples = []
    for _ in range(n_resamples):
        drawn = rng.integers(0, len(names), len(names))
        value = alpha(ratings[:, np.concatenate([rows_of[i] for i in drawn])])
        if not np.isnan(value):
            samples.append(value)
    return metrics.interval(np.array(samples)) if samples else (float("nan"), float("nan"))
