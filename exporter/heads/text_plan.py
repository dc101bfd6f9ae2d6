"""How texts are prepared: the longest item, padding, prompts, templates, and the files for the runtime."""

from __future__ import annotations

import json
from collections.abc import Mapping

from ...runtime.artifact.manifest import Head, Role, TextPreparation
from ...runtime.errors import CheckpointError, PoolrtError
from ...runtime.inputs import templates
from ..base.guess import Guess
from ..checkpoint import Checkpoint
from ..files.recipe import template
from . import sentence_modules, yes_no
from .texts import processing

UNLIMITED = 2048
"""Tokens of the longest item of a model that could read texts of any length, where no file states a limit."""


def files(checkpoint: Checkpoint) -> dict[str, bytes]:
    """Returns the files of the text preparation, name -> content. Raises CheckpointError."""
    files = {"tokenizer.json": checkpoint.text.json}
    if checkpoint.text.config:
        files["tokenizer_config.json"] = json.dumps(
            checkpoint.text.config, indent=2, ensure_ascii=False
        ).encode()
    if checkpoint.text.chat_template is not None:
        files["chat_template.jinja"] = checkpoint.text.chat_template.encode()
    if checkpoint.family.listwise is not None:
        files["score_template.jinja"] = template(checkpoint.family.listwise.template).encode()
    if checkpoint.family.score_template is not None and checkpoint.kind == "classify":
        files["score_template.jinja"] = checkpoint.family.score_template(checkpoint).encode()
    if checkpoint.recipe is not None and checkpoint.recipe.score_template is not None:
        files["score_template.jinja"] = template(checkpoint.recipe.score_template).encode()
    elif (
        yes_no.module(checkpoint) is not None
        and checkpoint.text.chat_template is not None
        and _by_messages(checkpoint)
    ):
        # Sentence Transformers renders a pair with the chat template, as messages of the roles `query` and
        # `document`.
        written = processing.template(checkpoint, checkpoint.text.chat_template)
        if not _carries_pairs(written):
            raise CheckpointError(
                f"{checkpoint.source}: its chat template does not show messages of the roles 'query' and "
                "'document', which a LogitScore module needs"
            )
        files["score_template.jinja"] = written.encode()
    return files


def _by_messages(checkpoint: Checkpoint) -> bool:
    """Whether the library renders pairs with the chat template. Models without `modality_config` do."""
    return checkpoint.sentence is not None and (
        "modality_config" not in checkpoint.sentence.text or checkpoint.sentence.by_messages
    )


def _carries_pairs(written: str) -> bool:
    """Whether both sides of a pair reach the rendered text."""
    sides = {"query": "zebra", "document": "walrus"}
    messages = [{"role": role, "content": content} for role, content in sides.items()]
    try:
        messages = templates.messages_for(messages, templates.content_format(written))
        rendered = templates.conversation(written, messages)
    except PoolrtError:
        return False
    return all(content in rendered for content in sides.values())


def text(
    checkpoint: Checkpoint,
    limit: int,
    roles: dict[str, Role],
    files: Mapping[str, bytes],
    heads: Mapping[str, Head],
    guesses: list[Guess],
) -> TextPreparation:
    """Returns the manifest's record of the text preparation, and adds to `guesses`.

    Args:
        limit: tokens of the longest item.
        files: those of `files`.
        heads: those of the plan; a head that pools the last token asks for an end token.
    """
    sentence = checkpoint.sentence
    prompts = dict(sentence.prompts) if sentence else {}
    if checkpoint.recipe is not None:
        prompts |= checkpoint.recipe.prompts
    default = sentence.default_prompt if sentence else None
    if default is not None and default not in prompts:
        raise CheckpointError(
            f"{checkpoint.source}: default prompt {default!r} is not among the prompts: "
            f"{', '.join(prompts) or 'none'}"
        )
    if any(prompts.values()):
        guesses.append(
            Guess(
                "prompts",
                ", ".join(name for name, prompt in prompts.items() if prompt),
                "applied only when a request names one or a role",
            )
        )
        if not pools_prompts(checkpoint):
            guesses.append(
                Guess("prompt tokens", "not pooled", "include_prompt is false in the Pooling module")
            )
    ends_with = None
    if any(head.pool == "last" for head in heads.values()):
        ends_with, ending_guesses = ending(checkpoint)
        guesses += ending_guesses
    # vLLM joins a pair to one text for language models that became classifiers.
    separates = not checkpoint.config.get("classifier_from_token")
    separated = checkpoint.config.get("use_sep_token", checkpoint.config.get("use_pad_token", separates))
    full = None if checkpoint.family.pad_to is None else checkpoint.family.pad_to(checkpoint.config)
    return TextPreparation(
        max_tokens=limit,
        vocab_size=checkpoint.number("vocab_size"),
        pad_id=pad_id(checkpoint),
        split_special_tokens=checkpoint.text.splits_special,
        truncation_side="left" if checkpoint.text.cut_left else "right",
        pair="separator" if separated else "concatenate",
        pair_end=checkpoint.family.pair_end if checkpoint.kind == "classify" else None,
        pair_document_tokens=checkpoint.family.pair_document_tokens
        if checkpoint.kind == "classify"
        else None,
        roles=roles,
        prompts=prompts,
        default_prompt=default,
        default_role=sentence.static.default
        if sentence is not None and sentence.static is not None
        else None,
        instruction=_instruction(checkpoint),
        pad_to=None if full is None else min(full, limit),
        pad_side="left" if checkpoint.text.pads_left and checkpoint.family.pad_to is not None else "right",
        pools_prompts=pools_prompts(checkpoint),
        special_tokens=dict(checkpoint.text.special),
        chat_template="chat_template.jinja" if "chat_template.jinja" in files else None,
        score_template="score_template.jinja" if "score_template.jinja" in files else None,
        ends_with=ends_with,
        tokenizer_config="tokenizer_config.json" if "tokenizer_config.json" in files else None,
    )


def _instruction(checkpoint: Checkpoint) -> str:
    """Returns the instruction of a request that gives none: the recipe's, else the family's."""
    if checkpoint.recipe is not None and checkpoint.recipe.instruction:
        return checkpoint.recipe.instruction
    return checkpoint.family.instruction


def prompted_roles(checkpoint: Checkpoint) -> dict[str, Role]:
    """Returns the roles as encode_query and encode_document of Sentence Transformers have them; empty where
    both have no prompt.

    Each side has the prompt of its own name. Where the files have none of that name, the library uses no
    prompt, not that of another name (`passage`) and not the default one.
    """
    prompts = checkpoint.sentence.prompts if checkpoint.sentence is not None else {}
    prefixes = {role: prompts.get(role, "") for role in ("query", "document")}
    if checkpoint.sentence is not None and checkpoint.sentence.by_messages:
        return {role: Role(template=_message(checkpoint, prompt)) for role, prompt in prefixes.items()}
    return {role: Role(prefix=prefix) for role, prefix in prefixes.items()} if any(prefixes.values()) else {}


def _message(checkpoint: Checkpoint, prompt: str) -> str:
    """Returns the template of a role: the chat template, with one message of a user that holds the pictures
    and the text, behind a request's instruction, else `prompt`, as a system message.

    Raises CheckpointError where there is no chat template.
    """
    written = checkpoint.text.chat_template
    if written is None:
        raise CheckpointError(
            f"{checkpoint.source}: sentence_bert_config.json sends every text through the chat template, but "
            "there is none; download the repository again"
        )
    written = processing.template(checkpoint, written, prompt="")
    parts = templates.content_format(written) == "openai"
    user, system = (
        f'[{{"type": "text", "text": {text}}}]' if parts else text for text in ("media ~ text", "system")
    )
    special = checkpoint.text.special
    named = {name: special[name] for name in sorted(special.keys() & templates.mentioned(written))}
    lines = [
        *(f"{name} = {json.dumps(token)}" for name, token in named.items()),
        f"system = instruction or {json.dumps(prompt)}",
        f'messages = [{{"role": "system", "content": {system}}}] if system else []',
        f'messages = messages + [{{"role": "user", "content": {user}}}]',
    ]
    return "".join(f"{{% set {line} %}}\n" for line in lines) + written


def pools_prompts(checkpoint: Checkpoint) -> bool:
    """Whether the tokens of a prompt are pooled."""
    route = sentence_modules.route(checkpoint) if checkpoint.kind == "embed" else None
    return route is None or route.pooling is None or bool(route.pooling.settings.get("include_prompt", True))


def max_tokens(checkpoint: Checkpoint) -> tuple[int, list[Guess]]:
    """Returns the tokens of the longest item, special tokens included: the lowest limit that a file states.

    Raises CheckpointError.
    """
    try:
        positions = checkpoint.family.positions(checkpoint.config)
        limits = [] if positions is None else [(int(positions), "positions the model has")]
    except (KeyError, TypeError, ValueError) as error:
        key = error.args[0] if isinstance(error, KeyError) else "number of positions"
        raise CheckpointError(f"{checkpoint.source}: config.json has no usable {key}") from None
    sentence, text = checkpoint.sentence, checkpoint.text.max_tokens
    if checkpoint.kind == "colbert" and sentence is not None:
        # PyLate stores there the limit of the side that it encoded last. Each side has its own in its role.
        sentence, text = None, text if sentence.mask is None else None
    if sentence is not None and sentence.max_tokens is not None:
        limits.append((sentence.max_tokens, "max_seq_length of Sentence Transformers"))
    # Sentence Transformers 6 keeps its limit with the tokenizer.
    if text is not None and (
        checkpoint.family.capped_by_tokenizer
        or positions is None
        or (sentence is not None and sentence.generation >= 6)
    ):
        limits.append((text, "model_max_length of the tokenizer"))
    if not limits:
        override = "--hf-overrides '{\"max_position_embeddings\": ...}'"
        return UNLIMITED, [
            Guess("max tokens", str(UNLIMITED), "no file states a limit, and the model needs none", override)
        ]
    limit, why = min(limits)
    return limit, [Guess("max tokens", str(limit), why, "poolrt serve --max-model-len, lower only")]


def pad_id(checkpoint: Checkpoint) -> int:
    """Returns the token that fills up shorter rows; the model has a row for it."""
    configured = checkpoint.config.get("pad_token_id")
    if isinstance(configured, int) and 0 <= configured < checkpoint.number("vocab_size"):
        return configured
    # A tokenizer's class may add a token that the model has no row for.
    candidates = (checkpoint.text.ids.get(role) for role in ("pad_token", "eos_token"))
    rows = checkpoint.number("vocab_size")
    return next((token for token in candidates if token is not None and token < rows), 0)


def ending(checkpoint: Checkpoint) -> tuple[int | None, list[Guess]]:
    """Returns the token that the tokenizer puts at the end of every text, None where it puts none.

    Models that pool the last token pool this one.
    """
    first, second = checkpoint.text.encode("a"), checkpoint.text.encode("what is this")
    if first and second and first[-1] == second[-1] and first[-1] in checkpoint.text.ids.values():
        return first[-1], [
            Guess("ends with", f"token {first[-1]}", "what the tokenizer puts after every text")
        ]
    return None, [
        Guess(
            "ends with",
            "the text's own last token",
            "the tokenizer puts nothing after a text, though the last token is pooled",
        )
    ]
