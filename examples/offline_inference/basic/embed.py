"""One vector per text, without a server."""

import argparse

from poolrt.runtime import LLM

TEXTS = [
    "Dough rises because yeast makes gas.",
    "The sun rises in the east.",
    "Prices rise when goods are scarce.",
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--model",
        default="intfloat/e5-small",
        help="artifact, checkpoint folder or hub id (default: %(default)s)",
    )
    options = parser.parse_args()

    llm = LLM(model=options.model, runner="pooling")
    for text, output in zip(TEXTS, llm.embed(TEXTS), strict=True):
        vector = output.outputs.embedding
        shown = ", ".join(f"{value:+.4f}" for value in vector[:8])
        print(f"{text!r}\n  [{shown}, ...] (size={len(vector)})")


if __name__ == "__main__":
    main()
