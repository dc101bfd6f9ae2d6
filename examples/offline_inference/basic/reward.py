"""What a reward model says of each token of a text, without a server."""

import argparse

from poolrt.runtime import LLM

TEXTS = ["Two and two are four.", "Two and two are five."]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--model",
        default="internlm/internlm2-1_8b-reward",
        help="artifact, checkpoint folder or hub id (default: %(default)s)",
    )
    options = parser.parse_args()

    llm = LLM(model=options.model, runner="pooling", trust_remote_code=True)
    for text, output in zip(TEXTS, llm.reward(TEXTS), strict=True):
        rewards = output.outputs.data  # [tokens, values]
        print(f"{text!r}\n  {rewards.shape[0]} tokens, the last one: {rewards[-1]}")


if __name__ == "__main__":
    main()
