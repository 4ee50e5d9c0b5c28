"""`python -m raydml.report RUN ...`: only forwards to the command line."""

from __future__ import annotations

import sys

if __name__ == "__main__":
    from raydml.cli import main

    sys.exit(main(["report", *sys.argv[1:]]))
