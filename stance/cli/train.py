"""`stance train`: audit, fine-tune, evaluate, save a bundle, predict an example."""

from __future__ import annotations

import logging
import shlex
import sys
from pathlib import Path

from stance.cli import _hydra
from stance.config import DataConfig, TrainConfig, find_data
from stance.corpus import Corpus, load_corpus
from stance.errors import LeakageError
from stance.splits import first_train_articles, with_extra_train, with_splits

log = logging.getLogger(__name__)


def main(argv: list[str]) -> int:
    """Run the whole job."""
    return _hydra.run("train", TrainConfig, _task, argv, {"data": "data.path"}, ("data",))


def load_for_training(data: DataConfig, seed: int) -> Corpus:
    """Load, split and audit; `LeakageError` where splits leak and that is not allowed."""
    from stance.audit import find_leakage

    corpus = load_corpus(
        find_data(data.path), text_field=data.text_field, label_field=data.label_field
    )
    corpus = with_splits(
        corpus, {"validation": data.validation_share, "test": data.test_share}, seed
    )
    if data.max_train_articles:
        corpus = first_train_articles(corpus, data.max_train_articles, seed)
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


def _task(config: TrainConfig, run_dir: Path) -> None:
    import torch

    from stance.classifier import load
    from stance.evaluation import evaluate
    from stance.model import save_bundle
    from stance.report import learning_curve_figure, model_card, to_markdown, write_report
    from stance.training import train

    corpus = load_for_training(config.data, config.seed)
    result = train(config, corpus, run_dir)
    log.info("trained in %.0f s", result.elapsed_s)
    command = shlex.join(["stance", "train", *sys.argv[1:]])
    bundle = run_dir / "bundle"
    dtype = getattr(torch, config.trainer.bundle_dtype)
    save_bundle(
        bundle,
        result.model,
        result.spec,
        result.tokenizer,
        model_card(result.spec, None, command),
        dtype,
    )
    written = [bundle, run_dir / "metrics.jsonl", run_dir / "learning_curves.png"]
    learning_curve_figure(result.history).savefig(written[-1], dpi=120)
    if config.evaluate_test:
        split = "test" if "test" in corpus.splits else "validation"
        report = evaluate(load(bundle), corpus, split=split, system=str(bundle), seed=config.seed)
        card = model_card(result.spec, report, command)
        save_bundle(bundle, result.model, result.spec, result.tokenizer, card, dtype)
        print(to_markdown(report))
        written += write_report(report, run_dir / "evaluation")
    if config.example:
        from stance.cli.predict import main as predict

        predict([config.example, "--model", str(bundle)])
    print("written:", *written, sep="\n  ")
