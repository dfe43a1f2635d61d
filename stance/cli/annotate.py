"""`stance annotate export|import`: sentences out to annotators, votes back in."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from stance.annotate import choose, doubt, make_tasks, merge, read_answers, write_project
from stance.cli.predict import read_text
from stance.corpus import load_corpus
from stance.errors import DataError
from stance.segment import split_sentences


def main(argv: list[str]) -> int:
    """Export or import."""
    parser = argparse.ArgumentParser(prog="stance annotate", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    out = commands.add_parser("export", help="write a Label Studio project and a CSV")
    out.add_argument("articles", nargs="+", metavar="ARTICLE", help="text, HTML, or corpus .jsonl")
    out.add_argument("--out", required=True, metavar="FOLDER")
    out.add_argument("--n", type=int, metavar="N", help="only N sentences (default: all)")
    out.add_argument(
        "--by", choices=("doubt", "random"), default="doubt", help="how the N are chosen"
    )
    out.add_argument("--model", metavar="DIR", help="whose doubt (default: the shipped model's)")
    out.add_argument("--seed", type=int, default=13)
    back = commands.add_parser("import", help="Label Studio JSON or filled CSV to sentences.jsonl")
    back.add_argument("answers", nargs="+", metavar="FILE", help="a CSV's name is its annotator")
    back.add_argument("--out", required=True, metavar="FILE.jsonl")
    options = parser.parse_args(argv)
    return _export(options) if options.command == "export" else _import(options)


def _export(options: argparse.Namespace) -> int:
    articles = []
    for name in options.articles:
        if name.endswith((".jsonl", ".ndjson")):
            corpus = load_corpus(name)
            articles += [make_tasks(k, corpus.subset([k]).texts) for k in corpus.articles]
        else:
            texts = [s.text for s in split_sentences(read_text(name)).sentences]
            articles.append(make_tasks(Path(name).stem, texts))
    ids = [tasks[0].article_id for tasks in articles if tasks]
    if len(set(ids)) < len(ids):
        raise DataError("two articles have the same name; file names serve as article ids")
    n = options.n if options.n is not None else sum(map(len, articles))
    if options.by == "doubt" and options.n is not None:
        from stance.classifier import load

        values = doubt(load(options.model), articles)
    else:
        rng = np.random.default_rng(options.seed)
        values = [rng.random(len(tasks)) for tasks in articles]
    tasks = choose(articles, values, n)
    paths = write_project(tasks, Path(options.out))
    print(f"{len(tasks)} sentences of {len(articles)} articles; written:", *paths, sep="\n  ")
    return 0


def _import(options: argparse.Namespace) -> int:
    answers = [pair for name in options.answers for pair in read_answers(Path(name))]
    if not answers:
        raise DataError(f"{', '.join(options.answers)}: no answers in there")
    rows, unsettled = merge(answers)
    lines = (json.dumps(row, ensure_ascii=False) for row in rows)
    Path(options.out).write_text("\n".join(lines) + "\n", encoding="utf-8")
    load_corpus(options.out)
    print(f"{len(rows)} sentences, {len(answers)} answers; written: {options.out}")
    if unsettled:
        print(f"{len(unsettled)} wait for an adjudicator:", *unsettled[:20])
    return 0
