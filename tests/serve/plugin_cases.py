"""Requests sent once to a real vLLM with its reference IO processors (tests/goldens/record_plugins.py), and
to poolrt in every test run (test_plugins.py). A case is (name, path, body).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from tests import checkpoints
from tests.serve.cases import LONG, TEXT, TEXTS

Case = tuple[str, str, dict[str, Any]]


def asked(name: str, data: Any, **more: Any) -> Case:
    return name, "/pooling", {"model": "m", "task": "plugin", "data": data} | more


BGE_M3: list[Case] = [
    asked("both", {"input": TEXT}),
    asked("tokens", {"input": TEXTS[2] + " planet mars", "return_tokens": True}),
    asked("several", {"input": TEXTS, "return_tokens": False}),
    asked("dense", {"input": TEXTS, "embed_task": "dense"}),
    asked("sparse", {"input": TEXTS, "embed_task": "sparse", "return_tokens": True}),
    asked("ids", {"input": [10, 11, 12]}),
    asked("ids-with-ends", {"input": [0, 10, 11, 12, 2]}),
    asked("many-ids", {"input": [[0, 10, 11, 2], [12]]}),
    asked("unknown-key", {"input": TEXT, "colour": "red"}),
    asked("data-alone", {"input": TEXT}, task="embed"),
    ("no-task", "/pooling", {"data": {"input": TEXT}}),
    asked("truncated", {"input": LONG}, truncate_prompt_tokens=6),
    asked("priority", {"input": TEXT}, priority=5),
    ("invocations", "/invocations", {"task": "plugin", "data": {"input": TEXT}}),
    asked("too-long", {"input": LONG}),
    asked("null", None),
    asked("text", TEXT),
    asked("list", [TEXT]),
    asked("no-input", {"return_tokens": True}),
    asked("null-input", {"input": None}),
    asked("empty-input", {"input": []}),
    asked("number-input", {"input": 5}),
    asked("wrong-task", {"input": TEXT, "embed_task": "colbert"}),
    asked("negative-id", {"input": [-1]}),
    asked("unknown-model", {"input": TEXT}, model="nobody"),
]

COLBERT: list[Case] = [
    asked("query", {"input": TEXT, "input_type": "query"}),
    asked("document", {"input": TEXTS[2], "input_type": "document"}),
    asked("queries", {"input": TEXTS, "input_type": "query"}),
    asked("documents", {"input": TEXTS, "input_type": "document"}),
    asked("long-query", {"input": LONG, "input_type": "query"}),
    asked("long-document", {"input": LONG, "input_type": "document"}),
    asked("ids", {"input": [10, 11, 12], "input_type": "query"}),
    asked("many-ids", {"input": [[10, 11], [12]], "input_type": "document"}),
    asked("empty-text", {"input": "", "input_type": "document"}),
    asked("no-input-type", {"input": TEXT}),
    asked("wrong-input-type", {"input": TEXT, "input_type": "passage"}),
    asked("empty-input", {"input": [], "input_type": "query"}),
    asked("no-input", {"input_type": "query"}),
    asked("text", TEXT),
]


def marked_colbert(folder: Path) -> Path:
    """ColBERT with the marker tokens of jinaai/jina-colbert-v2, in the place of two unused ones. (vLLM reads
    that model's own architecture only with its remote code.)"""
    checkpoints.colbert(folder)
    for path in (folder / "tokenizer.json", folder / "vocab.txt"):
        if path.is_file():
            text = path.read_text(encoding="utf-8")
            path.write_text(
                text.replace("[unused0]", "[QueryMarker]").replace("[unused1]", "[DocumentMarker]"),
                encoding="utf-8",
            )
    assert "[QueryMarker]" in json.loads((folder / "tokenizer.json").read_bytes())["model"]["vocab"]
    return folder


class Server(NamedTuple):
    plugin: str
    architecture: str
    cases: list[Case]


SERVERS = {
    "bge_m3": Server("bge_m3_sparse_plugin", "BgeM3EmbeddingModel", BGE_M3),
    "marked_colbert": Server("colbert_query_plugin", "HF_ColBERT", COLBERT),
}
"""Tiny checkpoint -> what serves it."""
CHECKPOINTS = {"bge_m3": checkpoints.bge_m3, "marked_colbert": marked_colbert}
