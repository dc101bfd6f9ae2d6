"""Classifiers made of a language model: its logits for a few tokens at the end of the prompt (vLLM's
classifier_from_token, the LogitScore module of Sentence Transformers' cross-encoders)."""

from __future__ import annotations

from ...runtime.errors import CheckpointError
from ..checkpoint import Checkpoint
from ..families.registry import Layer
from ..files.sentence_files import Answers
from . import layers, logits
from .layers import Operation, Steps

METHODS = ("from_2_way_softmax", "no_post_processing")
OUTPUT, TABLE = "lm_head", "embed_tokens"


def steps(checkpoint: Checkpoint) -> tuple[Steps, int] | None:
    """None: nobody asked for it. Raises CheckpointError: a token is not one entry of the vocabulary, or
    the method is not known."""
    hidden = layers.hidden_size(checkpoint)
    rows = _configured(checkpoint)
    if rows is not None:
        # A tied model's output matrix is its token table, whatever else the file holds.
        names = (TABLE,) if checkpoint.config.get("tie_word_embeddings") else (OUTPUT, TABLE)
        return layers.steps(
            checkpoint, (Layer(name=names[0], names=names[1:], bias=False, rows=rows),), hidden
        )
    answers = module(checkpoint)
    return None if answers is None else _scored(checkpoint, answers, hidden)


def _scored(checkpoint: Checkpoint, answers: Answers, hidden: int) -> tuple[Steps, int]:
    """As the library computes it: the language model's own logits, with all that its class does to them."""
    row, output = _answered(checkpoint, answers), logits.read(checkpoint)
    bounded = any(operation.kind == "cap" for operation in output.operations)
    # Without a bound, the difference of two rows is that of their logits, and closer:
    # the rows are much alike.
    rows = tuple((token,) for token in row) if bounded else (row,)
    named = Layer(name=output.name, names=(OUTPUT, TABLE), bias=output.has_bias, rows=rows)
    found, width = layers.steps(checkpoint, (named,), hidden)
    made: Steps = (*found, *output.operations)
    return (*made, Operation(kind="subtract")) if width == 2 else made, 1


def module(checkpoint: Checkpoint) -> Answers | None:
    """What a LogitScore module says, unless classifier_from_token says otherwise."""
    asked = checkpoint.config.get("classifier_from_token")
    return checkpoint.sentence.answers if checkpoint.sentence is not None and not asked else None


def _configured(checkpoint: Checkpoint) -> tuple[tuple[int, ...], ...] | None:
    tokens = checkpoint.config.get("classifier_from_token")
    if not tokens:
        return None
    ids = {str(token): checkpoint.text.id(str(token)) for token in tokens}
    missing = [token for token, found in ids.items() if found is None]
    if missing:
        raise CheckpointError(
            f"{checkpoint.source}: classifier_from_token: {', '.join(map(repr, missing))} not in "
            "the vocabulary"
        )
    found = [token for name in tokens if (token := ids[str(name)]) is not None]
    if method(checkpoint) == "from_2_way_softmax":
        if len(found) != 2:
            raise CheckpointError(
                f"{checkpoint.source}: from_2_way_softmax needs two tokens, no and yes; found {tokens}"
            )
        # The sigmoid of the difference is the softmax over the two.
        return ((found[1], found[0]),)
    return tuple((token,) for token in found)


def _answered(checkpoint: Checkpoint, answers: Answers) -> tuple[int, ...]:
    row = (answers.true,) if answers.false is None else (answers.true, answers.false)
    count = checkpoint.number("vocab_size")
    if max(row) >= count:
        raise CheckpointError(
            f"{checkpoint.source}: LogitScore: token {max(row)} is not one of the vocabulary's {count}"
        )
    return row


def method(checkpoint: Checkpoint) -> str:
    asked = checkpoint.config.get("method")
    if asked is None and checkpoint.config.get("is_original_qwen3_reranker"):
        return "from_2_way_softmax"
    if asked not in METHODS:
        raise CheckpointError(
            f"{checkpoint.source}: classifier_from_token with method {asked!r}; expected one of "
            f"{', '.join(METHODS)}"
        )
    return str(asked)


def told(checkpoint: Checkpoint) -> tuple[str, str]:
    """For people: what is compared, and who says so."""
    answers = module(checkpoint)
    if answers is not None:
        names = [
            f"{checkpoint.text.token(token)!r}"
            for token in (answers.true, answers.false)
            if token is not None
        ]
        return " minus ".join(f"logit of {name}" for name in names), "the LogitScore module of modules.json"
    tokens = [repr(str(token)) for token in checkpoint.config["classifier_from_token"]]
    value = (
        f"logit of {tokens[1]} minus logit of {tokens[0]}"
        if method(checkpoint) == METHODS[0]
        else f"logits of {', '.join(tokens)}"
    )
    return value, "classifier_from_token"
