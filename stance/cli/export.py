"""`stance export MODEL --backend NAME`: make a faster backend and check it against fp32."""

from __future__ import annotations

import argparse
import logging
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stance.exports import Exports, GateResult


def main(argv: list[str]) -> int:
    """Export, print the comparison; 1 where the backend failed it."""
    parser = argparse.ArgumentParser(
        prog="stance export",
        description="Make a faster backend for a model and compare it with fp32 on labelled "
        "sentences. What passes is kept in the user's cache; --backend auto and stance.load then "
        "use it where it is the fastest.",
    )
    parser.add_argument("model", metavar="MODEL", help="a bundle or run folder, or a shipped name")
    parser.add_argument("--backend", choices=("bf16", "onnx-int8"), required=True)
    parser.add_argument(
        "--data",
        default="peace_talks",
        metavar="DATA",
        help="labelled sentences, of which the validation split is taken (default: peace_talks)",
    )
    options = parser.parse_args(argv)
    from stance.bundle import find_bundle
    from stance.config import find_data
    from stance.corpus import load_corpus
    from stance.exports import Exports
    from stance.gate import export_backend

    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    logging.getLogger().setLevel(logging.ERROR)  # onnxruntime's advice on image models
    corpus = load_corpus(find_data(options.data))
    part = corpus.split("validation") if "validation" in corpus.splits else corpus
    folder = find_bundle(options.model)
    result = export_backend(
        folder, options.backend, part, show=lambda line: print(line, file=sys.stderr, flush=True)
    )
    _print(options.backend, result, Exports(folder))
    return 0 if result.is_passed else 1


def _print(name: str, found: GateResult, exports: Exports) -> None:
    from stance.exports import MAX_NEIGHBOUR_CHANGE
    from stance.gate import MAX_LOSS, MIN_AGREEMENT

    print(f"{name} against fp32: {found.n_sentences} sentences of {found.n_articles} articles")
    print(f"  same label: {found.agreement:.2%} (at least {MIN_AGREEMENT:.0%})")
    print(
        f"  loss of {found.measure}: {100 * found.loss:.2f} points "
        f"[{100 * found.loss_low:.2f}, {100 * found.loss_high:.2f}] (at most {100 * MAX_LOSS})"
    )
    print(
        f"  change by neighbours in a batch: {found.neighbour_change:.1e} "
        f"(at most {MAX_NEIGHBOUR_CHANGE:.0e})"
    )
    if found.recipe:
        print(f"  quantised: {found.recipe}")
    for machine, speeds in exports.speeds().items():
        for backend, speed in speeds.items():
            print(f"  {backend}: {speed.sentences_per_s:.0f} sentences/s on {machine}")
    print(f"{'passed' if found.is_passed else 'failed, and is never used'}; kept: {exports.folder}")
