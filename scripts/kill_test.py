"""Kill a training run with SIGKILL at random moments, resume it, compare the final weights' bits.

usage: python scripts/kill_test.py [--n-kills 20] [--seed 0]

Each trial starts a run from nothing, kills it at a moment drawn over the whole life of an unbroken
run, start-up included, resumes it, and compares SHA-256 of the weights with the unbroken run's.
"""

import argparse
import hashlib
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from stance.config import find_data
from stance.corpus import load_corpus

N_ARTICLES = {"train": 12, "validation": 4}
OPTIONS = [
    "trainer.num_train_epochs=2",
    "trainer.save_steps=3",
    "trainer.precision=fp32",
    "evaluate_test=false",
    "resume=true",
]


def command(folder: Path) -> list[str]:
    """The training command of one run folder."""
    data = f"data={folder.parent / 'data.jsonl'}"
    return [sys.executable, "-m", "stance", "train", data, *OPTIONS, f"output_dir={folder}"]


def write_data(path: Path) -> None:
    """A few whole articles of the embedded corpus."""
    corpus = load_corpus(find_data("peace_talks"))
    with path.open("w", encoding="utf-8") as file:
        for split, n_articles in N_ARTICLES.items():
            part = corpus.split(split)
            for s in part.subset(list(part.articles)[:n_articles]).sentences:
                row = {"article_id": s.article_id, "index": s.index, "text": s.text}
                file.write(json.dumps({**row, "label": s.label, "split": split}) + "\n")


def weights(folder: Path) -> str:
    """SHA-256 of the bundle's weights."""
    return hashlib.sha256((folder / "bundle" / "weights.safetensors").read_bytes()).hexdigest()


def main() -> int:
    """Run the trials; 0 where all agree."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n-kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    work = Path(tempfile.mkdtemp(prefix="kill-test-"))
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    try:
        write_data(work / "data.jsonl")
        start = time.monotonic()
        subprocess.run(command(work / "whole"), check=True, **quiet)
        life = time.monotonic() - start
        expected = weights(work / "whole")
        print(f"unbroken run: {life:.1f} s, weights {expected[:16]}", flush=True)
        n_same = trial = 0
        while trial < options.n_kills:
            folder = work / "cut"
            shutil.rmtree(folder, ignore_errors=True)
            moment = rng.uniform(0, life)
            process = subprocess.Popen(command(folder), **quiet)
            time.sleep(moment)
            was_running = process.poll() is None
            process.kill()
            process.wait()
            if not was_running:  # it was done before the moment came: draw another
                continue
            trial += 1
            found = sorted(p.name for p in folder.glob("checkpoint-*"))
            subprocess.run(command(folder), check=True, **quiet)
            is_same = weights(folder) == expected
            n_same += is_same
            print(
                f"{trial:2d}: killed at {moment:5.1f} s, "
                f"found {found or 'no checkpoint'}, same bits {is_same}",
                flush=True,
            )
        print(f"{n_same} of {options.n_kills} ended with the unbroken run's bits")
        return 0 if n_same == options.n_kills else 1
    finally:
        shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
