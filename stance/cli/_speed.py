"""`stance benchmark speed`: how fast models answer on this machine."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from pathlib import Path


def main(argv: list[str]) -> int:
    """Measure, print the tables, write them; 1 where a part failed."""
    parser = argparse.ArgumentParser(
        prog="stance benchmark speed",
        description="Time the shipped models side by side with transformers.pipeline.",
    )
    parser.add_argument("--models", default="minilm,mpnet", help="default: minilm,mpnet")
    parser.add_argument("--backends", default="fp32,bf16,onnx-int8", help="default: all")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="default: 5")
    parser.add_argument("--n-texts", type=int, default=512, metavar="N", help="default: 512")
    parser.add_argument(
        "--sizes", default="1000,10000", help="sentences of archives (default: 1000,10000)"
    )
    parser.add_argument("--workers", default="1,2", help="for archives (default: 1,2)")
    parser.add_argument("--out", default="runs/speed", metavar="DIR", help="default: runs/speed")
    options = parser.parse_args(argv)
    logging.basicConfig(format="[%(asctime)s] %(message)s", stream=sys.stderr, level=logging.INFO)
    from stance.config import find_data
    from stance.corpus import load_corpus
    from stance.speed import measure_speed, speed_markdown

    report = measure_speed(
        load_corpus(find_data("peace_talks")).split("test"),
        options.models.split(","),
        options.backends.split(","),
        options.n_texts,
        options.rounds,
        [int(n) for n in options.sizes.split(",") if n],
        [int(n) for n in options.workers.split(",")],
    )
    text = speed_markdown(report)
    print(text)
    folder = Path(options.out)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "speed.md").write_text(text + "\n", encoding="utf-8")
    (folder / "speed.json").write_text(json.dumps(report.to_dict(), indent=2) + "\n", "utf-8")
    print(f"written: {folder}/speed.md, {folder}/speed.json")
    return 1 if report.failed else 0
