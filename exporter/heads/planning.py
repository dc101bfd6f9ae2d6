"""From a checkpoint to a plan: its tasks, what the graph computes for each, and what the runtime does.

No torch here: the modules that compute a plan are in head_modules.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ...runtime.artifact.manifest import Head, Role, Scoring, Task, Tensor, TextPreparation
from ...runtime.errors import CheckpointError
from ..base.guess import Guess
from ..base.refusals import refuses
from ..checkpoint import Checkpoint
from ..detection import Kind
from ..families.registry import Past
from . import checks, classification, embedding, pictures, static_words, text_plan
from .layers import LayerStep, Operation
from .tasks import TaskHead, TaskPlan, scoring_of
from .texts import colbert, processing

# Keys of config.json that serving shows, or that overrides are compared with (runtime/artifact/overrides.py).
SHOWN = (
    "model_type", "architectures", "num_labels", "id2label", "problem_type", "hidden_size", "vocab_size",
    "max_position_embeddings",
    "io_processor_plugin", "classifier_from_token", "method", "is_original_qwen3_reranker", "lora_task",
)  # fmt: skip


MIXING = ("word_weights", "layer_mix", "convolve")
"""Operations in front of a pooling that read more than the last hidden state of one token."""
ENOUGH = ("input_ids", "attention_mask")
"""The inputs of a text graph that can take a prefix."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Everything about a model that is decided before torch is imported."""

    tasks: tuple[Task, ...]
    """The first is the default."""
    scoring: Scoring | None
    text: TextPreparation
    heads: dict[str, Head]
    """Task -> head, as the manifest holds it."""
    parts: tuple[TaskHead, ...]
    """In the order of `tasks`; one graph output each, named by its head."""
    tensors: tuple[Tensor, ...]
    """Inputs of the text graph, in order."""
    past: Past | None = None
    """What the text graph takes of a prefix; None: texts are computed whole."""
    vision: pictures.VisionPlan | None = None
    """None: the model reads text only."""
    published: str | None = None
    """Class of transformers whose own head computes the only part; None: the backbone and our layers do."""
    chunked: bool
    """Whether longer texts are embedded in chunks."""
    max_embed_tokens: int | None
    config: dict[str, object]
    """Those of SHOWN that config.json has."""
    files: dict[str, bytes]
    """Files the text preparation needs (`tokenizer.json`, templates): name -> content."""
    guesses: tuple[Guess, ...]
    """Guesses of the checkpoint, then of its heads."""

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the text graph's inputs, in order."""
        return tuple(tensor.name for tensor in self.tensors)

    @property
    def lines(self) -> tuple[str, ...]:
        """The guesses as text, one line each."""
        return tuple(str(guess) for guess in self.guesses)


@refuses("its head cannot be planned")
def plan(checkpoint: Checkpoint) -> Plan:
    """Plans the heads of a checkpoint.

    Raises CheckpointError where tensors of a head are missing (it names all), or a setting is not known.
    """
    guesses = list(checkpoint.guesses)
    limit, limit_guesses = text_plan.max_tokens(checkpoint)
    guesses += limit_guesses
    processing.check(checkpoint)
    if (shorter := processing.max_length(checkpoint)) is not None and shorter < limit:
        limit = shorter
        guesses.append(Guess("max tokens", str(limit), "processing_kwargs of sentence_bert_config.json"))
    tasks: tuple[Task, ...]
    tasks, scoring, parts, heads = KINDS[checkpoint.kind](checkpoint, guesses)
    vision = pictures.vision(checkpoint, heads, guesses)
    if vision is not None and vision.images.apart:
        # A picture becomes one vector, so texts become no more than that.
        parts = [part for part in parts if part.task == "embed"]
        tasks = tuple(part.task for part in parts)
    checks.check_classifier(checkpoint)
    checks.check_adapter(
        checkpoint,
        (step for part in parts for step in (*part.before, *part.after) if isinstance(step, LayerStep)),
    )
    roles: dict[str, Role] = {}
    if checkpoint.family.roles is not None:
        roles = dict(checkpoint.family.roles(checkpoint))
        guesses.append(Guess("roles", ", ".join(roles), "the published processor", "a recipe's roles"))
    elif checkpoint.kind == "colbert" and not checkpoint.family.late_interaction:
        roles, role_guesses = colbert.roles(checkpoint, limit)
        guesses += role_guesses
    static = checkpoint.sentence.static if checkpoint.sentence is not None else None
    if static is not None:
        roles, role_guesses = static_words.roles(checkpoint, static, limit)
        guesses += role_guesses
    elif scoring == "bi-encoder" and checkpoint.family.roles is None:
        roles = text_plan.prompted_roles(checkpoint)
    if checkpoint.recipe is not None:
        roles = roles | checkpoint.recipe.sides()
    if checkpoint.pooler.task is not None:
        if checkpoint.pooler.task not in tasks:
            raise CheckpointError(
                f"pooler config: task {checkpoint.pooler.task!r} is not one of this "
                f"model's: {', '.join(tasks)}"
            )
        first = checkpoint.pooler.task
        tasks = tuple(sorted(tasks, key=lambda task: task != first))
        scoring = (
            scoring_of(first, heads) if checkpoint.kind != "bge-m3" or first != "token_classify" else None
        )
    guesses.append(
        Guess("tasks", ", ".join(tasks), f"{tasks[0]} by default", '--pooler-config \'{"task": "..."}\'')
    )
    if scoring:
        guesses.append(Guess("scoring", scoring, f"follows from {tasks[0]}"))
    files = text_plan.files(checkpoint)
    prepared = text_plan.text(checkpoint, limit, roles, files, heads, guesses)
    inputs = list(checkpoint.family.inputs)
    if static is not None or not prepared.pools_prompts:
        inputs.append("token_kinds")
    parts_by_task = {part.task: part for part in parts}
    return Plan(
        tasks=tasks,
        scoring=scoring,
        text=prepared,
        heads={task: heads[task] for task in tasks},
        parts=tuple(parts_by_task[task] for task in tasks),
        tensors=pictures.tensors(checkpoint, inputs),
        past=_past(checkpoint, parts, inputs),
        vision=vision,
        published=parts[0].published,
        chunked=checkpoint.pooler.enable_chunked_processing,
        max_embed_tokens=checkpoint.pooler.max_embed_len,
        config={key: checkpoint.config[key] for key in SHOWN if checkpoint.config.get(key) is not None},
        files=files,
        guesses=tuple(guesses),
    )


def _past(checkpoint: Checkpoint, parts: Sequence[TaskHead], inputs: Sequence[str]) -> Past | None:
    """What the text graph takes of a prefix: where a head reads the last token alone, and nothing else in the
    model reads tokens of a prefix."""
    family = checkpoint.family
    last = any(part.pools == ("last",) for part in parts)
    mixes = any(isinstance(step, Operation) and step.kind in MIXING for part in parts for step in part.before)
    if family.past is None or not last or mixes or tuple(inputs) != ENOUGH:
        return None
    return None if parts[0].published is not None else family.past(checkpoint.config)


KINDS: dict[Kind, Callable[[Checkpoint, list[Guess]], TaskPlan]] = {
    "embed": embedding.embed, "splade": embedding.splade, "colbert": embedding.colbert,
    "bge-m3": embedding.bge_m3,
    "classify": classification.classify, "modular": classification.modular,
    "token_classify": classification.token_classify, "reward": classification.reward,
    "listwise": classification.listwise,
}  # fmt: skip
