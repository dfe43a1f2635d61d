"""`stance evaluate` as a script."""

import sys

from stance.cli import main

sys.exit(main(["evaluate", *sys.argv[1:]]))
