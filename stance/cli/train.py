"""`stance train`: audit, fine-tune, evaluate, save a bundle, predict an example."""

from __future__ import annotations

import logging
import shlex
import sys
from pathlib import Path

from stance.cli import _hydra
from stance.config import TrainConfig
from stance.prepare import load_for_training

log = logging.getLogger(__name__)


def main(argv: list[str]) -> int:
    """Run the whole job; under `torchrun` together with the other processes."""
    code = _hydra.run("train", TrainConfig, _task, argv, {"data": "data.path"}, ("data",))
    if "stance.parallel" in sys.modules:  # not after --help
        from stance.parallel import leave

        leave()
    return code


def _task(config: TrainConfig, run_dir: Path) -> None:
    import torch

    from stance.bundle import bundle_tensors, put_first_look, save_bundle
    from stance.classifier import load
    from stance.distill import fit_first_look
    from stance.evaluation import evaluate
    from stance.parallel import join
    from stance.report import learning_curve_figure, model_card, to_markdown, write_report
    from stance.training import train

    ranks = join(config.trainer.device)
    if not ranks.is_main:
        logging.disable()
    corpus = load_for_training(config.data, config.seed)
    result = train(config, corpus, run_dir)
    if not ranks.is_main:
        return
    log.info("trained in %.0f s", result.elapsed_s)
    command = shlex.join(["stance", "train", *sys.argv[1:]])
    bundle = run_dir / "bundle"
    dtype = getattr(torch, config.trainer.bundle_dtype)
    tensors = bundle_tensors(result.model, result.spec, dtype, config.trainer.bundle_rank)
    card = model_card(result.spec, None, command)
    save_bundle(bundle, tensors, result.spec, result.tokenizer, card, result.calibration)
    written = [bundle, run_dir / "metrics.jsonl", run_dir / "learning_curves.png"]
    learning_curve_figure(result.history).savefig(written[-1], dpi=120)
    if config.evaluate_test:
        split = "test" if "test" in corpus.splits else "validation"
        model = load(bundle, backend="fp32")
        report = evaluate(model, corpus, split=split, system=str(bundle), seed=config.seed)
        card = model_card(result.spec, report, command)
        save_bundle(bundle, tensors, result.spec, result.tokenizer, card, result.calibration)
        print(to_markdown(report))
        written += write_report(report, run_dir / "evaluation")
    if config.trainer.first_look and (first_look := fit_first_look(bundle, corpus)):
        put_first_look(bundle, first_look)
    if config.example:
        from stance.cli.predict import main as predict

        predict([config.example, "--model", str(bundle)])
    print("written:", *written, sep="\n  ")
