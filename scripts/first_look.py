"""Give a bundle a first look, or report what its first look saves and costs.

usage: python scripts/first_look.py BUNDLE [--corpus FOLDER]
       python scripts/first_look.py --report BUNDLE [--data FILE...]
       python scripts/first_look.py --choose BUNDLE

A first look skips sentences that are surely `none` (`stance.distill`). It is fitted on train and
validation of the training corpus and changes nothing else of the bundle. The report reads every
article twice, with and without: validation and test of the corpus, and any further labelled files.
`--choose` shows on validation alone how sure of its threshold a first look must be: the threshold
comes from one half of the articles, the loss from the other.
"""

import argparse
import logging
import sys
import time
from itertools import groupby
from pathlib import Path

import numpy as np

from stance import load, metrics
from stance.bundle import find_bundle, load_bundle, put_first_look
from stance.classifier import StanceClassifier
from stance.config import find_data
from stance.corpus import Corpus, load_corpus
from stance.distill import choose_threshold, fit_first_look
from stance.errors import StanceError
from stance.labels import NONE
from stance.model import InputBuilder
from stance.records import Prediction

N_RESAMPLES = 2000


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("bundle", metavar="BUNDLE")
    parser.add_argument("--report", action="store_true", help="measure, change nothing")
    parser.add_argument("--choose", action="store_true", help="compare confidences")
    parser.add_argument("--corpus", default="peace_talks", help="default: peace_talks")
    parser.add_argument("--data", nargs="*", default=[], metavar="FILE", help="more to report on")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        folder = find_bundle(options.bundle)
        corpus = load_corpus(find_data(options.corpus))
        if options.choose:
            print(choose(folder, corpus.split("validation")))
            return 0
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


def choose(folder: Path, part: Corpus, n_halvings: int = 20) -> str:
    """A table of confidences: what is skipped and lost on the articles that set no threshold."""
    bundle = load_bundle(folder)
    if bundle.first_look is None:
        raise StanceError(f"{folder} has no first look yet; run this script without --choose")
    encoded = InputBuilder(bundle.tokenizer, bundle.spec).encode(part.texts)
    scores = bundle.first_look.scores([e.ids[: e.n_sentence + 2] for e in encoded])
    proba = load(folder, first_look=False).predict_proba(part.texts, part.contexts())
    classes = bundle.spec.classes_
    none, y = classes.index(NONE), np.array([classes.index(s.label) for s in part.sentences])
    groups = np.unique(part.groups, return_inverse=True)[1]
    measure = metrics.mean_f1_of([i for i in range(len(classes)) if i != none])
    rng = np.random.default_rng(13)
    halves = [rng.permutation(groups.max() + 1) % 2 for _ in range(n_halvings)]
    rows = ["| confidence | skipped | loss of f_stance, mean (worst) |", "| --- " * 3 + "|"]
    for confidence in (0.5, 0.6, 0.7, 0.8, 0.9):
        skipped, lost = [], []
        for half in halves:
            fit, rest = half[groups] == 0, half[groups] == 1
            threshold = choose_threshold(
                scores[fit], proba[fit], y[fit], groups[fit], none, confidence
            )
            y_pred = proba[rest].argmax(1)
            is_skipped = scores[rest] < threshold
            value = [
                float(measure(metrics.confusion(y[rest], found, len(classes))))
                for found in (y_pred, np.where(is_skipped, none, y_pred))
            ]
            skipped.append(is_skipped.mean())
            lost.append(value[0] - value[1])
        rows.append(
            f"| {confidence} | {np.mean(skipped):.1%} | {np.mean(lost):.4f} ({max(lost):.4f}) |"
        )
    return "\n".join(rows)


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
