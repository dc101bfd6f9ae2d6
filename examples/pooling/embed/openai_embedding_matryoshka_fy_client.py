"""Shorter vectors from a Matryoshka model, asked for with OpenAI's client (`pip install openai`).

poolrt serve jinaai/jina-embeddings-v3 --trust-remote-code
"""

import argparse

from openai import OpenAI


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--base-url", default="http://localhost:8000/v1", help="default: %(default)s")
    parser.add_argument("--api-key", default="EMPTY", help="the server's key, if it has one")
    parser.add_argument(
        "--dimensions", type=int, default=32, help="width of the vectors (default: %(default)s)"
    )
    options = parser.parse_args()

    client = OpenAI(api_key=options.api_key, base_url=options.base_url)
    model = client.models.list().data[0].id
    answer = client.embeddings.create(
        model=model, input=["Follow the white rabbit."], dimensions=options.dimensions
    )
    for row in answer.data:
        print(f"{row.embedding} (size={len(row.embedding)})")


if __name__ == "__main__":
    main()
