"""How the library of a ColBERT checkpoint prepares queries and documents.

Stanford's library has artifact.metadata, PyLate and Sentence Transformers have settings of their own.
"""

from __future__ import annotations

import string
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ....runtime.artifact.manifest import Role
from ....runtime.errors import CheckpointError
from ...base.guess import Guess
from ...base.json_file import json_file
from ...files.sentence_files import SentenceFiles

if TYPE_CHECKING:
    from ...checkpoint import Checkpoint


def roles(checkpoint: Checkpoint, max_tokens: int) -> tuple[dict[str, Role], list[Guess]]:
    """Returns the roles `query` and `document`.

    Raises CheckpointError where a marker is not a token of the vocabulary.
    """
    path = checkpoint.folder / "artifact.metadata"
    if not path.is_file() and checkpoint.sentence is not None:
        resaved = checkpoint.sentence.mask is not None
        return (_multi_vector if resaved else _pylate)(checkpoint, checkpoint.sentence, max_tokens)
    return _stanford(checkpoint, json_file(path, dict) if path.is_file() else {}, max_tokens)


def _stanford(
    checkpoint: Checkpoint, settings: Mapping[str, Any], max_tokens: int
) -> tuple[dict[str, Role], list[Guess]]:
    why = "artifact.metadata" if settings else "no artifact.metadata: the library's defaults"
    # Despite their names these settings are tokens, which the library looks up in the vocabulary.
    query_marker = _id(checkpoint, str(settings.get("query_token_id", "[unused0]")))
    document_marker = _id(checkpoint, str(settings.get("doc_token_id", "[unused1]")))
    query = Role(
        marker_id=query_marker,
        max_tokens=min(int(settings.get("query_maxlen", 32)), max_tokens),
        expand_id=_mask(checkpoint),
        attend_expansion=checkpoint.family.attends_filler
        or bool(settings.get("attend_to_mask_tokens", False)),
    )
    skip = _first_ids(checkpoint, string.punctuation) if settings.get("mask_punctuation", True) else ()
    document = Role(
        marker_id=document_marker,
        max_tokens=min(int(settings.get("doc_maxlen", 220)), max_tokens),
        skip_ids=skip,
    )
    return {"query": query, "document": document}, _guesses(query, document, why)


def _pylate(
    checkpoint: Checkpoint, sentence: SentenceFiles, max_tokens: int
) -> tuple[dict[str, Role], list[Guess]]:
    settings = sentence.settings
    expands = bool(settings.get("do_query_expansion", True))
    attends = bool(settings.get("attend_to_expansion_tokens", False))
    query_prefix, document_prefix = (
        str(settings.get("query_prefix", "[Q] ")),
        str(settings.get("document_prefix", "[D] ")),
    )
    query = Role(
        marker_id=_id(checkpoint, query_prefix) if query_prefix else None,
        max_tokens=min(int(settings.get("query_length", 32)), max_tokens),
        expand_id=_mask(checkpoint) if expands else None,
        attend_expansion=expands and (attends or checkpoint.family.attends_filler),
    )
    words = settings.get("skiplist_words")
    document = Role(
        marker_id=_id(checkpoint, document_prefix) if document_prefix else None,
        max_tokens=min(int(settings.get("document_length", 180)), max_tokens),
        skip_ids=_known_ids(checkpoint, string.punctuation if words is None else words),
    )
    return {"query": query, "document": document}, _guesses(
        query, document, "config_sentence_transformers.json"
    )


def _multi_vector(
    checkpoint: Checkpoint, sentence: SentenceFiles, max_tokens: int
) -> tuple[dict[str, Role], list[Guess]]:
    """Reads the layout of Sentence Transformers: markers are prompts, lengths are settings of the Transformer
    module, the skip list is one of the MultiVectorMask module."""
    text, mask = sentence.text, sentence.mask or {}
    if mask.get("keep_only_token_ids"):
        raise CheckpointError(
            f"{checkpoint.source}: MultiVectorMask keeps only the tokens of images; this is not a text model"
        )
    skip = _known_ids(checkpoint, mask.get("skiplist_words") or ())
    skipping = mask.get("skiplist_tasks") or ["document"]
    expansion = text.get("query_expansion") or {}
    full = min(int(expansion["length"]), max_tokens) if expansion else None
    ceiling = full if expansion.get("strategy") == "fixed" else text.get("query_length")
    similarity = sentence.settings.get("similarity_fn_name")
    if str(similarity).lower() not in ("none", "maxsim"):
        raise CheckpointError(
            f"{checkpoint.source}: similarity_fn_name of config_sentence_transformers.json is "
            f"{similarity!r}; poolrt scores with 'maxsim', the sum over a query's tokens; set that to "
            "export, and divide a score by the query's tokens for their mean"
        )
    roles: dict[str, Role] = {}
    for name, limit in (("query", ceiling), ("document", text.get("document_length"))):
        marker, prefix = _marker(checkpoint, sentence.prompts.get(name, ""))
        roles[name] = Role(
            prefix=prefix,
            marker_id=marker,
            max_tokens=min(int(limit or max_tokens), max_tokens),
            skip_ids=skip if name in skipping else (),
        )
    if expansion:
        token = expansion.get("token")
        filler = _mask(checkpoint) if token is None else _id(checkpoint, str(token))
        roles["query"] = replace(
            roles["query"],
            expand_id=filler,
            expand_to=full,
            attend_expansion=bool(expansion.get("attend", False)),
        )
    return roles, _guesses(
        roles["query"], roles["document"], "settings of Sentence Transformers' multi-vector modules"
    )


def _marker(checkpoint: Checkpoint, prompt: str) -> tuple[int | None, str]:
    """Returns the added token that a prompt starts with (None: it has none), and the rest of the prompt."""
    added = {
        token.content: index for index, token in checkpoint.text.tokenizer.get_added_tokens_decoder().items()
    }
    marker = max((token for token in added if prompt.startswith(token)), key=len, default=None)
    return (None, prompt) if marker is None else (added[marker], prompt.removeprefix(marker))


def _known_ids(checkpoint: Checkpoint, words: Iterable[str]) -> tuple[int, ...]:
    """Returns the ids of words that are one token. For any other word the unknown token would be skipped."""
    ids = (checkpoint.text.id(word) for word in words)
    return tuple(sorted({token for token in ids if token is not None}))


def _id(checkpoint: Checkpoint, token: str) -> int:
    # Some vocabularies have `[Q]` where the settings have `[Q] `.
    index = checkpoint.text.id(token)
    index = checkpoint.text.id(token.strip()) if index is None else index
    if index is None:
        raise CheckpointError(f"{checkpoint.source}: the marker {token!r} is not a token of the vocabulary")
    return index


def _mask(checkpoint: Checkpoint) -> int:
    """Returns the filler of query expansion: [MASK], or the end token where there is none, as PyLate does."""
    ids = checkpoint.text.ids
    filler = ids.get("mask_token", ids.get("eos_token"))
    if filler is None:
        raise CheckpointError(
            f"{checkpoint.source}: query expansion needs a mask token and the tokenizer names none"
        )
    return filler


def _first_ids(checkpoint: Checkpoint, symbols: str) -> tuple[int, ...]:
    """Returns the first token of each symbol. The unknown token is left out, so that no unknown word is
    skipped."""
    encoded = (checkpoint.text.tokenizer.encode(symbol, add_special_tokens=False).ids for symbol in symbols)
    return tuple(sorted({ids[0] for ids in encoded if ids} - {checkpoint.text.ids.get("unk_token")}))


def _guesses(query: Role, document: Role, why: str) -> list[Guess]:
    filled = f"filled up with token {query.expand_id}" if query.expand_id is not None else "not filled up"
    override = "preparation 'vllm' when loading leaves all of it out"
    return [
        Guess(
            "queries",
            f"marker {query.marker_id}, at most {query.max_tokens} tokens, {filled}",
            why,
            override,
        ),
        Guess(
            "documents",
            f"marker {document.marker_id}, at most {document.max_tokens} tokens, "
            f"{len(document.skip_ids)} skipped",
            why,
            override,
        ),
    ]
