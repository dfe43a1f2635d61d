"""Kill `stance score` with SIGKILL at random moments, go on, compare with an unbroken run.

usage: python scripts/kill_score.py [--n-kills 20] [--seed 0] [--n-articles 120] [--model DIR]
           [--workers N] [--engine ray]

Each trial scores an archive of tables and files from nothing, kills it at a moment drawn over the
whole life of an unbroken run, start-up included, goes on, and compares every row and every reject
with the unbroken run's.
"""

import argparse
import csv
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from stance.config import find_data
from stance.corpus import load_corpus


def write_archive(folder: Path, n_articles: int) -> None:
    """Articles of the embedded corpus, a quarter in each kind of file, every tenth one spoilt."""
    corpus = load_corpus(find_data("peace_talks"))
    folder.mkdir()
    kinds: list[list[dict[str, str]]] = [[], [], [], []]
    for number, article_id in enumerate(list(corpus.articles)[:n_articles]):
        text = "\n\n".join(corpus.subset([article_id]).texts)
        row = {"article_id": article_id, "text": text if number % 10 else ""}
        kinds[number * len(kinds) // n_articles].append(row)
    lines = (json.dumps(row) + "\n" for row in kinds[0])
    (folder / "a.jsonl").write_text("".join(lines), encoding="utf-8")
    with (folder / "b.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ("article_id", "text"))
        writer.writeheader()
        writer.writerows(kinds[1])
    pq.write_table(pa.Table.from_pylist(kinds[2]), folder / "c.parquet", row_group_size=7)
    for row in kinds[3]:
        (folder / f"{row['article_id']}.txt").write_text(row["text"], encoding="utf-8")


def result(out: Path) -> tuple[list[dict[str, object]], str]:
    """All rows and all rejects of an output folder."""
    shards = [pq.read_table(p) for p in sorted(out.glob("*.parquet"))]
    rejects = (out / "rejects.jsonl").read_text(encoding="utf-8")
    return [row for shard in shards for row in shard.to_pylist()], rejects


def main() -> int:
    """Run the trials; 0 where all agree."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n-kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--n-articles", type=int, default=120)
    parser.add_argument("--model", default="minilm")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--engine", default="local")
    options = parser.parse_args()
    rng = random.Random(options.seed)
    work = Path(tempfile.mkdtemp(prefix="kill-score-"))
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}

    def command(out: Path) -> list[str]:
        return [
            *(sys.executable, "-m", "stance", "score", str(work / "archive"), str(out)),
            *("--model", options.model, "--shard-sentences", "100"),
            *("--workers", str(options.workers), "--engine", options.engine),
        ]

    try:
        write_archive(work / "archive", options.n_articles)
        start = time.monotonic()
        subprocess.run(command(work / "whole"), check=True, stdout=subprocess.DEVNULL)
        life = time.monotonic() - start
        expected = result(work / "whole")
        n_rejects = expected[1].count("\n")
        print(f"unbroken run: {life:.1f} s, {len(expected[0])} sentences, {n_rejects} rejects")
        n_same = trial = 0
        while trial < options.n_kills:
            out = work / "cut"
            shutil.rmtree(out, ignore_errors=True)
            moment = rng.uniform(0, life)
            process = subprocess.Popen(command(out), **quiet)
            time.sleep(moment)
            was_running = process.poll() is None
            process.kill()
            process.wait()
            if not was_running:  # it was done before the moment came: draw another
                if process.returncode:
                    raise SystemExit(f"failed by itself: {' '.join(command(out))}")
                continue
            trial += 1
            n_shards = len(list(out.glob("part-*")))
            subprocess.run(command(out), check=True, **quiet)
            is_same = result(out) == expected
            n_same += is_same
            print(
                f"{trial:2d}: killed at {moment:5.1f} s, found {n_shards:2d} shards, "
                f"same rows and rejects {is_same}",
                flush=True,
            )
        print(f"{n_same} of {options.n_kills} ended with the unbroken run's rows and rejects")
        return 0 if n_same == options.n_kills else 1
    finally:
        shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
