"""Queries of inference-free sparse retrieval: SparseStaticEmbedding's weight of each word in the text."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from ...runtime.artifact.manifest import Role
from ...runtime.errors import CheckpointError
from ..base.guess import Guess
from ..base.json_file import json_file
from ..files import tokenizer
from ..files.routers import Static
from . import layers

if TYPE_CHECKING:
    import torch

    from ..checkpoint import Checkpoint

# Keys of tokenizer.json. A query has no special tokens, and poolrt cuts and pads by itself.
_WITHOUT_EFFECT = ("truncation", "padding", "post_processor")


def roles(checkpoint: Checkpoint, static: Static, max_tokens: int) -> tuple[dict[str, Role], list[Guess]]:
    """Returns the roles `query` and `document`. Raises CheckpointError where they need two tokenizers."""
    own = tokenizer.read(checkpoint.folder / static.folder, lowercase=False, overrides={})
    if _read_as(own.json) != _read_as(checkpoint.text.json):
        raise CheckpointError(
            f"{checkpoint.source}: the tokenizer in {static.folder} reads queries otherwise than the "
            "transformer's reads documents; poolrt has one tokenizer for both"
        )
    prompts = checkpoint.sentence.prompts if checkpoint.sentence else {}
    cut = own.max_tokens if own.max_tokens is not None and own.max_tokens <= max_tokens else None
    guess = Guess(
        "queries",
        "weights of their words, without the model",
        f"SparseStaticEmbedding in {static.folder}",
        "role when embedding",
    )
    return {
        "query": Role(prefix=prompts.get("query", ""), max_tokens=cut, static=True),
        "document": Role(prefix=prompts.get("document", "")),
    }, [guess]


def table(checkpoint: Checkpoint, folder: str, width: int) -> torch.Tensor:
    """Returns the weight of each word, [width]; 0 for words not in the table. Raises CheckpointError."""
    import torch

    settings = json_file(path, dict) if (path := checkpoint.folder / folder / "config.json").is_file() else {}
    named = settings.get("path")
    if isinstance(named, str) and named.endswith(".json"):
        weights = _listed(checkpoint, folder, named)
    else:
        opened = layers.tensors(checkpoint, folder)
        stored = opened.find("weight")
        if stored is None:
            raise CheckpointError(f"{checkpoint.source}: missing weight in {folder}")
        weights = opened.read(stored).float()
    if weights.ndim != 1 or len(weights) > width:
        raise CheckpointError(
            f"{checkpoint.source}: {folder} weighs {tuple(weights.shape)} words, documents have {width}"
        )
    return torch.nn.functional.pad(weights, (0, width - len(weights)))


def _listed(checkpoint: Checkpoint, folder: str, named: str) -> torch.Tensor:
    """Reads the weights of idf.json (word -> weight) into a table of the vocabulary."""
    import torch

    name = named.rsplit("/", 1)[-1]
    path = next(
        (path for path in (checkpoint.folder / folder / name, checkpoint.folder / name) if path.is_file()),
        None,
    )
    if path is None:
        raise CheckpointError(
            f"{checkpoint.source}: {folder} takes its weights from {named!r}; put that file "
            "into the checkpoint's folder"
        )
    vocabulary, weight_of = checkpoint.text.tokenizer.get_vocab(), json_file(path, dict)
    weights = torch.zeros(max(vocabulary.values()) + 1)
    unknown = checkpoint.text.ids.get("unk_token")
    for word, weight in weight_of.items():
        index = vocabulary.get(word, unknown)
        if not isinstance(weight, int | float) or index is None:
            raise CheckpointError(
                f"{path}: {word!r} → {weight!r}; expected a word of the vocabulary and its weight"
            )
        weights[index] = weight
    return weights


def _read_as(content: bytes) -> dict[str, Any]:
    """Returns what of a tokenizer.json decides how a query is read."""
    return {key: value for key, value in json.loads(content).items() if key not in _WITHOUT_EFFECT}
