"""`stance agreement DATA`: how far the annotators agree."""

from __future__ import annotations

import argparse
import json

from stance.agreement import AgreementReport, agreement
from stance.config import find_data
from stance.corpus import load_corpus
from stance.report import markdown_table


def main(argv: list[str]) -> int:
    """Print agreement as Markdown or JSON."""
    parser = argparse.ArgumentParser(prog="stance agreement", description=__doc__)
    parser.add_argument("data", metavar="DATA", help=".jsonl file or corpus folder with votes")
    parser.add_argument("--by", choices=("process", "genre", "split"), help="a line for each value")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    options = parser.parse_args(argv)
    corpus = load_corpus(find_data(options.data))
    report = agreement(corpus)
    parts: dict[str, AgreementReport] = {}
    if options.by:
        values = sorted({getattr(a, options.by) for a in corpus.articles.values()} - {""})
        for value in values:
            ids = [k for k, a in corpus.articles.items() if getattr(a, options.by) == value]
            parts[value] = agreement(corpus.subset(ids), n_resamples=200)
    if options.json:
        by = {value: part.to_dict() for value, part in parts.items()}
        print(json.dumps({**report.to_dict(), "by": by}, indent=2))
        return 0
    value, low, high = report.alpha
    print(f"{report.n_sentences} sentences of {report.n_articles} articles, two votes or more each")
    print(f"Krippendorff's alpha, nominal: {value:.3f} [{low:.3f}, {high:.3f}]")
    if report.gate_alpha is not None:
        print(f"alpha of stance against none: {report.gate_alpha:.3f}")
    for pair, kappa in report.kappa.items():
        print(f"\n{pair}: Cohen's kappa {kappa:.3f}\n")
        columns = ["label", "alpha, one against rest", "F1", *report.classes_]
        rows = [
            [label, report.per_label_alpha[label], report.f1[pair][label], *map(int, counts)]
            for label, counts in zip(report.classes_, report.confusion[pair], strict=True)
        ]
        print(markdown_table(columns, rows))
    if parts:
        rows = [
            [value, p.n_sentences, p.alpha[0], f"[{p.alpha[1]:.3f}, {p.alpha[2]:.3f}]"]
            for value, p in parts.items()
        ]
        print("\n" + markdown_table([options.by, "sentences", "alpha", "95 % interval"], rows))
    return 0
