"""What a checkpoint's own library makes of one text, alone: token ids, hidden states, and the answers of the
tasks that it knows."""

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
    """Finished vectors for embed and token_embed, logits for the other tasks; only tasks that the library
    knows."""
    score: Floats | None = None
    """Of a cross-encoder with one label: [1], after the activation that its files name."""


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
        """What it cannot be compared on, and why."""
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
        """Gives the tokenizer poolrt's tokens around a text, where transformers 5 ignores add_eos_token."""
        from tokenizers import Tokenizer

        ours = Tokenizer.from_str(self.checkpoint.text.json.decode())
        self.tokenizer.backend_tokenizer.post_processor = ours.post_processor

    def canonical(self) -> None:
        """Gives the tokenizer poolrt's normaliser, where transformers forgets what the model was trained
        with (files/canonical_text.py)."""
        from tokenizers import Tokenizer

        ours = Tokenizer.from_str(self.checkpoint.text.json.decode())
        self.tokenizer.backend_tokenizer.normalizer = ours.normalizer

    def added(self) -> list[str]:
        """Its special and added tokens without ColBERT's markers.

        Sentence Transformers makes special tokens of the markers and writes them as text. poolrt inserts
        their ids and leaves a text that spells them as it is.
        """
        markers = {role.marker_id for role in self.plan.text.roles.values()}
        return [
            str(token)
            for index, token in sorted(self.tokenizer.added_tokens_decoder.items())
            if index not in markers
        ]

    def forget(self) -> None:
        """Brings rotary tables that grew for a longer text (rope_type dynamic) back to their first size, so
        that the result for a text does not depend on the texts before it."""
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


class TokenizerLibrary(Library):
    """transformers' tokenizer alone, where transformers does not have the model."""

    def __init__(self, tokenizer: Any, checkpoint: Checkpoint, plan: Plan, model: Any = None) -> None:
        name = type(tokenizer if model is None else model).__name__
        super().__init__(f"transformers {version('transformers')} {name}", model, tokenizer, checkpoint, plan)

    @property
    def computes(self) -> bool:
        return False

    def read(self, case: Case) -> Read:
        return read_features(self._features(case))

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
        full = self.plan.text.pad_to
        padding = {} if full is None else {"padding": "max_length", "max_length": full}
        return self.tokenizer(*sides, truncation=True, return_tensors="pt", **padding)


class TransformersLibrary(TokenizerLibrary):
    """A class of transformers and its tokenizer."""

    def __init__(self, model: Any, tokenizer: Any, checkpoint: Checkpoint, plan: Plan) -> None:
        super().__init__(tokenizer, checkpoint, plan, model)
        self.model = model
        if hasattr(model, "score") and model.config.pad_token_id is not None:
            # A text alone has no padding, so its last token counts even where it is the padding token.
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
            answers["embed"] = library_heads.splade(floats(logits[0]))
        elif logits is not None and self.checkpoint.kind == "classify":
            answers["classify"] = floats(logits[0])
        elif logits is not None and self.checkpoint.kind == "token_classify":
            answers["token_classify"] = floats(logits[0])
        return Computed(read=read_features(features), hidden=hidden, answers=answers)


class TowersLibrary(TransformersLibrary):
    """A class of transformers that embeds texts and pictures apart (CLIP, SigLIP)."""

    def compute(self, case: Case) -> Computed:
        import torch

        features = self._features(case)
        known = ("input_ids",) if self.plan.text.pad_to is not None else ("input_ids", "attention_mask")
        with torch.inference_mode():
            output = self.model.get_text_features(
                **{name: value for name, value in features.items() if name in known}
            )
        return Computed(
            read=read_features(features), hidden=None, answers={"embed": self._finished(output)[0]}
        )

    def pictures(self, inputs: Mapping[str, torch.Tensor]) -> Floats:
        """Embeddings of what a processor prepared of pictures, [pictures, width]."""
        import torch

        with torch.inference_mode():
            return self._finished(self.model.get_image_features(**inputs))

    def _finished(self, output: Any) -> Floats:
        vectors = floats(getattr(output, "pooler_output", output))
        return vectors if self.plan.heads["embed"].activation == "identity" else library_heads.unit(vectors)


def auto_class(checkpoint: Checkpoint, config: Mapping[str, Any]) -> str:
    """Name of the class of transformers that computes most of what the plan does."""
    import transformers

    names = config.get("architectures") or [checkpoint.architecture]
    own = hasattr(transformers, str(names[0]))
    # No class has bare rows of the output matrix as its head, or another pooling than its own.
    bare = bool(config.get("classifier_from_token")) or checkpoint.pooler.pool is not None
    if (
        checkpoint.kind == "classify"
        and own
        and not bare
        and str(names[0]).endswith("ForSequenceClassification")
    ):
        return "AutoModelForSequenceClassification"
    if checkpoint.kind == "token_classify" and own and str(names[0]).endswith("ForTokenClassification"):
        return "AutoModelForTokenClassification"
    if checkpoint.kind == "splade":
        return "AutoModelForMaskedLM"
    # The config of an encoder alone (T5EncoderModel) says that it is no encoder-decoder; AutoModel would add
    # a decoder with random weights.
    encoder = config.get("is_encoder_decoder") or str(names[0]).endswith("EncoderModel")
    return "AutoModelForTextEncoding" if encoder else "AutoModel"


def read_features(features: Mapping[str, torch.Tensor]) -> Read:
    """The first row of a tokenizer's output."""
    ids = features["input_ids"][0].tolist()
    mask, types = features.get("attention_mask"), features.get("token_type_ids")
    return Read(
        ids=ids,
        type_ids=None if types is None else types[0].tolist(),
        attention=[1] * len(ids) if mask is None else mask[0].tolist(),
    )


def floats(value: Any) -> Floats:
    return np.asarray(value.float().numpy() if hasattr(value, "numpy") else value, dtype=np.float32)
