"""Shorter vectors from a Matryoshka model, without a server."""

import argparse
import json

from poolrt.runtime import LLM, PoolingParams

TEXTS = ["Follow the white rabbit.", "Follow the yellow brick road."]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--model",
        default="jinaai/jina-embeddings-v3",
        help="artifact, checkpoint folder or hub id (default: %(default)s)",
    )
    parser.add_argument(
        "--dimensions", type=int, default=32, help="width of the vectors (default: %(default)s)"
    )
    parser.add_argument(
        "--hf-overrides",
        type=json.loads,
        help='for a model that does not say which widths it has: {"is_matryoshka": true}',
    )
    options = parser.parse_args()

    llm = LLM(
        model=options.model, runner="pooling", trust_remote_code=True, hf_overrides=options.hf_overrides
    )
    outputs = llm.embed(TEXTS, pooling_params=PoolingParams(dimensions=options.dimensions))
    for text, output in zip(TEXTS, outputs, strict=True):
        vector = output.outputs.embedding
        shown = ", ".join(f"{value:+.4f}" for value in vector[:8])
        print(f"{text!r}\n  [{shown}, ...] (size={len(vector)})")


if __name__ == "__main__":
    main()
