"""Documents ranked by a ColBERT model, and the token vectors behind it.

poolrt serve answerdotai/answerai-colbert-small-v1
"""

import argparse
import json
import urllib.request
from typing import Any

QUERY = "What is machine learning?"
DOCUMENTS = [
    "Machine learning is a subset of artificial intelligence.",
    "Python is a programming language.",
    "Deep learning uses neural networks.",
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
        "--model",
        default="answerdotai/answerai-colbert-small-v1",
        help="its name on the server (default: %(default)s)",
    )
    options = parser.parse_args()
    server = f"http://{options.host}:{options.port}"

    ranking = post(f"{server}/rerank", {"model": options.model, "query": QUERY, "documents": DOCUMENTS})
    print(QUERY)
    for result in ranking["results"]:
        print(f"  {result['relevance_score']:8.4f}  {result['document']['text']}")

    answer = post(f"{server}/pooling", {"model": options.model, "input": QUERY, "task": "token_embed"})
    vectors = answer["data"][0]["data"]
    print(f"{len(vectors)} token vectors of {len(vectors[0])} dimensions")


if __name__ == "__main__":
    main()
