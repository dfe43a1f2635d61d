"""Give a bundle a first look, or report what its first look saves and costs.

usage: python scripts/first_look.py BUNDLE [--corpus FOLDER]
       python scripts/first_look.py --report BUNDLE [--data FILE...]

A first look skips sentences that are surely `none` (`stance.distill`). It is fitted on train and
validation of the training corpus and changes nothing else of the bundle. The report reads every
article twice, with and without: validation and test of the corpus, and any further labelled files.
"""

import argparse
import logging
import sys
import time
from itertools import groupby
from pathlib import Path

import numpy as np

from stance import load, metrics
from stance.bundle import find_bundle, put_first_look
from stance.classifier import StanceClassifier
from stance.config import find_data
from stance.corpus import Corpus, load_corpus
from stance.distill import fit_first_look
from stance.errors import StanceError
from stance.labels import NONE
from stance.records import Prediction

N_RESAMPLES = 2000


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("bundle", metavar="BUNDLE")
    parser.add_argument("--report", action="store_true", help="measure, change nothing")
    parser.add_argument("--corpus", default="peace_talks", help="default: peace_talks")
    parser.add_argument("--data", nargs="*", default=[], metavar="FILE", help="more to report on")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        folder = find_bundle(options.bundle)
        corpus = load_corpus(find_data(options.corpus))
        if not options.report:
            first_look = fit_first_look(folder, corpus)
            put_first_look(folder, first_look)
            print(f"{folder}: {'first look written' if first_look else 'nothing can be skipped'}")
            return 0
        parts = {s: corpus.split(s) for s in ("validation", "test")}
        parts.update({name: load_corpus(name) for name in options.data})
        print("| data | sentences | skipped | f_stance | with look | difference | speed |")
        print("| --- " * 7 + "|")
        for name, part in parts.items():
            print(report(load(folder), load(folder, first_look=False), part, name), flush=True)
    except StanceError as err:
        print(f"first_look: error: {err}", file=sys.stderr)
        return 1
    return 0


def report(quick: StanceClassifier, full: StanceClassifier, corpus: Corpus, name: str) -> str:
    """A row of the table; the interval of the difference is a bootstrap over articles."""
    made, seconds = {}, {}
    for key, model in {"full": full, "quick": quick}.items():
        started = time.process_time()
        made[key] = predict(model, corpus)
        seconds[key] = time.process_time() - started
    classes = corpus.classes_
    measure = metrics.mean_f1_of([i for i, c in enumerate(classes) if c != NONE])
    drawn = metrics.bootstrap_weights(len(corpus.articles), N_RESAMPLES, 13)
    counts = {
        key: metrics.group_confusions(
            corpus.y, [classes.index(p.label) for p in rows], corpus.groups, len(classes)
        )
        for key, rows in made.items()
    }
    value = {key: float(measure(c.sum(0))) for key, c in counts.items()}
    resampled = {key: measure(np.tensordot(drawn, c, 1)) for key, c in counts.items()}
    low, high = metrics.interval(resampled["quick"] - resampled["full"])
    skipped = np.mean([p.is_skipped for p in made["quick"]])
    return (
        f"| {Path(name).name} | {len(corpus):,} | {skipped:.1%} | {value['full']:.3f} "
        f"| {value['quick']:.3f} | {value['quick'] - value['full']:+.4f} [{low:+.4f}, {high:+.4f}] "
        f"| {seconds['full'] / seconds['quick']:.2f} |"
    )


def predict(model: StanceClassifier, corpus: Corpus) -> list[Prediction]:
    grouped = groupby(zip(corpus.groups, corpus.texts, strict=True), key=lambda pair: pair[0])
    articles = [[text for _, text in rows] for _, rows in grouped]
    return [p for article in model.predict_articles(articles) for p in article.sentences]


if __name__ == "__main__":
    sys.exit(main())
