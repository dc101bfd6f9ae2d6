"""How a ColBERT checkpoint's own library prepares queries and documents: Stanford's artifact.metadata, or PyLate's and
Sentence Transformers' settings."""

from __future__ import annotations

import string
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..runtime.errors import CheckpointError
from ..runtime.manifest import Role
from .detection import Guess
from .sentence_files import json_file

if TYPE_CHECKING:
    from .checkpoint import Checkpoint


def roles(checkpoint: Checkpoint, max_tokens: int) -> tuple[dict[str, Role], list[Guess]]:
    """`query` and `document`. Raises CheckpointError when a marker is not one token of the vocabulary."""
    path = checkpoint.folder / "artifact.metadata"
    if not path.is_file() and checkpoint.sentence is not None:
        return _pylate(checkpoint, max_tokens)
    return _stanford(checkpoint, json_file(path, dict) if path.is_file() else {}, max_tokens)


def _stanford(checkpoint: Checkpoint, settings: Mapping[str, Any], max_tokens: int) -> tuple[dict[str, Role], list[Guess]]:
    why = "artifact.metadata" if settings else "no artifact.metadata: the library's defaults"
    # Strings despite their names; the library looks them up in the vocabulary.
    query_marker = _id(checkpoint, str(settings.get("query_token_id", "[unused0]")))
    document_marker = _id(checkpoint, str(settings.get("doc_token_id", "[unused1]")))
    query = Role(
        marker_id=query_marker,
        max_tokens=min(int(settings.get("query_maxlen", 32)), max_tokens),
        expand_id=_mask(checkpoint),
        attend_expansion=bool(settings.get("attend_to_mask_tokens", False)),
    )
    skip = _first_ids(checkpoint, string.punctuation) if settings.get("mask_punctuation", True) else ()
    document = Role(marker_id=document_marker, max_tokens=min(int(settings.get("doc_maxlen", 220)), max_tokens), skip_ids=skip)
    return {"query": query, "document": document}, _told(query, document, why)


def _pylate(checkpoint: Checkpoint, max_tokens: int) -> tuple[dict[str, Role], list[Guess]]:
    assert checkpoint.sentence is not None
    settings = checkpoint.sentence.settings
    expands = bool(settings.get("do_query_expansion", True))
    attends = bool(settings.get("attend_to_expansion_tokens", False))
    query_prefix, document_prefix = str(settings.get("query_prefix", "[Q] ")), str(settings.get("document_prefix", "[D] "))
    query = Role(
        marker_id=_id(checkpoint, query_prefix) if query_prefix else None,
        max_tokens=min(int(settings.get("query_length", 32)), max_tokens),
        expand_id=_mask(checkpoint) if expands else None,
        attend_expansion=expands and attends,
    )
    words = settings.get("skiplist_words")
    found = (checkpoint.text.id(word) for word in (string.punctuation if words is None else words))
    document = Role(
        marker_id=_id(checkpoint, document_prefix) if document_prefix else None,
        max_tokens=min(int(settings.get("document_length", 180)), max_tokens),
        skip_ids=tuple(sorted({token for token in found if token is not None})),
    )
    return {"query": query, "document": document}, _told(query, document, "config_sentence_transformers.json")


def _id(checkpoint: Checkpoint, token: str) -> int:
    found = checkpoint.text.id(token)
    if found is None:
        raise CheckpointError(f"{checkpoint.source}: the marker {token!r} is not a token of the vocabulary")
    return found


def _mask(checkpoint: Checkpoint) -> int:
    """The filler of query expansion: [MASK], or the end token where there is none (as PyLate does)."""
    ids = checkpoint.text.ids
    found = ids.get("mask_token", ids.get("eos_token"))
    if found is None:
        raise CheckpointError(f"{checkpoint.source}: query expansion needs a mask token and the tokenizer names none")
    return found


def _first_ids(checkpoint: Checkpoint, symbols: str) -> tuple[int, ...]:
    encoded = (checkpoint.text.tokenizer.encode(symbol, add_special_tokens=False).ids for symbol in symbols)
    return tuple(sorted({ids[0] for ids in encoded if ids}))


def _told(query: Role, document: Role, why: str) -> list[Guess]:
    filled = f"filled up with token {query.expand_id}" if query.expand_id is not None else "not filled up"
    override = "preparation 'vllm' when loading leaves all of it out"
    return [
        Guess("queries", f"marker {query.marker_id}, at most {query.max_tokens} tokens, {filled}", why, override),
        Guess(
            "documents",
            f"marker {document.marker_id}, at most {document.max_tokens} tokens, {len(document.skip_ids)} skipped",
            why,
            override,
        ),
    ]
