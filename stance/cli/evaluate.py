"""`stance evaluate`: a model or a predictions file on labelled sentences."""

from __future__ import annotations

from pathlib import Path

from stance.cli import _hydra
from stance.config import EvaluateConfig, find_data
from stance.corpus import load_corpus
from stance.evaluation import choose_split, evaluate, report_on
from stance.predictions import read_predictions
from stance.report import to_markdown, write_report


def main(argv: list[str]) -> int:
    """Evaluate, print the report, write it to the run folder."""
    paths = {"model": "model.path", "data": "data.path", "predictions": "predictions"}
    return _hydra.run("evaluate", EvaluateConfig, _task, argv, paths)


def _task(config: EvaluateConfig, run_dir: Path) -> None:
    corpus = load_corpus(
        find_data(config.data.path),
        text_field=config.data.text_field,
        label_field=config.data.label_field,
    )
    if config.predictions:
        part, split = choose_split(corpus, config.split)
        report = report_on(
            part,
            read_predictions(Path(config.predictions), part),
            split=split,
            system=config.predictions,
            n_resamples=config.n_resamples,
            seed=config.seed,
        )
    else:
        from stance.classifier import load

        report = evaluate(
            load(config.model.path, backend="fp32"),
            corpus,
            split=config.split,
            system=config.model.path,
            n_resamples=config.n_resamples,
            seed=config.seed,
        )
    print(to_markdown(report))
    print("written:", *write_report(report, run_dir))
