"""Classifiers made of a language model: its logits for a few tokens at the end of the prompt (vLLM's classifier_from_token)."""

from __future__ import annotations

from ..runtime.errors import CheckpointError
from .architectures import Layer
from .checkpoint import Checkpoint

METHODS = ("from_2_way_softmax", "no_post_processing")
OUTPUT, TABLE = "lm_head", "embed_tokens"


def layer(checkpoint: Checkpoint) -> Layer | None:
    """None: nobody asked for it. Raises CheckpointError: a token is not one entry of the vocabulary, or the method is not known."""
    tokens = checkpoint.config.get("classifier_from_token")
    if not tokens:
        return None
    ids = {str(token): checkpoint.text.id(str(token)) for token in tokens}
    missing = [token for token, found in ids.items() if found is None]
    if missing:
        raise CheckpointError(f"{checkpoint.source}: classifier_from_token: {', '.join(map(repr, missing))} not in the vocabulary")
    found = [ids[str(token)] for token in tokens]
    if method(checkpoint) == "from_2_way_softmax":
        if len(found) != 2:
            raise CheckpointError(f"{checkpoint.source}: from_2_way_softmax needs two tokens, no and yes; found {tokens}")
        # The sigmoid of the difference is the softmax over the two.
        rows = ((found[1], found[0]),)
    else:
        rows = tuple((token,) for token in found)
    # A tied model's output matrix is its token table, whatever else the file holds.
    names = (TABLE,) if checkpoint.config.get("tie_word_embeddings") else (OUTPUT, TABLE)
    return Layer(name=names[0], names=names[1:], bias=False, rows=rows)  # pyright: ignore[reportArgumentType]


def method(checkpoint: Checkpoint) -> str:
    asked = checkpoint.config.get("method")
    if asked is None and checkpoint.config.get("is_original_qwen3_reranker"):
        return "from_2_way_softmax"
    if asked not in METHODS:
        raise CheckpointError(f"{checkpoint.source}: classifier_from_token with method {asked!r}; expected one of {', '.join(METHODS)}")
    return str(asked)


def told(checkpoint: Checkpoint) -> str:
    tokens = [repr(str(token)) for token in checkpoint.config["classifier_from_token"]]
    return f"logit of {tokens[1]} minus logit of {tokens[0]}" if method(checkpoint) == METHODS[0] else f"logits of {', '.join(tokens)}"
