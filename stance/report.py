"""Reports as JSON, Markdown and PNG, and the model card."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stance.evaluation import EvaluationReport, Measure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from stance.benchmark import BenchmarkReport
    from stance.model import ModelSpec

_SHOWN = (
    "macro_f1",
    "f_stance",
    "stance_f1",
    "mcc",
    "weighted_f1",
    "accuracy",
    "soft_cross_entropy",
    "brier",
    "ece",
)


def format_measure(measure: Measure) -> str:
    """`0.712 [0.650, 0.770]`."""
    return f"{measure.value:.3f} [{measure.low:.3f}, {measure.high:.3f}]"


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table, numbers with three decimals."""

    def cell(value: object) -> str:
        return f"{value:.3f}" if isinstance(value, float) else str(value)

    lines = ["| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
    lines += ["| " + " | ".join(map(cell, row)) + " |" for row in rows]
    return "\n".join(lines)


def to_markdown(report: EvaluationReport) -> str:
    """The whole report as Markdown."""
    parts = [
        f"# {report.system or 'Predictions'} on {report.data} ({report.split})",
        f"{report.n_sentences} sentences of {report.n_articles} articles. Intervals: 95 %, "
        "bootstrap over articles.",
        markdown_table(
            ["measure", "value [95 % interval]"],
            [[m, format_measure(report.measures[m])] for m in _SHOWN if m in report.measures],
        ),
        "## Labels",
        markdown_table(
            ["label", "precision", "recall", "F1", "support"],
            [
                [label, v["precision"], v["recall"], v["f1"], int(v["support"])]
                for label, v in report.per_label.items()
            ],
        ),
        "## Confusion (rows true, columns predicted)",
        markdown_table(
            ["", *report.classes_],
            [[c, *row] for c, row in zip(report.classes_, report.confusion, strict=True)],
        ),
    ]
    if swapped := report.neutrality:
        parts += ["## Belligerents' names swapped", _neutrality_line(swapped)]
    if report.holders:
        parts += ["## Holder", _holder_line(report.holders)]
    for name, values in report.slices.items():
        columns = list(next(iter(values.values())))
        parts += [
            f"## By {name}",
            markdown_table([name, *columns], [[v, *f.values()] for v, f in values.items()]),
        ]
    if report.rulings:
        parts += [
            "## Minimal pairs (or single sentences) by ruling",
            markdown_table(
                ["ruling", "n", "wholly right"],
                [[ruling, *found.values()] for ruling, found in report.rulings.items()],
            ),
        ]
    parts += [
        "## Abstaining below a score",
        markdown_table(
            ["answers kept", "least score", "wrong among them"],
            [list(row.values()) for row in report.risk_coverage],
        ),
    ]
    return "\n\n".join(parts) + "\n"


def _neutrality_line(swapped: dict[str, Any]) -> str:
    shifts = ", ".join(f"{label} {value:+.3f}" for label, value in swapped["shift"].items())
    sides = ", ".join(f"{s} {v:.1%}" for s, v in swapped["flip_rate_by_side"].items())
    return (
        f"{swapped['flip_rate']:.1%} of {swapped['n_sentences']} sentences that name one change "
        f"their label (only one side named: {sides or 'none'}). Mean change of probability where "
        f"Russia's names become Ukraine's ({swapped['n_one_sided']} sentences that name Russia's "
        f"side alone): {shifts}."
    )


def _holder_line(found: dict[str, float]) -> str:
    text = (
        f"Right in {found['accuracy']:.1%} of the {int(found['n_found'])} stance sentences that "
        "were found."
    )
    if "span_f1" in found:
        text += (
            f" Words that name the holder: overlap F1 {found['span_f1']:.3f} over "
            f"{int(found['n_named'])} sentences."
        )
    return text


def write_report(report: EvaluationReport, folder: Path) -> list[Path]:
    """Write evaluation.json, .md and .png; gives their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"evaluation.{kind}" for kind in ("json", "md", "png")]
    paths[0].write_text(json.dumps(report.to_dict(), indent=2) + "\n", encoding="utf-8")
    paths[1].write_text(to_markdown(report), encoding="utf-8")
    evaluation_figure(report).savefig(paths[2], dpi=120)
    return paths


def evaluation_figure(report: EvaluationReport) -> Figure:
    """Confusion, F1 by label and reliability, side by side."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 4), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    n = len(report.classes_)
    left.imshow(
        [[c / max(1, sum(row)) for c in row] for row in report.confusion],
        cmap="Blues",
        vmin=0,
        vmax=1,
    )
    for i, row in enumerate(report.confusion):
        for j, count in enumerate(row):
            dark = count > 0.5 * max(1, sum(row))
            left.text(j, i, str(count), ha="center", va="center", color="w" if dark else "k")
    left.set_xticks(range(n), report.classes_, rotation=30, ha="right")
    left.set_yticks(range(n), report.classes_)
    left.set(xlabel="predicted", ylabel="true", title="Confusion")
    middle.barh(range(n), [v["f1"] for v in report.per_label.values()], color="tab:blue")
    middle.set_yticks(range(n), report.classes_)
    middle.invert_yaxis()
    middle.set(xlim=(0, 1), xlabel="F1", title="F1 by label")
    bins = report.reliability
    kept = [i for i, k in enumerate(bins["n"]) if k]
    right.plot([0, 1], [0, 1], "k:", linewidth=1)
    right.plot([bins["confidence"][i] for i in kept], [bins["accuracy"][i] for i in kept], "o-")
    for i in kept:
        right.annotate(
            str(int(bins["n"][i])),
            (bins["confidence"][i], bins["accuracy"][i]),
            textcoords="offset points",
            xytext=(4, -10),
            fontsize=7,
        )
    ece = report.measures["ece"].value
    right.set(
        xlim=(0, 1),
        ylim=(0, 1.02),
        xlabel="confidence",
        ylabel="accuracy",
        title=f"Reliability (ECE {ece:.3f})",
    )
    return figure


_COLUMNS = ("macro_f1", "f_stance", "stance_f1", "mcc", "weighted_f1", "ece")


def benchmark_markdown(report: BenchmarkReport) -> str:
    """All tables of a benchmark as Markdown."""
    parts = [
        f"# Benchmark: {report.name}",
        "Means over seeds; 95 % intervals by bootstrap over articles. p: difference to the best "
        "system, permutation of articles, Holm-corrected.",
    ]
    for test, leading in report.leading.items():
        rows = [r for r in report.rows if r.test == test]
        shown = [m for m in _COLUMNS if rows and m in rows[0].measures]
        table = [
            [
                r.system,
                *(format_measure(r.measures[m]) for m in shown),
                len(r.by_seed),
                "" if r.p_against_best is None else f"{r.p_against_best:.4f}",
            ]
            for r in rows
        ]
        parts += [
            f"## {test} ({rows[0].n_sentences if rows else 0} sentences)",
            markdown_table(["system", *shown, "seeds", "p"], table),
        ]
        for name in dict.fromkeys(n for r in rows for n in r.slices):
            values = rows[0].slices[name]
            header = [f"{leading} by {name}", "sentences", *(r.system for r in rows)]
            parts.append(
                markdown_table(
                    header,
                    [[v, n, *(r.slices[name][v][1] for r in rows)] for v, (n, _) in values.items()],
                )
            )
        if rows and rows[0].rulings:
            header = ["wholly right by ruling", "n", *(r.system for r in rows)]
            parts.append(
                markdown_table(
                    header,
                    [
                        [ruling, n, *(r.rulings[ruling][1] for r in rows)]
                        for ruling, (n, _) in rows[0].rulings.items()
                    ],
                )
            )
    columns = list(dict.fromkeys(k for c in report.costs.values() for k in c))
    parts += [
        "## Cost",
        markdown_table(
            ["system", *columns],
            [[s, *(c.get(k, "") for k in columns)] for s, c in report.costs.items()],
        ),
    ]
    if report.behaviour:
        names = list(dict.fromkeys(n for b in report.behaviour.values() for n in b))
        systems = list(report.behaviour)
        table = []
        for name in names:
            found = [report.behaviour[s].get(name, (0, 0.0)) for s in systems]
            table.append([name, max(n for n, _ in found), *(rate for _, rate in found)])
        parts += [
            "## Labels that stay when the text is changed",
            markdown_table(["change", "sentences", *systems], table),
        ]
    named = {s: n for s, n in report.neutrality.items() if n["n_sentences"]}
    if named:
        header = [
            "system",
            "sentences",
            "flips",
            "flips of the worse side",
            "change of obstructive",
        ]
        parts += [
            "## Belligerents' names swapped",
            markdown_table(
                header,
                [
                    [
                        system,
                        n["n_sentences"],
                        f"{n['flip_rate']:.1%}",
                        f"{max(n['flip_rate_by_side'].values(), default=0.0):.1%}",
                        f"{n['shift'].get('obstructive', 0.0):+.4f}",
                    ]
                    for system, n in named.items()
                ],
            ),
        ]
    if report.failed:
        parts += ["## Failed", *(f"* {cell}: {why}" for cell, why in report.failed.items())]
    return "\n\n".join(parts) + "\n"


def benchmark_figure(report: BenchmarkReport) -> Figure:
    """The leading measure of every system with its interval, a panel a test set."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5 * len(report.leading), 4), layout="constrained")
    panels = figure.subplots(1, len(report.leading), squeeze=False)[0]
    for axes, (test, leading) in zip(panels, report.leading.items(), strict=True):
        rows = [r for r in report.rows if r.test == test]
        found = [r.measures[leading] for r in rows]
        reach = [[m.value - m.low for m in found], [m.high - m.value for m in found]]
        axes.errorbar([m.value for m in found], range(len(rows)), xerr=reach, fmt="o", capsize=3)
        for y, row in enumerate(rows):
            axes.plot(list(row.by_seed.values()), [y] * len(row.by_seed), "k|", alpha=0.5)
        axes.set_yticks(range(len(rows)), [r.system for r in rows])
        axes.invert_yaxis()
        axes.set(xlim=(0, 1), xlabel=leading, title=test)
    return figure


def write_benchmark(report: BenchmarkReport, folder: Path) -> list[Path]:
    """Write benchmark.json, .md, .html and .svg; gives their paths."""
    paths = [folder / f"benchmark.{kind}" for kind in ("json", "md", "svg", "html")]
    paths[0].write_text(json.dumps(report.to_dict(), indent=2) + "\n", encoding="utf-8")
    text = benchmark_markdown(report)
    paths[1].write_text(text, encoding="utf-8")
    benchmark_figure(report).savefig(paths[2])
    drawn = paths[2].read_text(encoding="utf-8")
    paths[3].write_text(_page(report.name, text, drawn[drawn.index("<svg") :]), encoding="utf-8")
    return paths


def _page(title: str, text: str, drawing: str) -> str:
    """Our own Markdown (headings, tables, paragraphs) as one HTML page without links."""
    parts = []
    for block in text.strip().split("\n\n"):
        lines = [html.escape(line) for line in block.splitlines()]
        if block.startswith("#"):
            level = len(block) - len(block.lstrip("#"))
            parts.append(f"<h{level}>{lines[0].lstrip('# ')}</h{level}>")
        elif block.startswith("|"):
            rows = [[c.strip() for c in line.strip("|").split("|")] for line in lines]
            head = "".join(f"<th>{c}</th>" for c in rows[0])
            body = "".join(
                "<tr>" + "".join(f"<td>{c}</td>" for c in row) + "</tr>" for row in rows[2:]
            )
            parts.append(f"<table><tr>{head}</tr>{body}</table>")
        else:
            parts.append(f"<p>{'<br>'.join(lines)}</p>")
    style = (
        "body{font:15px sans-serif;margin:2em;max-width:90em}table{border-collapse:collapse;"
        "margin:1em 0}td,th{border-bottom:1px solid #ccc;padding:.3em .7em;text-align:right}"
        "td:first-child,th:first-child{text-align:left}svg{max-width:100%;height:auto}"
    )
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f"<style>{style}</style>{parts[0]}{drawing}{''.join(parts[1:])}</html>\n"
    )


def learning_curve_figure(history: Sequence[dict[str, Any]]) -> Figure:
    """Training loss, validation loss and validation macro_f1 over steps."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for axes, name in ((left, "loss"), (left, "validation_loss"), (right, "validation_macro_f1")):
        rows = [r for r in history if name in r]
        axes.plot([r["step"] for r in rows], [r[name] for r in rows], "-", label=name)
    left.set(xlabel="step", title="loss")
    left.legend()
    right.set(xlabel="step", ylim=(0, 1), title="validation macro_f1")
    return figure


def model_card(spec: ModelSpec, report: EvaluationReport | None, command: str) -> str:
    """The README.md of a bundle."""
    made = spec.training
    read = "a sentence alone"
    if spec.n_context or spec.has_headline:
        headline = " and the headline" if spec.has_headline else ""
        read = f"a sentence with the {spec.n_context} sentences before it{headline}"
    teachers = made.get("trainer", {}).get("teachers")
    taught = f"Learnt the answers of {', '.join(teachers)} as well.\n" if teachers else ""
    figures = "Not evaluated yet."
    if report is not None:
        figures = (
            f"{report.data}, split {report.split}: {report.n_sentences} sentences of "
            f"{report.n_articles} articles; 95 % intervals by bootstrap over articles.\n\n"
            + markdown_table(
                ["measure", "value [95 % interval]"],
                [[m, format_measure(report.measures[m])] for m in _SHOWN if m in report.measures],
            )
        )
        if report.neutrality:
            figures += f"\n\nBelligerents' names swapped: {_neutrality_line(report.neutrality)}"
            if spec.is_neutral:
                figures += (
                    "\nThat no label changes holds by construction: listed names are read alike. "
                    "`stance benchmark` swaps two sides that are not on it."
                )
        if report.holders:
            figures += f"\n\nHolder: {_holder_line(report.holders)}"
    return f"""---
license: apache-2.0
language: en
pipeline_tag: text-classification
---
# Stance classifier ({", ".join(spec.classes_)})

Fine-tuned from `{spec.base}` on {made.get("n_train_sentences", "?")} sentences, stopped on
{made.get("n_validation_sentences", "?")} validation sentences, epoch {made.get("best_epoch", "?")}.
{taught}Reads {read}, at most {spec.max_length_tokens} tokens.

## Figures

{figures}

## Intended use

Counting and finding sentences that convey a stance toward a peace process in English news text. A
label describes what a sentence conveys, not who is right. Not for judging persons, and not as the
only ground of any decision about them.

## Limits

The training text and its labels were made by language models by a written codebook; agreement
between them is model agreement, not human reliability. English only. Irony, nested quotation and
sentences that depend on distant context are often missed.

## Made by

`{command}`
"""
