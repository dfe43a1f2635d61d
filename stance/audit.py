"""Checks of a corpus: leakage between splits, copies, missing fields, give-aways.

`leakage` holds what would make a test result worthless; training refuses it. `faults` are breaches
of the corpus rules; `measures` are figures to look at.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline

from stance.corpus import Corpus
from stance.labels import NONE, is_stance_set
from stance.splits import event_of, near_copies, words

_MAX_OPENING_SHARE = 0.005
_MAX_NAMES_GAIN = 0.05
_N_SHOWN = 20

ACTOR_NAMES = re.compile(
    r"\b(russia\w*|moscow\w*|kremlin\w*|putin\w*|lavrov|peskov|ushakov|medinsky|dmitriev|kozak|"
    r"ukrain\w*|ky?iv\w*|kiev\w*|zelensk\w*|yermak|umerov|kuleba|sybiha|poroshenko|"
    r"us|u\.s|united states|america\w*|washington|white house|trump\w*|biden\w*|rubio|witkoff|"
    r"kushner|vance|kellogg|blinken|europe\w*|eu|brussels|nato|britain|british|uk|london|starmer|"
    r"france|french|paris|macron|germany?|german\w*|berlin|merz|scholz|merkel|pol\w+|warsaw|"
    r"turkey|turkish|türkiye|ankara|erdo[gğ]an|fidan|qatar\w*|doha|egypt\w*|cairo|saudi\w*|riyadh|"
    r"china|chinese|beijing|xi|india\w*|vatican|pope|un|hamas|israel\w*|netanyahu|hezbollah|houthis?|"
    r"lebanon|lebanese|sudan\w*|rsf|burhan|armenia\w*|azerbaijan\w*|pashinyan|aliyev|baku|yerevan|"
    r"congo\w*|rwanda\w*|m23|tshisekedi|kagame|syria\w*|assad|damascus|iran\w*|tehran|"
    r"taliban|afghan\w*|kabul|pakistan\w*|cambodia\w*|thai\w*|serbia\w*|kosovo|colombia\w*|farc|eln)\b",
    re.I,
)

ACTORS = {
    "russia": re.compile(r"\b(?:russia\w*|moscow\w*|kremlin\w*|putin\w*)", re.I),
    "ukraine": re.compile(r"\b(?:ukrain\w*|ky?iv\w*|kiev\w*|zelensk\w*)", re.I),
    "united_states": re.compile(r"\b(?:U\.?S\.?|[Aa]merica\w*|Washington|White House|Trump\w*)"),
    "europe": re.compile(r"\b(?:Europe\w*|EU|Brussels|Macron|Merz|Starmer|Merkel|NATO)"),
}


@dataclass(frozen=True)
class AuditReport:
    """What an audit found; each list holds sentences that name ids and values."""

    leakage: tuple[str, ...]
    faults: tuple[str, ...]
    measures: dict[str, Any]

    @property
    def is_clean(self) -> bool:
        """Neither leakage nor faults."""
        return not self.leakage and not self.faults

    def to_dict(self) -> dict[str, Any]:
        """Plain types, ready for `json.dumps`."""
        return {
            "leakage": list(self.leakage),
            "faults": list(self.faults),
            "measures": self.measures,
        }


def find_leakage(corpus: Corpus) -> list[str]:
    """Material of one split that also stands in another: events and near copies."""
    found = []
    splits_of_event: dict[str, set[str]] = defaultdict(set)
    for article in corpus.articles.values():
        if article.split and (event := event_of(article)):
            splits_of_event[event].add(article.split)
    found += [
        f"event {event!r} is in splits {', '.join(sorted(splits))}"
        for event, splits in sorted(splits_of_event.items())
        if len(splits) > 1
    ]
    rows = corpus.sentences
    for a, b in near_copies(corpus.texts):
        splits = {corpus.articles[rows[k].article_id].split for k in (a, b)}
        if len(splits) > 1:
            found.append(f"{_copy(corpus, a, b)}, in splits {' and '.join(sorted(splits))}")
    return found


def _copy(corpus: Corpus, a: int, b: int) -> str:
    one, two = corpus.sentences[a], corpus.sentences[b]
    return (
        f"{one.article_id}:{one.index} and {two.article_id}:{two.index} are near copies: "
        f"{one.text[:60]!r}"
    )


def audit(corpus: Corpus, real: Corpus | None = None) -> AuditReport:
    """Run every check on a corpus; with `real` sentences also how it can be told from them."""
    faults = [_copy(corpus, a, b) for a, b in near_copies(corpus.texts)]
    openings = Counter(" ".join(found[:5]) for t in corpus.texts if len(found := words(t)) >= 5)
    limit = max(5, _MAX_OPENING_SHARE * len(corpus))
    faults += [
        f"{n} sentences open with {opening!r}"
        for opening, n in openings.most_common(_N_SHOWN)
        if n > limit
    ]
    faults += [
        f"{s.article_id}:{s.index}: text is not NFC"
        for s in corpus.sentences
        if not unicodedata.is_normalized("NFC", s.text)
    ]
    if any(s.holder for s in corpus.sentences):
        faults += [
            f"{s.article_id}:{s.index}: {s.label} without holder or certainty"
            for s in corpus.sentences
            if s.label != NONE and not (s.holder and s.certainty)
        ]
    measures: dict[str, Any] = {"counts": _counts(corpus), "lengths": lengths(corpus.texts)}
    if len(corpus.articles) >= 10 and len(set(corpus.y.tolist())) > 1:
        names = names_only(corpus)
        measures["names_only"] = names
        gain = names["accuracy"] - names["majority"]
        if is_stance_set(corpus.classes_) and gain > _MAX_NAMES_GAIN:
            faults.append(f"actor names alone predict the label: {gain:.1%} above the majority")
    if is_stance_set(corpus.classes_):
        measures["label_mix"] = label_mix(corpus)
    if corpus.splits:
        measures["only_in_test"] = only_in_test(corpus)
    if real is not None:
        measures["realism"] = realism(corpus, real)
        measures["lengths_real"] = lengths(real.texts)
    return AuditReport(tuple(find_leakage(corpus)), tuple(faults), measures)


def label_mix(corpus: Corpus) -> dict[str, dict[str, float]]:
    """Share of each label among all sentences and among those that name an actor."""
    named = {"all": re.compile(""), **ACTORS}
    mix = {}
    for actor, pattern in named.items():
        rows = np.array([bool(pattern.search(t)) for t in corpus.texts])
        if rows.sum() >= 50:
            shares = np.bincount(corpus.y[rows], minlength=len(corpus.classes_)) / rows.sum()
            mix[actor] = dict(zip(corpus.classes_, shares.tolist(), strict=True))
    return mix


def only_in_test(corpus: Corpus) -> dict[str, list[str]]:
    """Processes and years of the test split that no other split has."""
    test = [a for a in corpus.articles.values() if a.split == "test"]
    rest = [a for a in corpus.articles.values() if a.split != "test"]
    return {
        "processes": sorted({a.process for a in test} - {a.process for a in rest}),
        "years": sorted({a.date[:4] for a in test} - {a.date[:4] for a in rest}),
    }


def realism(corpus: Corpus, real: Corpus, seed: int = 13) -> dict[str, Any]:
    """How well TF-IDF and logistic regression tell a corpus from real sentences.

    Equal counts, whole articles in a fold. 0.5 is indistinguishable; `give_aways` are the words
    and word pairs that point most to the corpus.
    """
    rng = np.random.default_rng(seed)
    ids = list(corpus.articles)
    by_article: dict[str, list[str]] = defaultdict(list)
    for s in corpus.sentences:
        by_article[s.article_id].append(s.text)
    texts: list[str] = []
    groups: list[str] = []
    for number in rng.permutation(len(ids)):
        if len(texts) >= len(real):
            break
        texts += by_article[ids[number]]
        groups += [f"corpus/{ids[number]}"] * len(by_article[ids[number]])
    texts, groups = texts[: len(real)], groups[: len(real)]
    y = np.array([1] * len(texts) + [0] * len(real))
    texts, groups = texts + real.texts, groups + [f"real/{g}" for g in real.groups]
    model = make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2),
        LogisticRegression(C=10, max_iter=2000),
    )
    guess = cross_val_predict(model, texts, y, groups=groups, cv=GroupKFold(n_splits=5))
    fitted = model.fit(texts, y)
    order = np.argsort(-fitted[-1].coef_[0])[:15]
    names = fitted[0].get_feature_names_out()
    return {
        "accuracy": float(accuracy_score(y, guess)),
        "n_each": len(real),
        "give_aways": [str(names[i]) for i in order],
    }


def lengths(texts: list[str]) -> dict[str, float]:
    """Words a sentence: mean, and the 5th, 50th and 95th percentile; share with a quotation."""
    n_words = np.array([len(t.split()) for t in texts])
    low, mid, high = np.percentile(n_words, [5, 50, 95])
    quoted = np.mean([any(q in t for q in '"“”«»') for t in texts])
    return {
        "mean_words": float(n_words.mean()),
        "p05": float(low),
        "p50": float(mid),
        "p95": float(high),
        "share_quoted": float(quoted),
    }


def names_only(corpus: Corpus) -> dict[str, float]:
    """Accuracy of a model that sees actor names alone, cross-validated by article."""
    masked = [" ".join(m[0].lower() for m in ACTOR_NAMES.finditer(t)) for t in corpus.texts]
    model = make_pipeline(
        CountVectorizer(token_pattern=r"\S+", ngram_range=(1, 2)),
        LogisticRegression(max_iter=1000, C=1.0),
    )
    try:
        guess = cross_val_predict(
            model, masked, corpus.y, groups=corpus.groups, cv=GroupKFold(n_splits=5)
        )
    except ValueError:  # no actor name anywhere
        guess = np.full(len(corpus), np.bincount(corpus.y).argmax())
    majority = float(np.bincount(corpus.y).max() / len(corpus))
    return {"accuracy": float(accuracy_score(corpus.y, guess)), "majority": majority}


def _counts(corpus: Corpus) -> dict[str, dict[str, int]]:
    article_of = [corpus.articles[s.article_id] for s in corpus.sentences]
    columns: dict[str, list[str]] = {
        "label": [s.label for s in corpus.sentences],
        "split": [a.split for a in article_of],
        "genre": [a.genre for a in article_of],
        "process": [a.process for a in article_of],
        "year": [a.date[:4] for a in article_of],
        "made": [a.made for a in article_of],
        "holder": [s.holder or "" for s in corpus.sentences],
    }
    counts = {name: dict(Counter(filter(None, v)).most_common()) for name, v in columns.items()}
    counts["articles"] = dict(Counter(a.split or "all" for a in corpus.articles.values()))
    return {name: values for name, values in counts.items() if values}
