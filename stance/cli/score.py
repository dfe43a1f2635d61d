"""`stance score IN... OUT/`: the sentences of an archive, labelled, as Parquet files."""

from __future__ import annotations

import argparse
import sys
from contextlib import redirect_stdout

from stance.cli.predict import add_backend


def main(argv: list[str]) -> int:
    """Score an archive, or go on with it; 1 where no article at all could be scored."""
    parser = argparse.ArgumentParser(
        prog="stance score",
        description="Label every sentence of an archive of articles. The same command again goes "
        "on where a run was stopped.",
    )
    parser.add_argument(
        "inputs",
        nargs="+",
        metavar="IN",
        help=".jsonl, .csv, .parquet (an article a row), .txt, .html, or folders of these",
    )
    parser.add_argument("out", metavar="OUT", help="folder to write")
    parser.add_argument("--text-field", default="text", metavar="COLUMN", help="default: text")
    parser.add_argument(
        "--id-field", default="article_id", metavar="COLUMN", help="default: article_id"
    )
    parser.add_argument("--model", metavar="DIR", help="a bundle or run folder (default: shipped)")
    add_backend(parser)
    parser.add_argument(
        "--abstain-below", type=float, default=0.0, metavar="SCORE", help="label less sure ones so"
    )
    parser.add_argument(
        "--shard-sentences", type=int, default=20_000, metavar="N", help="default: 20000"
    )
    parser.add_argument(
        "--workers", type=int, metavar="N", help="processes (default: 1; with ray: all processors)"
    )
    parser.add_argument(
        "--engine", choices=("local", "ray"), default="local", help="this machine, or a Ray cluster"
    )
    parser.add_argument(
        "--ray-address",
        metavar="ADDRESS",
        help="of a cluster (default: the one here, else start one)",
    )
    parser.add_argument(
        "--no-first-look",
        action="store_true",
        help="read every sentence, those that are surely none too: slower, a little more exact",
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    options = parser.parse_args(argv)
    from stance.archive import score_archive

    with redirect_stdout(sys.stderr):  # Ray prints there
        done = score_archive(
            options.inputs,
            options.out,
            model=options.model,
            backend=options.backend,
            text_field=options.text_field,
            id_field=options.id_field,
            abstain_below=options.abstain_below,
            shard_sentences=options.shard_sentences,
            first_look=not options.no_first_look,
            workers=options.workers,
            engine=options.engine,
            ray_address=options.ray_address,
            show_progress=not options.quiet,
        )
    print("nothing to do; " * done.was_finished + str(done), flush=True)
    if done.n_rejects and not done.n_articles:
        print("stance score: every article was rejected; see rejects.jsonl", file=sys.stderr)
        return 1
    return 0
