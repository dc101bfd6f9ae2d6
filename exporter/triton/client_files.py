"""What a client must know that tokenises by itself: client.json, the tokenizer, and client.py, which reads
them.

Models whose texts are written by templates, or whose rows the runtime selects, are refused: a client would
have to copy the runtime's own preparation.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path

from ...runtime.artifact.manifest import Head, Manifest
from ...runtime.errors import InputError
from .served_graph import ServedGraph

CODE = Path(__file__).with_name("client.py")
_HEAD = (
    "output", "pool", "activation", "logit_mean", "logit_sigma", "drop_first", "drop_last", "drop_first_id",
    "drop_last_id", "flat", "labels",
)  # fmt: skip


def obstacles(manifest: Manifest) -> list[str]:
    """Why a client cannot prepare the texts of a model, or finish its numbers, by the tokenizer alone."""
    text = manifest.text
    roles = text.roles.values()
    reasons = {
        "pairs are written by a template": text.score_template is not None,
        "pairs are not the tokenizer's own": text.pair != "separator" or text.pair_end is not None,
        "documents of pairs are cut apart": text.pair_document_tokens is not None,
        "roles are written by templates": any(role.template is not None for role in roles),
        "roles decide about special tokens": any(
            role.static or not role.add_special_tokens for role in roles
        ),
        "prompts are not pooled": not text.pools_prompts,
        "texts are filled up": text.pad_to is not None,
        "texts are lower-cased apart": text.lowercase,
        "special tokens are split": text.split_special_tokens,
        "documents are ranked as a list": manifest.scoring == "listwise",
        "rows of steps or of some tokens are selected": any(map(_selects, manifest.heads.values())),
        "vectors are cut": any(head.dimensions is not None for head in manifest.heads.values()),
    }
    return [reason for reason, holds in reasons.items() if holds]


def _selects(head: Head) -> bool:
    return bool(head.pool == "step" or head.keep_ids or head.step_tag_id or head.returned_token_ids)


def check(manifest: Manifest) -> None:
    """Raises InputError where a client cannot do it."""
    if reasons := obstacles(manifest):
        raise InputError(
            f"--tokenizer client: {manifest.name} needs more than its tokenizer ({'; '.join(reasons)}); use "
            "--tokenizer python",
            field="tokenizer",
        )


def write(manifest: Manifest, served: ServedGraph, source: Path, target: Path, model: str) -> None:
    """Writes the files of a client into `target`; `model` is the name of the graph's Triton model."""
    text = manifest.text
    facts = {
        "model": model,
        "inputs": [tensor.name for tensor in served.graph.inputs],
        "max_tokens": text.max_tokens,
        "pad_id": text.pad_id,
        "truncation_side": text.truncation_side,
        "add_special_tokens": text.add_special_tokens,
        "prompt": text.prompts[text.default_prompt] if text.default_prompt else "",
        "prompts": text.prompts,
        "default_role": text.default_role,
        "roles": {name: asdict(role) for name, role in text.roles.items()},
        "heads": {task: _plain(manifest.heads[task]) for task in manifest.tasks},
    }
    lines = json.dumps(facts, indent=1, ensure_ascii=False)
    (target / "client.json").write_text(lines + "\n", encoding="utf-8")
    shutil.copyfile(source / text.tokenizer, target / "tokenizer.json")
    shutil.copyfile(CODE, target / "client.py")


def _plain(head: Head) -> dict[str, object]:
    plain = asdict(head)
    return {name: plain[name] for name in _HEAD}
