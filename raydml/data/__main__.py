"""`python -m raydml.data check DATA` and `python -m raydml.data prepare DATA`: forwards to the command line."""

from __future__ import annotations

if __name__ == "__main__":
    import sys

    from raydml.cli import main

    sys.exit(main(["data", *sys.argv[1:]]))
