"""The rerank API as Jina and Cohere define it.

poolrt serve BAAI/bge-reranker-base
"""

import argparse
import json
import urllib.request
from typing import Any

QUERY = "What is the capital of France?"
DOCUMENTS = [
    "The capital of Brazil is Brasilia.",
    "The capital of France is Paris.",
    "Horses and cows are both animals",
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
        "--model", default="BAAI/bge-reranker-base", help="its name on the server (default: %(default)s)"
    )
    options = parser.parse_args()

    body: dict[str, object] = {"model": options.model, "query": QUERY, "documents": DOCUMENTS}
    answer = post(f"http://{options.host}:{options.port}/v1/rerank", body)
    print(json.dumps(answer, indent=2))


if __name__ == "__main__":
    main()
