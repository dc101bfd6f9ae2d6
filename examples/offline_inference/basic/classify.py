"""Class probabilities per text, without a server."""

import argparse

from poolrt.runtime import LLM

TEXTS = ["What a delightful afternoon.", "The parcel came on Tuesday.", "I want my money back."]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--model",
        default="jason9693/Qwen2.5-1.5B-apeach",
        help="artifact, checkpoint folder or hub id (default: %(default)s)",
    )
    options = parser.parse_args()

    llm = LLM(model=options.model, runner="pooling")
    for text, output in zip(TEXTS, llm.classify(TEXTS), strict=True):
        probabilities = output.outputs.probs
        shown = ", ".join(f"{value:.4f}" for value in probabilities)
        print(f"{text!r}\n  [{shown}] (size={len(probabilities)}), most likely {output.outputs.label}")


if __name__ == "__main__":
    main()
