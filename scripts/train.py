"""`stance train` as a script."""

import sys

from stance.cli import main

sys.exit(main(["train", *sys.argv[1:]]))
