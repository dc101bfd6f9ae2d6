"""Classifiers made of a language model: its logits of a few tokens at the end of the prompt.

vLLM configures them by classifier_from_token, Sentence Transformers by a LogitScore module.
"""

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
    """Returns the steps and how many logits they compute; None where no such classifier is configured.

    Raises CheckpointError where a token is not in the vocabulary or the method is not known.
    """
    hidden = layers.hidden_size(checkpoint)
    rows = _configured(checkpoint)
    if rows is not None:
        # The output matrix of a tied model is its token table, even if the file holds another one.
        names = (TABLE,) if checkpoint.config.get("tie_word_embeddings") else (OUTPUT, TABLE)
        return layers.steps(
            checkpoint, (Layer(name=names[0], names=names[1:], bias=False, rows=rows),), hidden
        )
    answers = module(checkpoint)
    return None if answers is None else _scored(checkpoint, answers, hidden)


def _scored(checkpoint: Checkpoint, answers: Answers, hidden: int) -> tuple[Steps, int]:
    """Returns the steps of a LogitScore module: logits, what the class does to them, and their difference."""
    row, output = _answered(checkpoint, answers), logits.read(checkpoint)
    bounded = any(operation.kind == "cap" for operation in output.operations)
    # Without a bound, the rows may be subtracted instead of their logits. That is more exact, because the
    # rows are close to each other.
    rows = tuple((token,) for token in row) if bounded else (row,)
    named = Layer(name=output.name, names=(OUTPUT, TABLE), bias=output.has_bias, rows=rows)
    matrix, width = layers.steps(checkpoint, (named,), hidden)
    scored: Steps = (*matrix, *output.operations)
    return (*scored, Operation(kind="subtract")) if width == 2 else scored, 1


def module(checkpoint: Checkpoint) -> Answers | None:
    """Returns the tokens of a LogitScore module, unless classifier_from_token overrides it."""
    overridden = bool(checkpoint.config.get("classifier_from_token"))
    return checkpoint.sentence.answers if checkpoint.sentence is not None and not overridden else None


def _configured(checkpoint: Checkpoint) -> tuple[tuple[int, ...], ...] | None:
    """Returns the output rows that classifier_from_token means; (a, b) is row a minus row b."""
    tokens = checkpoint.config.get("classifier_from_token")
    if not tokens:
        return None
    ids = {str(token): checkpoint.text.id(str(token)) for token in tokens}
    missing = [token for token, index in ids.items() if index is None]
    if missing:
        raise CheckpointError(
            f"{checkpoint.source}: classifier_from_token: "
            f"{', '.join(map(repr, missing))} not in the vocabulary"
        )
    rows = [index for token in tokens if (index := ids[str(token)]) is not None]
    if method(checkpoint) == "from_2_way_softmax":
        if len(rows) != 2:
            raise CheckpointError(
                f"{checkpoint.source}: from_2_way_softmax needs two tokens, no and yes; found {tokens}"
            )
        # The sigmoid of the difference is the softmax over the two.
        return ((rows[1], rows[0]),)
    return tuple((row,) for row in rows)


def _answered(checkpoint: Checkpoint, answers: Answers) -> tuple[int, ...]:
    """Returns the token of a yes, and that of a no where there is one."""
    row = (answers.true,) if answers.false is None else (answers.true, answers.false)
    count = checkpoint.number("vocab_size")
    if max(row) >= count:
        raise CheckpointError(
            f"{checkpoint.source}: LogitScore: token {max(row)} is not one of the vocabulary's {count}"
        )
    return row


def method(checkpoint: Checkpoint) -> str:
    """Returns one of METHODS. Raises CheckpointError."""
    name = checkpoint.config.get("method")
    if name is None and checkpoint.config.get("is_original_qwen3_reranker"):
        return "from_2_way_softmax"
    if name not in METHODS:
        raise CheckpointError(
            f"{checkpoint.source}: classifier_from_token with method {name!r}; expected "
            f"one of {', '.join(METHODS)}"
        )
    return str(name)


def described(checkpoint: Checkpoint) -> tuple[str, str]:
    """Returns for people which logits are compared, and which setting says so."""
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
