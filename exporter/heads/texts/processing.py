"""processing_kwargs of sentence_bert_config.json: arguments that Sentence Transformers passes to the
tokenizer (bucket `text`), the chat template (`chat_template`) or both (`common`)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ....runtime.errors import CheckpointError
from ...checkpoint import Checkpoint

# Keys that may stand in every bucket and change no token: the library pads by itself, as poolrt does.
WITHOUT_EFFECT = frozenset(
    {"padding", "padding_side", "pad_to_multiple_of", "return_tensors", "return_attention_mask", "verbose"}
)
SIZES = frozenset({"max_length", "truncation"})
CUT = (None, True, False, "longest_first")
EMBEDS = ("embed", "splade", "colbert", "bge-m3", "modular")
ADDITIONAL = "additional_chat_templates"
"""Folder of templates that transformers takes by their names."""
# Arguments of the call that renders a chat template, not variables of the template.
CALL = frozenset({"restore_suffix", "chat_template", "tokenize", "return_dict"})


def check(checkpoint: Checkpoint) -> None:
    """Raises CheckpointError where the library prepares texts in a way that poolrt does not."""
    sentence = checkpoint.sentence
    if sentence is None:
        return
    # The prompts of a page model are its published processor's, which the library's chat template repeats.
    prompted = checkpoint.family.late_interaction and checkpoint.family.roles is not None
    conversing = checkpoint.family.vision is not None and (checkpoint.kind == "embed" or prompted)
    mask = sentence.mask if prompted else None
    left_out = [key for key in ("keep_only_token_ids", "skiplist_words") if (mask or {}).get(key)]
    if left_out:
        raise CheckpointError(
            f"{checkpoint.source}: its MultiVectorMask module drops vectors of tokens by "
            f"{' and '.join(left_out)}, which poolrt keeps for models of pages; empty them there"
        )
    if sentence.by_messages and checkpoint.kind in EMBEDS and not conversing:
        raise CheckpointError(
            f"{checkpoint.source}: sentence_bert_config.json sends every text through the chat template "
            "(modality 'message'), which poolrt does for rerankers with a LogitScore module and embedders "
            "that read pictures; save the model with the modality 'text' to embed plain texts"
        )
    if sentence.kind == "CrossEncoder" and not sentence.by_messages and (prompt := _prompt(checkpoint)):
        raise CheckpointError(
            f"{checkpoint.source}: the library puts its default prompt {prompt!r} in front of every "
            "query, which poolrt does not; "
            "remove default_prompt_name from config_sentence_transformers.json and send it with the queries"
        )


def max_length(checkpoint: Checkpoint) -> int | None:
    """Returns the shortest length in tokens that a bucket cuts to.

    Raises CheckpointError for a setting that changes tokens in an unknown way.
    """
    buckets = _buckets(checkpoint)
    lengths: list[int] = []
    for name in ("common", "text", "chat_template"):
        settings = buckets.get(name) or {}
        if settings.get("truncation") not in CUT:
            raise CheckpointError(_refusal(checkpoint, name, "truncation", settings["truncation"]))
        if (length := settings.get("max_length")) is not None:
            if isinstance(length, bool) or not isinstance(length, int) or length < 1:
                raise CheckpointError(_refusal(checkpoint, name, "max_length", length))
            lengths.append(length)
        known = WITHOUT_EFFECT | SIZES | ({"logits_to_keep"} if name == "text" else set())
        unknown = [key for key in settings if key not in known and name != "chat_template"]
        unknown = [key for key in unknown if not (key == "add_special_tokens" and settings[key] is True)]
        if unknown:
            raise CheckpointError(_refusal(checkpoint, name, unknown[0], settings[unknown[0]]))
    return min(lengths, default=None)


def template(checkpoint: Checkpoint, written: str, *, prompt: str | None = None) -> str:
    """Returns the chat template `written` with the variables set to what the library renders it with.

    `prompt`: what stands in front as a system message; None: the default prompt. Raises CheckpointError.
    """
    settings = _buckets(checkpoint).get("chat_template") or {}
    if settings.get("continue_final_message"):
        raise CheckpointError(_refusal(checkpoint, "chat_template", "continue_final_message", True))
    if chosen := settings.get("chat_template"):
        written = _named(checkpoint, str(chosen))
    variables = {key: value for key, value in settings.items() if key not in CALL | SIZES | WITHOUT_EFFECT}
    prompt = _prompt(checkpoint) if prompt is None else prompt
    if prompt:
        message = {"role": "system", "content": prompt}
        # On its own line, because Jinja removes the newline behind a tag: the template still starts a line.
        written = f"{{% set messages = [{_literal(message)}] + messages %}}\n{written}"
    return "".join(f"{{% set {name} = {_literal(value)} %}}\n" for name, value in variables.items()) + written


def _named(checkpoint: Checkpoint, chosen: str) -> str:
    """Returns the template of that name in the folder of additional ones; `chosen` itself where there is
    none."""
    path = checkpoint.inner / ADDITIONAL / f"{chosen}.jinja"
    is_name = chosen.replace("-", "_").isidentifier()
    return path.read_text(encoding="utf-8") if is_name and path.is_file() else chosen


def _prompt(checkpoint: Checkpoint) -> str:
    """Returns the default prompt, which the library puts in front as a system message."""
    sentence = checkpoint.sentence
    return sentence.prompts.get(sentence.default_prompt or "", "") if sentence else ""


def _buckets(checkpoint: Checkpoint) -> Mapping[str, Mapping[str, Any]]:
    """Returns the settings by bucket. Raises CheckpointError."""
    buckets = checkpoint.sentence.text.get("processing_kwargs") if checkpoint.sentence else None
    if buckets is None:
        return {}
    if not isinstance(buckets, Mapping) or not all(
        value is None or isinstance(value, Mapping) for value in buckets.values()
    ):
        raise CheckpointError(
            f"{checkpoint.source}: processing_kwargs of sentence_bert_config.json is no object of objects"
        )
    return buckets


def _refusal(checkpoint: Checkpoint, bucket: str, key: str, value: object) -> str:
    return (
        f"{checkpoint.source}: processing_kwargs.{bucket}.{key} of sentence_bert_config.json is {value!r}, "
        "which poolrt does not follow; remove it to export without it"
    )


def _literal(value: object) -> str:
    """Returns a JSON value as a literal of Jinja."""
    if isinstance(value, Mapping):
        return (
            "{" + ", ".join(f"{json.dumps(str(key))}: {_literal(item)}" for key, item in value.items()) + "}"
        )
    if isinstance(value, list):
        return "[" + ", ".join(map(_literal, value)) + "]"
    return (
        {None: "none", True: "true", False: "false"}[value]
        if value is None or isinstance(value, bool)
        else json.dumps(value)
    )
