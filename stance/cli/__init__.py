"""The command line: `stance COMMAND ...`. Only train, evaluate and benchmark load Hydra."""

from __future__ import annotations

import sys
from importlib import import_module

from stance.errors import StanceError

COMMANDS = {
    "train": "fine-tune a model on labelled sentences",
    "evaluate": "measure a model or a predictions file on labelled sentences",
    "benchmark": "compare systems on test sets, with intervals and paired tests",
    "predict": "label the sentences of an article",
    "score": "label the sentences of an archive of articles",
    "export": "make a faster form of a model and check it against the model",
    "annotate": "send sentences to annotators and read their votes back",
    "agreement": "how far annotators agree",
    "audit": "check labelled sentences for leakage and faults",
}


def usage() -> str:
    """The text of `stance --help`."""
    lines = [f"  {name:<10} {what}" for name, what in COMMANDS.items()]
    return (
        "usage: stance COMMAND ...\n\n"
        "Stance toward peace talks, sentence by sentence: optimistic, obstructive, conciliatory, "
        "none.\n\n" + "\n".join(lines) + "\n\nMore: stance COMMAND --help"
    )


def main(argv: list[str] | None = None) -> int:
    """Run a command; 0 done, 1 failed, 2 usage."""
    arguments = sys.argv[1:] if argv is None else argv
    if arguments and arguments[0] in ("-h", "--help"):
        print(usage())
        return 0
    if arguments and arguments[0] == "--version":
        from stance import __version__

        print(__version__)
        return 0
    if not arguments or arguments[0] not in COMMANDS:
        if arguments:
            print(f"stance: unknown command {arguments[0]!r}\n", file=sys.stderr)
        print(usage(), file=sys.stderr)
        return 2
    try:
        return int(import_module(f"stance.cli.{arguments[0]}").main(arguments[1:]))
    except StanceError as err:
        print(f"stance {arguments[0]}: error: {err}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # the reader of a pipe went away, as with `| head`
        sys.stderr.close()
        return 0
    except KeyboardInterrupt:
        print("stance: stopped", file=sys.stderr)
        return 1
