"""A trained model as ONNX and torch.export files: `python -m raydml.export RUN`."""

from __future__ import annotations

if __name__ == "__main__":
    import sys

    from raydml.cli import main

    sys.exit(main(["export", *sys.argv[1:]]))
