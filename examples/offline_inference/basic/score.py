"""How well each document fits a query, without a server."""

import argparse

from poolrt.runtime import LLM

QUERY = "Why does dough rise?"
DOCUMENTS = ["Yeast turns sugar into gas.", "The sun rises in the east."]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--model",
        default="BAAI/bge-reranker-v2-m3",
        help="artifact, checkpoint folder or hub id (default: %(default)s)",
    )
    options = parser.parse_args()

    llm = LLM(model=options.model, runner="pooling")
    for document, output in zip(DOCUMENTS, llm.score(QUERY, DOCUMENTS), strict=True):
        print(f"{QUERY!r} {document!r}\n  score: {output.outputs.score:.6f}")


if __name__ == "__main__":
    main()
