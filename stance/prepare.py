"""From data settings to a split and audited corpus."""

from __future__ import annotations

import logging

from stance.audit import find_leakage
from stance.config import DataConfig, find_data
from stance.corpus import Corpus, load_corpus
from stance.errors import LeakageError
from stance.splits import with_extra_train, with_splits, with_train_share

log = logging.getLogger(__name__)


def load_for_training(data: DataConfig, seed: int) -> Corpus:
    """Load, split and audit.

    Raises
    ------
    LeakageError : splits leak, and `data.allow_leakage` is not set.
    """
    corpus = load_corpus(
        find_data(data.path), text_field=data.text_field, label_field=data.label_field
    )
    corpus = with_splits(
        corpus, {"validation": data.validation_share, "test": data.test_share}, seed
    )
    corpus = with_train_share(corpus, data.train_share, seed, data.made)
    for extra in data.extra_train:
        corpus = with_extra_train(corpus, load_corpus(find_data(extra)))
    if leakage := find_leakage(corpus):
        message = f"{corpus.path}: {len(leakage)} leaks between splits, first: {leakage[0]}"
        if not data.allow_leakage:
            raise LeakageError(
                f"{message}; see `stance audit`, or train all the same with data.allow_leakage=true"
            )
        log.warning("LEAKING DATA, results are too good: %s", message)
    counts = {name: len(corpus.split(name)) for name in corpus.splits}
    log.info("%s: %s sentences", corpus.path, counts)
    return corpus
