"""Time `stance train` against `transformers.Trainer` at its defaults, on the same task, in turn.

usage: python scripts/training_ratio.py [--train-share 1.0] [--epochs 5] [--seeds 13,14,15]

Both tune minilm on the same sentences with the corpus's labels alone (no teacher, swapped names,
pairs or holder), for the same epochs at the same batch size and learning rate; whatever else the
Trainer has stays at its default: AutoModelForSequenceClassification, texts cut at the same length,
DataCollatorWithPadding. Counted is all from the corpus in memory to a trained model. For stance
that holds the choice of precision, a validation after each epoch and the checkpoints; the Trainer
does not validate. CPU seconds stand beside wall seconds, for machines that do something else too.
The scores are those on the validation split; stance keeps its best epoch there, which favours it a
little. Needs `pip install accelerate`, which the Trainer asks for.
"""

import argparse
import dataclasses
import logging
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from datasets import Dataset
from hydra import initialize_config_dir
from scipy.stats import t
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
    set_seed,
)

from stance.cli._hydra import compose_train
from stance.config import TrainConfig, config_dir
from stance.corpus import Corpus
from stance.encoder import find_base
from stance.labels import NONE
from stance.metrics import confusion, macro_f1, mean_f1_of
from stance.prepare import load_for_training
from stance.training import train

MEASURES = ("seconds", "cpu_seconds", "f_stance", "macro_f1")
Answers = np.ndarray


def with_stance(config: TrainConfig, corpus: Corpus, folder: Path) -> Callable[[], Answers]:
    """Train by the loop of this package; returns what labels validation."""
    result = train(config, corpus, folder)
    return lambda: result.calibration.proba.argmax(1)


def with_trainer(config: TrainConfig, corpus: Corpus, folder: Path) -> Callable[[], Answers]:
    """Train by transformers; returns what labels validation."""
    base = find_base(config.model.base).folder
    tokenizer = AutoTokenizer.from_pretrained(base)

    def encoded(part: Corpus) -> Dataset:
        made = tokenizer(part.texts, truncation=True, max_length=config.model.max_length_tokens)
        return Dataset.from_dict({**made, "labels": part.y})

    options = config.trainer
    arguments = TrainingArguments(
        output_dir=str(folder),
        learning_rate=options.learning_rate,
        num_train_epochs=options.num_train_epochs,
        per_device_train_batch_size=options.train_batch_size,
        seed=config.seed,
        disable_tqdm=True,
    )
    set_seed(config.seed)
    trainer = Trainer(
        AutoModelForSequenceClassification.from_pretrained(base, num_labels=len(corpus.classes_)),
        arguments,
        train_dataset=encoded(corpus.split("train")),
        data_collator=DataCollatorWithPadding(tokenizer),
    )
    trainer.train()
    validation = encoded(corpus.split("validation"))
    return lambda: trainer.predict(validation).predictions.argmax(1)


def timed(
    way: Callable[[TrainConfig, Corpus, Path], Callable[[], Answers]],
    config: TrainConfig,
    corpus: Corpus,
) -> dict[str, float]:
    """Seconds and validation scores of one training."""
    with tempfile.TemporaryDirectory() as folder:
        wall, cpu = time.perf_counter(), time.process_time()
        answer = way(config, corpus, Path(folder))
        taken = time.perf_counter() - wall, time.process_time() - cpu
        y_pred = answer()
    matrix = confusion(corpus.split("validation").y, y_pred, len(corpus.classes_))
    stances = [i for i, name in enumerate(corpus.classes_) if name != NONE]
    scores = float(mean_f1_of(stances)(matrix)), float(macro_f1(matrix))
    return dict(zip(MEASURES, (*taken, *scores), strict=True))


def over_seeds(values: list[float]) -> str:
    """Mean and the 95 % t interval over seeds."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return f"{mean:.3f}"
    half = t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / len(values) ** 0.5
    return f"{mean:.3f} [{mean - half:.3f}, {mean + half:.3f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train-share", type=float, default=1.0)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--seeds", default="13,14,15")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(message)s")
    plain = [
        *(f"data.train_share={options.train_share}", "trainer.teachers=[]"),
        *(f"trainer.num_train_epochs={options.epochs}", "trainer.holder_weight=0"),
        *("trainer.soft_label_weight=0", "trainer.calibrate=false", "model.is_neutral=false"),
        f"trainer.early_stopping_patience={options.epochs}",
    ]
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        config = compose_train(plain)
    corpus = load_for_training(config.data, config.seed)
    ways = {"stance": with_stance, "Trainer": with_trainer}
    found: dict[str, list[dict[str, float]]] = {name: [] for name in ways}
    for number, seed in enumerate(int(s) for s in options.seeds.split(",")):
        for name in sorted(ways, reverse=number % 2 == 0):
            made = timed(ways[name], dataclasses.replace(config, seed=seed), corpus)
            found[name].append(made)
            print(f"seed {seed} {name:8s}", *(f"{k} {v:.3f}" for k, v in made.items()), flush=True)
    print(f"{len(corpus.split('train'))} sentences, {options.epochs} epochs, over the seeds:")
    for name, rows in found.items():
        medians = [f"{k} {statistics.median(r[k] for r in rows):.1f}" for k in MEASURES[:2]]
        print(f"{name:8s} medians:", *medians)
        print(f"{name:8s}", *(f"{k} {over_seeds([r[k] for r in rows])}" for k in MEASURES[2:]))
    for key in MEASURES[:2]:
        ours, theirs = ([r[key] for r in found[name]] for name in ways)
        ratio = statistics.median(ours) / statistics.median(theirs)
        pairs = [a / b for a, b in zip(ours, theirs, strict=True)]
        print(f"{key}: ratio of medians {ratio:.3f}, by seed {min(pairs):.3f} to {max(pairs):.3f}")


if __name__ == "__main__":
    main()
