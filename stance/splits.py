"""Splits that can't leak: an article, an event and near copies of a sentence stay together."""

from __future__ import annotations

import re
import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold

from stance.corpus import Corpus
from stance.errors import DataError
from stance.records import Article

NEAR_COPY = 0.8


def words(text: str) -> list[str]:
    """Lower-case words and numbers of a text."""
    return re.findall(r"\w+", text.lower())


def _shingles(text: str) -> frozenset[tuple[str, ...]]:
    """All runs of five words; a shorter text is its own single run."""
    found = words(text)
    return frozenset(tuple(found[i : i + 5]) for i in range(max(1, len(found) - 4)))


def near_copies(texts: Sequence[str], threshold: float = NEAR_COPY) -> Iterator[tuple[int, int]]:
    """Pairs of rows whose 5-gram Jaccard similarity is at least `threshold`.

    Texts of fewer than five words count only where their words are equal.
    """
    sets = [_shingles(text) for text in texts]
    rows_of: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for row, shingles in enumerate(sets):
        shared: dict[int, int] = defaultdict(int)
        for shingle in shingles:
            for other in rows_of[shingle]:
                shared[other] += 1
            rows_of[shingle].append(row)
        for other, n_shared in shared.items():
            if n_shared >= threshold * (len(shingles) + len(sets[other]) - n_shared):
                yield other, row


def event_of(article: Article) -> str:
    """The event an article reports: `event` where given, else its process and month."""
    if article.event:
        return article.event
    return f"{article.process}/{article.date[:7]}" if article.process and article.date else ""


def linked_groups(corpus: Corpus) -> dict[str, str]:
    """Article id to the id of its group: articles joined by an event or by near copies."""
    parent = {article_id: article_id for article_id in corpus.articles}

    def root(article_id: str) -> str:
        while parent[article_id] != article_id:
            parent[article_id] = parent[parent[article_id]]
            article_id = parent[article_id]
        return article_id

    by_event: dict[str, str] = {}
    for article in corpus.articles.values():
        if event := event_of(article):
            parent[root(article.article_id)] = root(by_event.setdefault(event, article.article_id))
    groups = corpus.groups
    for a, b in near_copies(corpus.texts):
        parent[root(groups[a])] = root(groups[b])
    return {article_id: root(article_id) for article_id in parent}


def with_splits(corpus: Corpus, shares: Mapping[str, float], seed: int) -> Corpus:
    """Fill in missing splits by group, keeping label shares alike.

    Parameters
    ----------
    shares : wanted share of sentences of each split to carve off train, e.g. validation 0.15;
        a split that the corpus already names is kept as it is.
    seed : of the shuffle.

    Raises
    ------
    DataError : only some articles name a split, or there are too few groups.
    """
    named = [a for a in corpus.articles.values() if a.split]
    if named and len(named) != len(corpus.articles):
        lost = next(a for a in corpus.articles.values() if not a.split)
        raise DataError(f"{corpus.path}: article {lost.article_id!r} names no split, others do")
    split_of = {a.article_id: a.split or "train" for a in corpus.articles.values()}
    for name, share in shares.items():
        if name in split_of.values() or share <= 0:
            continue
        train = corpus.subset(k for k, s in split_of.items() if s == "train")
        for article_id in _carve(train, share, seed):
            split_of[article_id] = name
    articles = {k: replace(a, split=split_of[k]) for k, a in corpus.articles.items()}
    return replace(corpus, articles=articles)


def with_train_share(corpus: Corpus, share: float, seed: int, made: str = "") -> Corpus:
    """The corpus with only a share of its train articles, drawn by `seed`; other splits stay.

    A smaller draw is part of every larger one, as a learning curve needs it. With `made`, only
    train articles made in that way are drawn from.

    Raises
    ------
    DataError : no train article was made so.
    """
    train = [a.article_id for a in corpus.articles.values() if a.split == "train"]
    wanted = [k for k in train if corpus.articles[k].made == made] if made else train
    if train and not wanted:
        raise DataError(f"{corpus.path}: no train article with made={made!r}")
    n_kept = max(1, round(share * len(wanted)))
    order = np.random.default_rng(seed).permutation(len(wanted))
    kept = {wanted[i] for i in order[:n_kept]}
    return corpus.subset(set(corpus.articles) - (set(train) - kept))


def with_extra_train(corpus: Corpus, extra: Corpus) -> Corpus:
    """The corpus with the train split of another (all of it where it names no splits) added.

    Raises
    ------
    DataError : the two have different labels.
    """
    if extra.classes_ != corpus.classes_:
        raise DataError(f"{extra.path}: labels {extra.classes_}, expected {corpus.classes_}")
    part = extra.split("train") if extra.splits else extra
    prefix = f"{extra.path.stem}/"
    articles = {
        prefix + k: replace(a, article_id=prefix + k, split="train")
        for k, a in part.articles.items()
    }
    sentences = tuple(replace(s, article_id=prefix + s.article_id) for s in part.sentences)
    return replace(
        corpus,
        articles={**corpus.articles, **articles},
        sentences=corpus.sentences + sentences,
    )


def _carve(corpus: Corpus, share: float, seed: int) -> Iterable[str]:
    group_of = linked_groups(corpus)
    groups = [group_of[article_id] for article_id in corpus.groups]
    n_folds = max(2, round(1 / share))
    if len(set(groups)) < n_folds:
        raise DataError(
            f"{corpus.path}: {len(set(groups))} independent groups of articles are too few to "
            f"hold out {share:.0%}; add articles or name the splits"
        )
    folds = StratifiedGroupKFold(n_splits=n_folds, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a rare class in fewer rows than folds
        _, held_out = next(iter(folds.split(np.zeros(len(corpus)), corpus.y, groups)))
    ids = corpus.groups
    return {ids[row] for row in held_out}
