"""A score template: the text that a reranker was trained to read a query and a document in."""

import argparse

from poolrt.runtime import LLM

QUERY = "how much protein should a female eat?"
DOCUMENTS = ["Women need about 46 grams of protein a day.", "A summit is the top of a mountain."]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--model",
        default="nvidia/llama-nemotron-rerank-1b-v2",
        help="artifact, checkpoint folder or hub id (default: %(default)s)",
    )
    parser.add_argument(
        "--chat-template",
        default="examples/pooling/score/template/nemotron-rerank.jinja",
        help="default: %(default)s",
    )
    options = parser.parse_args()

    llm = LLM(
        model=options.model, runner="pooling", trust_remote_code=True, chat_template=options.chat_template
    )
    for document, output in zip(DOCUMENTS, llm.score(QUERY, DOCUMENTS), strict=True):
        print(f"{output.outputs.score:.6f}  {document}")


if __name__ == "__main__":
    main()
