"""`stance predict FILE|-`: the sentences of an article with their labels."""

from __future__ import annotations

import argparse
import csv
import json
import sys
from pathlib import Path

from stance.errors import DataError
from stance.records import ArticlePrediction
from stance.segment import decode_text


def main(argv: list[str]) -> int:
    """Label an article and print it."""
    parser = argparse.ArgumentParser(
        prog="stance predict", description="Label the sentences of an article (text or HTML)."
    )
    parser.add_argument("file", metavar="FILE|-", help="an article, or - for standard input")
    parser.add_argument("--format", choices=("table", "jsonl", "csv"), default="table")
    parser.add_argument("--model", metavar="DIR", help="a bundle or run folder (default: shipped)")
    add_backend(parser)
    parser.add_argument("--all", action="store_true", help="table: the 'none' sentences too")
    options = parser.parse_args(argv)
    text = read_text(options.file)
    from stance.classifier import load

    result = load(options.model, backend=options.backend).predict_article(text)
    {"table": _table, "jsonl": _jsonl, "csv": _csv}[options.format](result, options.all)
    sys.stdout.flush()
    return 0


def add_backend(parser: argparse.ArgumentParser) -> None:
    """The option `--backend`."""
    parser.add_argument(
        "--backend",
        choices=("auto", "fp32", "bf16", "onnx-int8"),
        default="auto",
        help="auto: the fastest that stance export has checked, else fp32",
    )


def read_text(name: str) -> str:
    """The text of a file or of standard input; `DataError` where it is none."""
    try:
        raw = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
    except OSError as err:
        raise DataError(f"{name}: {err.strerror}; give a file with an article") from err
    return decode_text(raw, name)


def _table(result: ArticlePrediction, show_all: bool) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    colour = {"optimistic": "green", "obstructive": "red", "conciliatory": "cyan", "none": "dim"}
    table = Table(show_edge=False, pad_edge=False)
    for name in ("#", "label", "score", "holder"):
        table.add_column(name, no_wrap=True)
    table.add_column("sentence")
    shown = result.sentences if show_all else result.stance_sentences
    number = {id(s): i for i, s in enumerate(result.sentences)}
    for s in shown:
        style = colour.get(s.label, "")
        table.add_row(
            str(number[id(s)]),
            Text(s.label, style),
            f"{s.score:.2f}",
            s.holder or "",
            Text(s.text, style),
        )
    console = Console(width=None if sys.stdout.isatty() else 120)
    if shown:
        console.print(table)
    counts = ", ".join(f"{n} {label}" for label, n in result.counts.items())
    console.print(f"{len(result.sentences)} sentences: {counts}", highlight=False)


def _jsonl(result: ArticlePrediction, _: bool) -> None:
    for index, sentence in enumerate(result.sentences):
        print(json.dumps({"index": index, **sentence.to_dict()}, ensure_ascii=False))


def _csv(result: ArticlePrediction, _: bool) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    names = [f"score_{label}" for label in result.classes_]
    holder = ["holder", "holder_score", "holder_span"]
    writer.writerow(["index", "start", "end", "label", "score", *names, *holder, "text"])
    for index, s in enumerate(result.sentences):
        scores = [f"{p:.6f}" for p in s.scores.values()]
        held = "" if s.holder_score is None else f"{s.holder_score:.6f}"
        row = [index, s.start, s.end, s.label, f"{s.score:.6f}", *scores]
        writer.writerow([*row, s.holder or "", held, s.holder_span, s.text])
