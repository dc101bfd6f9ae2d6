"""Qwen3's reranker as its authors published it, over HTTP.

    poolrt serve Qwen/Qwen3-Reranker-0.6B \
        --hf_overrides '{"architectures": ["Qwen3ForSequenceClassification"],
        "classifier_from_token": ["no", "yes"],
                         "is_original_qwen3_reranker": true}' \
        --chat-template examples/pooling/score/template/qwen3_reranker.jinja
"""

import argparse
import json
import urllib.request
from typing import Any

QUERY = "What is the capital of China?"
DOCUMENTS = [
    "The capital of China is Beijing.",
    "Gravity is the force by which bodies with mass attract each other.",
]


def post(url: str, body: dict[str, object]) -> Any:
    request = urllib.request.Request(
        url, json.dumps(body).encode(), headers={"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request) as response:
        return json.load(response)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--host", default="localhost")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument(
        "--model", default="Qwen/Qwen3-Reranker-0.6B", help="its name on the server (default: %(default)s)"
    )
    parser.add_argument("--instruction", help="what a relevant document is, in the template's words")
    options = parser.parse_args()

    body: dict[str, object] = {"model": options.model, "query": QUERY, "documents": DOCUMENTS}
    if options.instruction:
        body["instruction"] = options.instruction
    for result in post(f"http://{options.host}:{options.port}/rerank", body)["results"]:
        print(f"{result['relevance_score']:.6f}  {result['document']['text']}")


if __name__ == "__main__":
    main()
