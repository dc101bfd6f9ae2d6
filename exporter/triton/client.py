"""Prepares texts for a graph that Triton serves alone, asks for it, and finishes what it returns.

`poolrt triton --tokenizer client` copies this file, with the model's facts in client.json, beside the models.
It needs numpy, tokenizers and tritonclient[http], and nothing of poolrt:

    python client.py "a first text" "a second one"
    python client.py --role query "why does dough rise?"
    python client.py --query "why does dough rise?" "yeast makes gas" "the sun rises"
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

FOLDER = Path(__file__).resolve().parent
TINY = 1e-12
"""Length of a vector that is divided by no less."""


def softmax(values: NDArray[np.float32]) -> NDArray[np.float32]:
    powers = np.exp(values - values.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


ACTIVATIONS: dict[str, Callable[[NDArray[Any]], NDArray[Any]]] = {
    "identity": lambda values: values,
    "l2": lambda values: values / np.maximum(np.linalg.norm(values, axis=-1, keepdims=True), TINY),
    "sigmoid": lambda values: 1 / (1 + np.exp(-values)),
    "softmax": softmax,
    "relu": lambda values: np.maximum(values, 0),
    "tanh": np.tanh,
}


@dataclass
class Row:
    """The tokens of a text or a pair."""

    ids: list[int]
    type_ids: list[int]
    mask: list[int]


class Client:
    """Facts of the model, its tokenizer, and the way to its graph."""

    def __init__(self, folder: Path = FOLDER, url: str = "localhost:8000") -> None:
        self.facts: dict[str, Any] = json.loads((folder / "client.json").read_text(encoding="utf-8"))
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.no_padding()
        self.tokenizer.no_truncation()
        self.url = url

    def texts(self, texts: Sequence[str], role: str | None = None) -> list[Row]:
        """The rows of single texts. `role`: `query` or `document`, for models that prepare them
        differently."""
        plan = self.facts["roles"].get(role or self.facts["default_role"] or "", {})
        prefix, suffix = plan.get("prefix", "") or self.facts["prompt"], plan.get("suffix", "")
        most = min(plan.get("max_tokens") or self.facts["max_tokens"], self.facts["max_tokens"])
        marker, filler = plan.get("marker_id"), plan.get("expand_id")
        self.tokenizer.enable_truncation(most - (marker is not None), direction=self.facts["truncation_side"])
        encodings = self.tokenizer.encode_batch(
            [prefix + text + suffix for text in texts], add_special_tokens=self.facts["add_special_tokens"]
        )
        self.tokenizer.no_truncation()
        rows = [Row(list(it.ids), list(it.type_ids), [1] * len(it.ids)) for it in encodings]
        for row in rows:
            if marker is not None:
                row.ids.insert(1, marker)
                row.type_ids.insert(1, 0)
                row.mask.insert(1, 1)
            missing = (plan.get("expand_to") or most) - len(row.ids)
            if filler is not None and missing > 0:
                row.ids += [filler] * missing
                row.type_ids += [0] * missing
                row.mask += [int(plan["attend_expansion"])] * missing
        return rows

    def pairs(self, query: str, documents: Sequence[str]) -> list[Row]:
        """The rows of a query with each document. Raises ValueError for a pair beyond the model's limit."""
        encodings = self.tokenizer.encode_batch([(query, document) for document in documents])
        if (longest := max(len(it.ids) for it in encodings)) > self.facts["max_tokens"]:
            raise ValueError(f"a pair has {longest} tokens, the model reads {self.facts['max_tokens']}")
        return [Row(list(it.ids), list(it.type_ids), [1] * len(it.ids)) for it in encodings]

    def inputs(self, rows: Sequence[Row]) -> dict[str, NDArray[np.int64]]:
        """The inputs of the graph, [batch, tokens] each, padded on the right."""
        width = max(len(row.ids) for row in rows)
        of = {
            "input_ids": ([row.ids for row in rows], self.facts["pad_id"]),
            "attention_mask": ([row.mask for row in rows], 0),
            "token_type_ids": ([row.type_ids for row in rows], 0),
            "token_kinds": ([[0] * len(row.ids) for row in rows], 0),
        }
        arrays: dict[str, NDArray[np.int64]] = {}
        for name in self.facts["inputs"]:
            values, filler = of[name]
            arrays[name] = np.array([line + [filler] * (width - len(line)) for line in values], np.int64)
        return arrays

    def finish(
        self, rows: Sequence[Row], output: NDArray[np.float32], task: str, role: str | None = None
    ) -> list[NDArray[np.float32]]:
        """What the model says of each row: the head's activation, and of the token tasks the rows that
        count."""
        head = self.facts["heads"][task]
        values = (np.asarray(output, np.float32) - (head["logit_mean"] or 0)) / (head["logit_sigma"] or 1)
        values = ACTIVATIONS[head["activation"]](values)
        if head["pool"] != "tokens":
            return list(values)
        skipped = self.facts["roles"].get(role or self.facts["default_role"] or "", {}).get("skip_ids", [])
        arrays = []
        for row, array in zip(rows, values, strict=True):
            ids = np.array(row.ids)
            keep = ~np.isin(ids, skipped)
            for count, only, place in (
                (head["drop_first"], head["drop_first_id"], slice(0, head["drop_first"])),
                (head["drop_last"], head["drop_last_id"], slice(len(ids) - head["drop_last"], None)),
            ):
                if count and (only is None or (ids[place] == only).all()):
                    keep[place] = False
            kept = array[: len(ids)][keep]
            arrays.append(kept[:, 0] if head["flat"] else kept)
        return arrays

    def ask(self, inputs: dict[str, NDArray[np.int64]], output: str) -> NDArray[np.float32]:
        """Sends the inputs to Triton and returns an output of the graph."""
        from tritonclient import http  # pyright: ignore[reportMissingImports]

        tensors = []
        for name, array in inputs.items():
            tensors.append(http.InferInput(name, list(array.shape), "INT64"))
            tensors[-1].set_data_from_numpy(array)
        client = http.InferenceServerClient(self.url)
        response = client.infer(self.facts["model"], tensors, outputs=[http.InferRequestedOutput(output)])
        return response.as_numpy(output)

    def run(self, rows: Sequence[Row], task: str, role: str | None = None) -> list[NDArray[np.float32]]:
        return self.finish(rows, self.ask(self.inputs(rows), self.facts["heads"][task]["output"]), task, role)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("texts", nargs="+")
    parser.add_argument("--url", default="localhost:8000")
    parser.add_argument("--task")
    parser.add_argument("--role", choices=["query", "document"])
    parser.add_argument("--query", help="compare it with each text: for models that read pairs")
    arguments = parser.parse_args()
    client = Client(url=arguments.url)
    task = arguments.task or next(iter(client.facts["heads"]))
    if arguments.query is None:
        rows = client.texts(arguments.texts, arguments.role)
    else:
        rows = client.pairs(arguments.query, arguments.texts)
    for array in client.run(rows, task, arguments.role):
        print(array)


if __name__ == "__main__":
    main()
