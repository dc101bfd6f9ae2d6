"""A score template given to the server.

    poolrt serve nvidia/llama-nemotron-rerank-1b-v2 --runner pooling --trust-remote-code \
        --chat-template examples/pooling/score/template/nemotron-rerank.jinja
"""

import argparse
import json
import urllib.request
from typing import Any

QUERY = "how much protein should a female eat?"
DOCUMENTS = ["Women need about 46 grams of protein a day.", "A summit is the top of a mountain."]


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
        default="nvidia/llama-nemotron-rerank-1b-v2",
        help="its name on the server (default: %(default)s)",
    )
    options = parser.parse_args()
    server = f"http://{options.host}:{options.port}"

    scores = post(f"{server}/score", {"model": options.model, "queries": QUERY, "documents": DOCUMENTS})
    for document, row in zip(DOCUMENTS, scores["data"], strict=True):
        print(f"{row['score']:.6f}  {document}")
    ranking = post(f"{server}/rerank", {"model": options.model, "query": QUERY, "documents": DOCUMENTS})
    print("best:", ranking["results"][0]["document"]["text"])


if __name__ == "__main__":
    main()
