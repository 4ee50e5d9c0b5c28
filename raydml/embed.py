"""Embeddings of any images by a trained model, as Parquet: `python -m raydml.embed RUN IMAGES`."""

from __future__ import annotations

if __name__ == "__main__":
    import sys

    from raydml.cli import main

    sys.exit(main(["embed", *sys.argv[1:]]))
