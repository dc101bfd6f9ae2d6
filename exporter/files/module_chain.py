"""Which modules of modules.json compute an output, in their order: the way from the hidden states to one
named feature.

Every module reads one feature and writes one, so the modules that lead to an output form a line. A module off
that line changes nothing. A pooling divides the line: modules before it run on every token, modules behind it
on the pooled vector.
"""

from __future__ import annotations

from dataclasses import dataclass

from ...runtime.errors import CheckpointError
from .sentence_files import LOGITS, POOLED, SCORES, TOKENS, TRANSFORMERS, Module, SentenceFiles, task

# Features that the library itself passes from module to module. No module may write them.
OWN = (
    "input_ids",
    "attention_mask",
    "token_type_ids",
    "cls_token_embeddings",
    "token_weights_sum",
    "all_layer_embeddings",
)
POOLINGS = ("Pooling", "SpladePooling")
# Task of the library -> the output that the transformer's class returns for it.
RETURNS = {
    "feature-extraction": "last_hidden_state",
    "fill-mask": "logits",
    "sequence-classification": "logits",
    "text-generation": "logits",
    "image-text-to-text": "logits",
    "any-to-any": "logits",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """The modules that compute one output."""

    source: str
    """The feature that the transformer writes: TOKENS, or an output of its own head."""
    task: str
    """The library's task, which decides the class that the transformer is loaded as."""
    tokens: tuple[Module, ...] = ()
    """Modules that run on every token."""
    pooling: Module | None = None
    pooled: tuple[Module, ...] = ()
    """Modules that run on the pooled vector."""


def route(sentence: SentenceFiles, output: str, *, all_layers: bool = False) -> Route | None:
    """The way to `output`; None: no module writes it.

    `all_layers`: config.json's output_hidden_states, without which a WeightedLayerPooling does nothing.

    Raises CheckpointError for modules that the library cannot run, or poolrt does not.
    """
    chain = sentence.chain
    if (
        not chain
        or chain[0].kind not in TRANSFORMERS
        or any(module.kind in TRANSFORMERS for module in chain[1:])
    ):
        raise CheckpointError(
            f"modules.json: {' → '.join(sentence.modules)}; expected one transformer, in "
            "front of all other modules"
        )
    first, loaded_as = chain[0], task(chain[0].kind, sentence.text)
    _check_transformer(sentence, loaded_as)
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
                continue  # the library skips it too
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
                f"modules.json: {module} stands behind a MultiVectorMask that leaves tokens "
                "out; expected it in front"
            )
        if any(earlier.kind in POOLINGS for earlier in line) and (
            module.kind in POOLINGS or module.writes == TOKENS
        ):
            raise CheckpointError(
                f"modules.json: {module} takes a pooled vector for tokens; expected one "
                "pooling on the way to an answer"
            )
        if module.kind == "WeightedLayerPooling" and line:
            # It reads the transformer's layers, so modules that changed the last of them have no effect.
            line = ()
        if module.kind == "Pooling" and any(
            earlier.kind == "WordWeights" and earlier not in line for earlier in chain[: chain.index(module)]
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
        return Route(source=first.writes, task=loaded_as, tokens=line)
    return Route(
        source=first.writes, task=loaded_as, tokens=line[:at], pooling=line[at], pooled=line[at + 1 :]
    )


def scores(sentence: SentenceFiles, *, all_layers: bool = False) -> Route | None:
    """The way to the scores of a cross-encoder that consists of modules behind a bare encoder; None: the
    checkpoint is no such model."""
    if sentence.kind not in ("CrossEncoder", "") or "LogitScore" in sentence.modules:
        return None
    if not any(module.writes == SCORES and module.kind not in TRANSFORMERS for module in sentence.chain):
        return None
    return route(sentence, SCORES, all_layers=all_layers)


def _check_transformer(sentence: SentenceFiles, loaded_as: str) -> None:
    """Raises CheckpointError for a transformer that writes something other than the usual output of its class
    for a text."""
    if loaded_as not in RETURNS:
        raise CheckpointError(
            f"sentence_bert_config.json: transformer_task {loaded_as!r}; expected one of {', '.join(RETURNS)}"
        )
    if sentence.chain[0].writes not in (TOKENS, SCORES, LOGITS, POOLED):
        raise CheckpointError(
            f"sentence_bert_config.json: module_output_name {sentence.chain[0].writes!r}; expected {TOKENS!r}"
        )
    modalities = sentence.text.get("modality_config")
    if not modalities:
        return
    params = modalities.get("text") or modalities.get("message") or {}
    method, output = params.get("method"), params.get("method_output_name")
    if (method, output) != ("forward", RETURNS[loaded_as]) or sentence.chain[0].writes == POOLED:
        raise CheckpointError(
            f"sentence_bert_config.json: texts go through {method} and become its {output} as "
            f"{sentence.chain[0].writes!r}; poolrt knows forward and {RETURNS[loaded_as]} as {TOKENS!r}"
        )
