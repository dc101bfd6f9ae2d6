"""What a checkpoint's own library makes of one text, alone: token ids, hidden states, and the answers
that it has an opinion on."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ...runtime.artifact.manifest import Task
from ...runtime.outputs import Floats
from . import library_heads
from .library_texts import Case

if TYPE_CHECKING:
    import torch

    from ..checkpoint import Checkpoint
    from ..heads.planning import Plan

NO_LIMIT = 10**9


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """One text as the library's tokenizer gives it to its model."""

    ids: list[int]
    type_ids: list[int] | None
    attention: list[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Computed:
    """What the library computes for one text."""

    read: Read
    hidden: Floats | None
    """The backbone's last hidden states [tokens, hidden]; None: this text does not go through it."""
    answers: dict[Task, Floats]
    """Finished vectors for embed and token_embed, logits for the other tasks; only of tasks that the
    library has an opinion on."""
    score: Floats | None = None
    """Of a cross-encoder with one label: [1] behind the activation that its files name."""


def version(package: str) -> str:
    return importlib.metadata.version(package)


class Library:
    """One checkpoint, opened. `limit`: tokens where it cuts, None: nowhere."""

    cuts = False
    """Whether `limit` belongs to the model, not only to its tokenizer's files."""

    def __init__(self, name: str, backbone: Any, tokenizer: Any, checkpoint: Checkpoint, plan: Plan) -> None:
        self.name, self.tokenizer = name, tokenizer
        self.checkpoint, self.plan = checkpoint, plan
        self.lacks: list[str] = []
        """What it cannot show, and why."""
        self.foreign = ""
        """Why its model may rightly compute something else; empty: it may not."""
        self._hidden: Any = None
        self._backbone = backbone
        if backbone is not None:
            getattr(backbone, "base_model", backbone).register_forward_hook(self._keep)
        limit = getattr(tokenizer, "model_max_length", NO_LIMIT)
        self.limit = int(limit) if limit < NO_LIMIT else None

    def _keep(self, module: Any, inputs: Any, output: Any) -> None:
        self._hidden = (
            output[0]
            if isinstance(output, tuple)
            else output.get("last_hidden_state", next(iter(output.values())))
        )

    def cut(self, limit: int) -> None:
        """Cuts at `limit` tokens from now on."""
        self.tokenizer.model_max_length = limit

    def ended(self) -> None:
        """Makes the tokenizer put the tokens around a text that poolrt's does, where transformers
        5 forgets add_eos_token."""
        from tokenizers import Tokenizer

        ours = Tokenizer.from_str(self.checkpoint.text.json.decode())
        self.tokenizer.backend_tokenizer.post_processor = ours.post_processor

    def added(self) -> list[str]:
        """Its special and added tokens, but for ColBERT's markers: Sentence Transformers makes
        special tokens of them to write them as text, while poolrt inserts their ids and leaves texts
        that spell them alone."""
        markers = {role.marker_id for role in self.plan.text.roles.values()}
        return [
            str(token)
            for index, token in sorted(self.tokenizer.added_tokens_decoder.items())
            if index not in markers
        ]

    def forget(self) -> None:
        """Rotary tables that grew for a longer text (rope_type dynamic) go back to their first size: what the
        library makes of a text must not depend on the texts before it."""
        for module in self._backbone.modules() if self._backbone is not None else ():
            if "dynamic" in str(getattr(module, "rope_type", "")):
                for name in [name for name in vars(module) if name.endswith("max_seq_len_cached")]:
                    setattr(module, name, module.original_max_seq_len)
                for name in [
                    name
                    for name in (*vars(module), *dict(module.named_buffers()))
                    if name.endswith("original_inv_freq")
                ]:
                    setattr(module, name.replace("original_", ""), getattr(module, name))

    @property
    def computes(self) -> bool:
        """Whether it has a model, not only a tokenizer."""
        return True

    def read(self, case: Case) -> Read:
        raise NotImplementedError

    def compute(self, case: Case) -> Computed:
        raise NotImplementedError

    def _hidden_rows(self) -> Floats:
        assert self._hidden is not None, "the model was not run"
        rows = self._hidden[0].float().numpy()
        self._hidden = None
        return rows


def _read(features: Mapping[str, torch.Tensor]) -> Read:
    ids = features["input_ids"][0].tolist()
    mask, types = features.get("attention_mask"), features.get("token_type_ids")
    return Read(
        ids=ids,
        type_ids=None if types is None else types[0].tolist(),
        attention=[1] * len(ids) if mask is None else mask[0].tolist(),
    )


class SentenceLibrary(Library):
    cuts = True

    def __init__(self, kind: str, model: Any, backbone: Any, checkpoint: Checkpoint, plan: Plan) -> None:
        super().__init__(
            (f"sentence-transformers {version('sentence-transformers')} {kind}"),
            backbone,
            model.tokenizer,
            checkpoint,
            plan,
        )
        self.kind, self.model = kind, model
        self.routed = checkpoint.sentence is not None and checkpoint.sentence.static is not None
        if kind == "MultiVectorEncoder":  # each side has a limit of its own
            self.limit = None
        # Its forward is called past the hooks of torch
        if getattr(backbone, "base_model", backbone) is backbone:
            model[0].register_forward_hook(self._keep_features)

    def _keep_features(self, module: Any, inputs: Any, features: Any) -> None:
        self._hidden = features[module.module_output_name]

    def cut(self, limit: int) -> None:
        routes = self.model[0].sub_modules.values() if self.routed else ()
        for tokenizer in [route[0].tokenizer for route in routes] or [self.tokenizer]:
            tokenizer.model_max_length = limit

    def _asked(self, case: Case) -> tuple[Any, dict[str, Any]]:
        if self.routed and case.role is not None:
            return case.text, {"prompt": self.plan.text.roles[case.role].prefix, "task": case.role}
        if self.kind == "MultiVectorEncoder" and case.role is not None:
            return case.text, {"prompt": self.model.prompts.get(case.role) or "", "task": case.role}
        role = self.plan.text.roles.get(case.role) if case.role else None
        stored = self.plan.text.prompts[case.prompt_name] if case.prompt_name else ""
        if self.kind == "CrossEncoder" and self.plan.text.score_template is not None:
            # A message of the template
            stored = (self.model.prompts or {}).get(self.model.default_prompt_name or "") or ""
        # An empty prompt is one too: the default one, which poolrt and vLLM apply only when
        # asked for, stays away.
        return (case.text if case.document is None else (case.text, case.document)), {
            "prompt": role.prefix if role else stored
        }

    def read(self, case: Case) -> Read:
        text, options = self._asked(case)
        return _read(self.model.preprocess([text], **options))

    def compute(self, case: Case) -> Computed:
        import torch

        text, options = self._asked(case)
        seen: list[Read] = []
        found: Any = None
        handle = self.model[0].register_forward_pre_hook(lambda module, inputs: seen.append(_read(inputs[0])))
        try:
            if self.kind == "CrossEncoder" and case.document is not None:
                found = self.model.predict(
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
                    # With the prompt that it finds itself
                    encode, options = getattr(self.model, f"encode_{case.role}"), {}
                found = encode([text], batch_size=1, show_progress_bar=False, **options)
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
        if found is None:
            return Computed(read=seen[0], hidden=hidden, answers=answers)
        if pooled:
            answers["embed"] = _floats(found[0])
        elif self.kind == "SparseEncoder" and self.checkpoint.kind == "splade":
            answers["embed"] = _floats(found[0].to_dense() if found[0].is_sparse else found[0])
        elif self.kind == "CrossEncoder" and self.checkpoint.kind == "classify":
            answers["classify"] = _floats(np.atleast_1d(found[0]))
            score = (
                _floats(self.model.activation_fn(torch.from_numpy(answers["classify"])))
                if answers["classify"].size == 1
                else None
            )
            return Computed(read=seen[0], hidden=hidden, answers=answers, score=score)
        elif self.kind == "MultiVectorEncoder" and case.role is not None:
            answers["token_embed"] = _floats(found[0])
        return Computed(read=seen[0], hidden=hidden, answers=answers)

    def _recipe_roles(self) -> bool:
        recipe = self.checkpoint.recipe
        return recipe is not None and bool(recipe.roles)

    def _own_pooling(self) -> bool:
        """Whether nobody asked for another vector than the library's."""
        asked = self.checkpoint.pooler
        return asked.pool is None and asked.use_activation is None


class TokenizerLibrary(Library):
    """transformers' tokenizer, where the model needs code that is not the library's."""

    def __init__(self, tokenizer: Any, checkpoint: Checkpoint, plan: Plan, model: Any = None) -> None:
        name = type(tokenizer if model is None else model).__name__
        super().__init__(f"transformers {version('transformers')} {name}", model, tokenizer, checkpoint, plan)

    @property
    def computes(self) -> bool:
        return False

    def read(self, case: Case) -> Read:
        return _read(self._features(case))

    def _features(self, case: Case) -> Any:
        role = self.plan.text.roles.get(case.role) if case.role else None
        stored = self.plan.text.prompts[case.prompt_name] if case.prompt_name else ""
        text, document = (role.prefix if role else stored) + case.text, case.document
        if document is not None and self.plan.text.score_template is not None:
            template = self.plan.files[self.plan.text.score_template].decode()
            sides = [{"role": "query", "content": text}, {"role": "document", "content": document}]
            text, document = (
                self.tokenizer.apply_chat_template(sides, chat_template=template, tokenize=False),
                None,
            )
        elif document is not None and self.plan.text.pair == "concatenate":
            text, document = text + document, None
        sides = (text,) if document is None else (text, document)
        return self.tokenizer(*sides, truncation=True, return_tensors="pt")


class TransformersLibrary(TokenizerLibrary):
    def __init__(self, model: Any, tokenizer: Any, checkpoint: Checkpoint, plan: Plan) -> None:
        super().__init__(tokenizer, checkpoint, plan, model)
        self.model = model
        if hasattr(model, "score") and model.config.pad_token_id is not None:
            # A text alone has no padding: its last token counts, even where that is also what pads.
            model.config.pad_token_id = None

    @property
    def computes(self) -> bool:
        return True

    def compute(self, case: Case) -> Computed:
        import torch

        features = self._features(case)
        known = set(self.plan.inputs)
        with torch.inference_mode():
            output = self.model(
                **{name: value for name, value in features.items() if name in known}, return_dict=True
            )
        hidden = self._hidden_rows()
        answers = library_heads.answers(self.checkpoint, self.plan, hidden, pooled_by_library=False)
        logits = output.get("logits")
        if logits is not None and self.checkpoint.kind == "splade":
            answers["embed"] = library_heads.splade(_floats(logits[0]))
        elif logits is not None and self.checkpoint.kind == "classify":
            answers["classify"] = _floats(logits[0])
        elif logits is not None and self.checkpoint.kind == "token_classify":
            answers["token_classify"] = _floats(logits[0])
        return Computed(read=_read(features), hidden=hidden, answers=answers)


def _floats(value: Any) -> Floats:
    return np.asarray(value.float().numpy() if hasattr(value, "numpy") else value, dtype=np.float32)
