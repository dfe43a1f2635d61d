"""`stance predict` as a script."""

import sys

from stance.cli import main

sys.exit(main(["predict", *sys.argv[1:]]))
