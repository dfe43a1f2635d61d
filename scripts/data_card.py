"""Fill in the figures of data/peace_talks/README.md between its two marks.

usage: python scripts/data_card.py [--real FILE] [--curve runs/learning_curve/benchmark.json]

With --real (labelled real sentences) the card also says how the corpus can be told from them, with
--curve what a part of it is worth (stance benchmark experiment=learning_curve).
"""

import argparse
import json
import sys
from pathlib import Path

from stance.agreement import agreement
from stance.audit import audit
from stance.corpus import load_corpus
from stance.report import markdown_table

CARD = Path(__file__).parents[1] / "data" / "peace_talks" / "README.md"
START, END = "<!-- figures: scripts/data_card.py -->", "<!-- end of figures -->"


def learning_curve(path: Path) -> list[str]:
    """The card's section on what parts of the corpus are worth."""
    report = json.loads(path.read_text(encoding="utf-8"))
    tests = list(report["leading"])
    n = {row["test"]: row["n_sentences"] for row in report["rows"]}
    header = [f"{test} ({n[test]} sentences)" for test in tests]
    table = []
    for system in dict.fromkeys(row["system"] for row in report["rows"]):
        rows = {row["test"]: row for row in report["rows"] if row["system"] == system}
        cells = []
        for test in tests:
            found = rows[test]["measures"]["f_stance"]
            seeds = ", ".join(f"{v:.3f}" for v in rows[test]["by_seed"].values())
            cells.append(
                f"{found['value']:.3f} [{found['low']:.3f}, {found['high']:.3f}] ({seeds})"
            )
        table.append([system, *cells])
    return [
        "## What more text is worth",
        "`f_stance` of minilm trained on parts of the train articles, contrast pairs left out; "
        "mean of the seeds with its 95 % interval (bootstrap over articles), each seed in "
        "brackets. Command: `stance benchmark experiment=learning_curve`, for sets beside "
        "validation with `'+tests.NAME={path: FILE, split: all}'`; dev is real news, kept outside "
        "the project.",
        markdown_table(["train articles", *header], table),
    ]


def main() -> int:
    """Rewrite the card's figures; 1 where the audit is not clean."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--real", help="labelled real sentences to compare with")
    parser.add_argument("--curve", help="benchmark.json of the learning curve")
    options = parser.parse_args()
    corpus = load_corpus(CARD.parent)
    report = audit(corpus, load_corpus(options.real) if options.real else None)
    agreed = agreement(corpus)
    counts, measures = report.measures["counts"], report.measures
    by_split = []
    for split in corpus.splits:
        part = corpus.split(split)
        labels = [sum(s.label == c for s in part.sentences) for c in corpus.classes_]
        by_split.append([split, len(part.articles), len(part), *labels])
    value, low, high = agreed.alpha
    (pair, kappa), *_ = agreed.kappa.items()
    by_process = []
    for process in counts["process"]:
        ids = [k for k, a in corpus.articles.items() if a.process == process]
        part = corpus.subset(ids)
        one = agreement(part, n_resamples=100)
        where = ", ".join(s for s in corpus.splits if part.split(s).sentences)
        by_process.append([process, where, len(ids), len(part), one.alpha[0]])
    parts = [
        "## Counts",
        markdown_table(["split", "articles", "sentences", *corpus.classes_], by_split),
        *(
            f"{name}: " + ", ".join(f"{k} {v}" for k, v in counts[name].items()) + "."
            for name in ("genre", "year", "made", "holder")
        ),
        "Only in test: processes "
        + ", ".join(measures["only_in_test"]["processes"])
        + "; years "
        + ", ".join(measures["only_in_test"]["years"])
        + ".",
        "## Agreement (two machine coders, before adjudication)",
        f"Krippendorff's alpha, nominal: {value:.3f} [{low:.3f}, {high:.3f}] (bootstrap over "
        f"articles); stance against none {agreed.gate_alpha:.3f}; Cohen's kappa {kappa:.3f}.",
        markdown_table(
            ["label", "alpha, one against rest", "F1", *corpus.classes_],
            [
                [c, agreed.per_label_alpha[c], agreed.f1[pair][c], *row]
                for c, row in zip(corpus.classes_, agreed.confusion[pair], strict=True)
            ],
        ),
        markdown_table(["process", "splits", "articles", "sentences", "alpha"], by_process),
        "## Checks",
        f"`stance audit peace_talks`: {len(report.leakage)} leaks between splits, "
        f"{len(report.faults)} faults.",
        "A model that sees actor names alone: accuracy {accuracy:.3f}, majority "
        "{majority:.3f}.".format(**measures["names_only"]),
        "Label mix of all sentences and of those that name an actor:",
        markdown_table(
            ["named", *corpus.classes_],
            [[actor, *mix.values()] for actor, mix in measures["label_mix"].items()],
        ),
    ]
    if "realism" in measures:
        real = measures["realism"]
        parts += [
            f"Told from {real['n_each']} real sentences by TF-IDF and logistic regression, whole "
            f"articles in a fold: accuracy {real['accuracy']:.3f} (0.5 is perfect). What points to "
            "the corpus: " + ", ".join(real["give_aways"]) + ".",
            markdown_table(
                ["words a sentence", *measures["lengths"]],
                [
                    ["corpus", *measures["lengths"].values()],
                    ["real", *measures["lengths_real"].values()],
                ],
            ),
        ]
    if options.curve:
        parts += learning_curve(Path(options.curve))
    text = CARD.read_text(encoding="utf-8")
    head, _, rest = text.partition(START)
    _, _, tail = rest.partition(END)
    CARD.write_text(head + "\n\n".join([START, *parts, END]) + tail, encoding="utf-8")
    print(f"written: {CARD}")
    return 0 if report.is_clean else 1


if __name__ == "__main__":
    sys.exit(main())
