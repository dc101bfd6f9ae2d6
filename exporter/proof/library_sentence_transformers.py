"""A checkpoint in a class of Sentence Transformers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...runtime.artifact.manifest import Task
from ...runtime.outputs import Floats
from . import library_heads
from .library_answers import Computed, Library, Read, floats, read_features, version
from .library_texts import Case

if TYPE_CHECKING:
    from ..checkpoint import Checkpoint
    from ..heads.planning import Plan

SENTENCE_CLASSES = {
    "SentenceTransformer": "SentenceTransformer",
    "SparseEncoder": "SparseEncoder",
    "CrossEncoder": "CrossEncoder",
    "MultiVectorEncoder": "MultiVectorEncoder",
    "ColBERT": "MultiVectorEncoder",
}
# Modules that only one of the classes ends with -> that class.
LAST_MODULES = {
    "SpladePooling": "SparseEncoder",
    "LogitScore": "CrossEncoder",
    "MultiVectorMask": "MultiVectorEncoder",
}


class SentenceLibrary(Library):
    """A class of Sentence Transformers."""

    cuts = True

    def __init__(self, kind: str, model: Any, backbone: Any, checkpoint: Checkpoint, plan: Plan) -> None:
        super().__init__(
            f"sentence-transformers {version('sentence-transformers')} {kind}",
            backbone,
            model.tokenizer,
            checkpoint,
            plan,
        )
        self.kind, self.model = kind, model
        self.routed = checkpoint.sentence is not None and checkpoint.sentence.static is not None
        if kind == "MultiVectorEncoder":  # each side has a limit of its own
            self.limit = None
        # Sentence Transformers calls the backbone's forward directly, which runs no hook of torch.
        if getattr(backbone, "base_model", backbone) is backbone:
            model[0].register_forward_hook(self._keep_features)

    def _keep_features(self, module: Any, inputs: Any, features: Any) -> None:
        self._hidden = features[module.module_output_name]

    def cut(self, limit: int) -> None:
        routes = self.model[0].sub_modules.values() if self.routed else ()
        for tokenizer in [route[0].tokenizer for route in routes] or [self.tokenizer]:
            tokenizer.model_max_length = limit

    def _input(self, case: Case) -> tuple[Any, dict[str, Any]]:
        """The text or pair, and the options of the library's methods."""
        if self.routed and case.role is not None:
            return case.text, {"prompt": self.plan.text.roles[case.role].prefix, "task": case.role}
        if self.kind == "MultiVectorEncoder" and case.role is not None:
            return case.text, {"prompt": self.model.prompts.get(case.role) or "", "task": case.role}
        role = self.plan.text.roles.get(case.role) if case.role else None
        stored = self.plan.text.prompts[case.prompt_name] if case.prompt_name else ""
        if self.kind == "CrossEncoder" and self.plan.text.score_template is not None:
            # The template puts it into a message of its own.
            stored = (self.model.prompts or {}).get(self.model.default_prompt_name or "") or ""
        # An empty prompt replaces the default one, which poolrt and vLLM apply on request only.
        return (case.text if case.document is None else (case.text, case.document)), {
            "prompt": role.prefix if role else stored
        }

    def read(self, case: Case) -> Read:
        text, options = self._input(case)
        return read_features(self.model.preprocess([text], **options))

    def compute(self, case: Case) -> Computed:
        import torch

        text, options = self._input(case)
        seen: list[Read] = []
        outputs: Any = None
        handle = self.model[0].register_forward_pre_hook(
            lambda module, inputs: seen.append(read_features(inputs[0]))
        )
        try:
            if self.kind == "CrossEncoder" and case.document is not None:
                outputs = self.model.predict(
                    [text],
                    batch_size=1,
                    show_progress_bar=False,
                    activation_fn=torch.nn.Identity(),
                    prompt=options["prompt"],
                )
            elif self.kind == "CrossEncoder":
                with torch.inference_mode():
                    self.model(self.model.preprocess([text], **options))
            else:
                encode = self.model.encode
                if case.role is not None and self.kind != "MultiVectorEncoder" and not self._recipe_roles():
                    # The method applies the stored prompt of its side itself.
                    encode, options = getattr(self.model, f"encode_{case.role}"), {}
                outputs = encode([text], batch_size=1, show_progress_bar=False, **options)
        finally:
            handle.remove()
        hidden = self._hidden_rows() if self._hidden is not None or not self.routed else None
        answers: dict[Task, Floats] = {}
        pooled = (
            self.kind == "SentenceTransformer"
            and self.checkpoint.kind in ("embed", "bge-m3")
            and self._own_pooling()
        )
        if hidden is not None and (case.role is None or self.checkpoint.kind != "colbert"):
            answers |= library_heads.answers(self.checkpoint, self.plan, hidden, pooled_by_library=pooled)
        if outputs is None:
            return Computed(read=seen[0], hidden=hidden, answers=answers)
        if pooled:
            answers["embed"] = floats(outputs[0])
        elif self.kind == "SparseEncoder" and self.checkpoint.kind == "splade":
            answers["embed"] = floats(outputs[0].to_dense() if outputs[0].is_sparse else outputs[0])
        elif self.kind == "CrossEncoder" and self.checkpoint.kind == "classify":
            answers["classify"] = floats(np.atleast_1d(outputs[0]))
            score = (
                floats(self.model.activation_fn(torch.from_numpy(answers["classify"])))
                if answers["classify"].size == 1
                else None
            )
            return Computed(read=seen[0], hidden=hidden, answers=answers, score=score)
        elif self.kind == "MultiVectorEncoder" and case.role is not None:
            answers["token_embed"] = floats(outputs[0])
        return Computed(read=seen[0], hidden=hidden, answers=answers)

    def _recipe_roles(self) -> bool:
        recipe = self.checkpoint.recipe
        return recipe is not None and bool(recipe.roles)

    def _own_pooling(self) -> bool:
        """Whether no pooler config changes the library's vector."""
        pooler = self.checkpoint.pooler
        return pooler.pool is None and pooler.use_activation is None


def sentence_class(folder: Path, config: Mapping[str, Any]) -> str | None:
    """The class of Sentence Transformers that a folder is for; None: it has none of its files."""
    settings, modules = _object(folder / "config_sentence_transformers.json"), folder / "modules.json"
    kind = SENTENCE_CLASSES.get(str(settings.get("model_type")))
    if "HF_ColBERT" in (config.get("architectures") or ()):
        return "MultiVectorEncoder"
    if not modules.is_file():
        marked = "sbert_ce_default_activation_function" in config or "activation_fn" in (
            config.get("sentence_transformers") or {}
        )
        return "CrossEncoder" if kind == "CrossEncoder" or (kind is None and marked) else None
    types = [str(entry.get("type", "")) for entry in json.loads(modules.read_text(encoding="utf-8"))]
    if any(name.startswith("pylate.") for name in types):
        return "MultiVectorEncoder"
    last = next(
        (LAST_MODULES[name] for path in types if (name := path.rsplit(".", 1)[-1]) in LAST_MODULES), None
    )
    late = (
        settings.get("similarity_fn_name") == "MaxSim"
        and {"query_length", "document_length"} & settings.keys()
    )
    return (
        kind
        if kind not in (None, "SentenceTransformer")
        else last or ("MultiVectorEncoder" if late else "SentenceTransformer")
    )


def _object(path: Path) -> dict[str, Any]:
    settings = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return settings if isinstance(settings, dict) else {}
