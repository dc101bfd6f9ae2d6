"""Which modules of modules.json make an answer, in their order: the way from the hidden
states to one named output.

Every module reads one feature and writes one, so what leads to an output is a line; a module off
that line changes nothing. A pooling parts the line in two: what is done to every token, and what is
done to the pooled vector.
"""

from __future__ import annotations

from dataclasses import dataclass

from ...runtime.errors import CheckpointError
from .sentence_files import LOGITS, POOLED, SCORES, TOKENS, TRANSFORMERS, Module, SentenceFiles, task

# What the library hands from module to module beside the features that modules are said to write.
OWN = (
    "input_ids",
    "attention_mask",
    "token_type_ids",
    "cls_token_embeddings",
    "token_weights_sum",
    "all_layer_embeddings",
)
POOLINGS = ("Pooling", "SpladePooling")
# What the transformer's class returns for each task of the library.
RETURNS = {
    "feature-extraction": "last_hidden_state", "fill-mask": "logits", "sequence-classification": "logits",
    "text-generation": "logits",
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    source: str
    """What the transformer made: TOKENS, or what its own head makes of them."""
    task: str
    """The library's name for what the transformer is loaded as."""
    tokens: tuple[Module, ...] = ()
    """On every token."""
    pooling: Module | None = None
    pooled: tuple[Module, ...] = ()


def route(sentence: SentenceFiles, output: str, *, all_layers: bool = False) -> Route | None:
    """None: no module writes `output`. Raises CheckpointError where the library cannot run the
    modules, or poolrt does not.

    `all_layers`: config.json's output_hidden_states, without which a WeightedLayerPooling does nothing.
    """
    chain = sentence.chain
    if (
        not chain
        or chain[0].kind not in TRANSFORMERS
        or any(module.kind in TRANSFORMERS for module in chain[1:])
    ):
        raise CheckpointError(
            f"modules.json: {' → '.join(sentence.modules)}; expected one transformer, in front of all "
            "other modules"
        )
    first, known = chain[0], task(chain[0].kind, sentence.text)
    _check_transformer(sentence, known)
    lines: dict[str, tuple[Module, ...]] = {first.writes: ()}
    masked = False
    for module in chain[1:]:
        masked = masked or (module.kind == "MultiVectorMask" and any(module.settings.values()))
        if module.kind in ("Dropout", "MultiVectorMask") or (
            module.kind == "WeightedLayerPooling" and not all_layers
        ):
            continue
        if module.reads not in lines:
            if module.kind == "Normalize":
                continue  # as the library does
            raise CheckpointError(
                f"modules.json: {module} reads {module.reads!r}, which no module in front of it writes"
            )
        if module.writes in OWN:
            raise CheckpointError(
                f"modules.json: {module} writes {module.writes!r}, which the library keeps for itself"
            )
        line = lines[module.reads]
        if module.kind in POOLINGS and masked:
            raise CheckpointError(
                f"modules.json: {module} stands behind a MultiVectorMask that leaves tokens out; "
                "expected it in front"
            )
        if any(each.kind in POOLINGS for each in line) and (
            module.kind in POOLINGS or module.writes == TOKENS
        ):
            raise CheckpointError(
                f"modules.json: {module} takes a pooled vector for tokens; expected one pooling on the way "
                "to an answer"
            )
        if module.kind == "WeightedLayerPooling" and line:
            # It starts from the layers of the transformer, whatever was done to the last of them.
            line = ()
        if module.kind == "Pooling" and any(
            each.kind == "WordWeights" and each not in line for each in chain[: chain.index(module)]
        ):
            raise CheckpointError(
                f"modules.json: {module} does not pool what WordWeights made; expected it to"
            )
        lines[module.writes] = (*line, module)
    if output not in lines:
        return None
    line = lines[output]
    at = next((place for place, module in enumerate(line) if module.kind in POOLINGS), None)
    if at is None:
        return Route(source=first.writes, task=known, tokens=line)
    return Route(source=first.writes, task=known, tokens=line[:at], pooling=line[at], pooled=line[at + 1 :])


def scores(sentence: SentenceFiles, *, all_layers: bool = False) -> Route | None:
    """The way to the scores of a cross-encoder that is built of modules behind a bare
    encoder; None: it is none."""
    if sentence.kind not in ("CrossEncoder", "") or "LogitScore" in sentence.modules:
        return None
    if not any(module.writes == SCORES and module.kind not in TRANSFORMERS for module in sentence.chain):
        return None
    return route(sentence, SCORES, all_layers=all_layers)


def _check_transformer(sentence: SentenceFiles, known: str) -> None:
    """Raises CheckpointError: the transformer hands on something other than its
    class's usual answer to a text."""
    if known not in RETURNS:
        raise CheckpointError(
            f"sentence_bert_config.json: transformer_task {known!r}; expected one of {', '.join(RETURNS)}"
        )
    if sentence.chain[0].writes not in (TOKENS, SCORES, LOGITS, POOLED):
        raise CheckpointError(
            f"sentence_bert_config.json: module_output_name {sentence.chain[0].writes!r}; expected {TOKENS!r}"
        )
    modalities = sentence.text.get("modality_config")
    if not modalities:
        return
    params = modalities.get("text") or modalities.get("message") or {}
    found = (params.get("method"), params.get("method_output_name"))
    if found != ("forward", RETURNS[known]) or sentence.chain[0].writes == POOLED:
        raise CheckpointError(
            f"sentence_bert_config.json: texts go through {found[0]} and become its {found[1]} as "
            f"{sentence.chain[0].writes!r}; "
            f"poolrt knows forward and {RETURNS[known]} as {TOKENS!r}"
        )
