"""Write a teacher's answers for the sentences that a recipe trains on, for `trainer.teachers`.

usage: python scripts/teach.py OUT.jsonl BUNDLE [BUNDLE ...]

So a small model can learn from a large one that is not installed where it is trained. Several
bundles give their mean.
"""

import sys
from pathlib import Path

import numpy as np

from stance.cli._hydra import compose_train
from stance.config import config_dir
from stance.predictions import write_predictions
from stance.prepare import load_for_training
from stance.run import taught_by


def main() -> None:
    from hydra import initialize_config_dir

    out, *teachers = sys.argv[1:]
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        config = compose_train(["experiment=minilm"])
    corpus = load_for_training(config.data, config.seed).split("train")
    proba = np.mean([taught_by(t, corpus) for t in teachers], 0)
    write_predictions(Path(out), corpus, proba)
    print(f"written: {out}, {len(corpus)} sentences")


if __name__ == "__main__":
    main()
