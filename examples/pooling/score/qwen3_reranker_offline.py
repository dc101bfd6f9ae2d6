"""Qwen3's reranker as its authors published it: a language model whose answers yes and no are the score."""

import argparse

from poolrt.runtime import LLM

TEMPLATE = "examples/pooling/score/template/qwen3_reranker.jinja"
ORIGINAL = {
    "architectures": ["Qwen3ForSequenceClassification"],
    "classifier_from_token": ["no", "yes"],
    "is_original_qwen3_reranker": True,
}
QUERIES = ["What is the capital of China?", "Explain gravity"]
DOCUMENTS = [
    "The capital of China is Beijing.",
    "Gravity is the force by which bodies with mass attract each other.",
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--model",
        default="Qwen/Qwen3-Reranker-0.6B",
        help="artifact, checkpoint folder or hub id (default: %(default)s)",
    )
    options = parser.parse_args()

    llm = LLM(model=options.model, runner="pooling", hf_overrides=ORIGINAL)
    outputs = llm.score(QUERIES, DOCUMENTS, chat_template=TEMPLATE)
    for query, document, output in zip(QUERIES, DOCUMENTS, outputs, strict=True):
        print(f"{query!r} {document!r}\n  score: {output.outputs.score:.6f}")


if __name__ == "__main__":
    main()
