"""Rerankers that are language models behind a LogitScore module: whatever the model does to its logits,
against CrossEncoder.predict."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from poolrt.runtime.errors import CheckpointError

from tests.checkpoints import _hf  # pyright: ignore[reportPrivateUsage]
from tests.families.decoders import WIDE, qwen
from tests.families.proof import DIFFERENCE, prove

PAIRS = [
    ("what is mars", "a red planet"),
    ("what is mars", "the capital of france is paris"),
    ("the moon", "a"),
]
TEMPLATE = (
    "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}the answer is{% endif %}"
)
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "Granite divides": (
        "GraniteForCausalLM",
        {"logits_scaling": 7.0, "embedding_multiplier": 3.0, "residual_multiplier": 0.5},
    ),
    "Phi adds a bias": ("PhiForCausalLM", {"tie_word_embeddings": False}),
    "Gemma 2 bounds": ("Gemma2ForCausalLM", {"final_logit_softcapping": 2.0, "query_pre_attn_scalar": 16}),
    "Gemma 3 does not": ("Gemma3ForCausalLM", {"final_logit_softcapping": None}),
    "Cohere multiplies": ("CohereForCausalLM", {"logit_scale": 0.3}),
    "Qwen2": ("Qwen2ForCausalLM", {}),
    "Llama, untied": ("LlamaForCausalLM", {"tie_word_embeddings": False}),
}


def written(folder: Path, name: str, *, one: bool = False, template: str | None = None, **more: Any) -> Any:
    """A cross-encoder of transformers' class `name`, as the library saves it."""
    from sentence_transformers import CrossEncoder
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.cross_encoder.modules import LogitScore

    plain, kind = folder.parent / "plain", more.pop("settings", {})
    _hf(plain, name, **{**qwen(plain, **WIDE), **kind})
    if template is not None:
        (plain / "chat_template.jinja").write_text(template)
    transformer = Transformer(str(plain), transformer_task="text-generation", **more)
    tokenizer: Any = transformer.tokenizer
    yes, no = tokenizer.convert_tokens_to_ids("yes"), tokenizer.convert_tokens_to_ids("no")
    model = CrossEncoder(modules=[transformer, LogitScore(yes, None if one else no)], device="cpu")
    model.save_pretrained(str(folder), create_model_card=False)
    return model


def scores(model: Any) -> np.ndarray:
    return model.predict(PAIRS, batch_size=1, show_progress_bar=False)


@pytest.mark.parametrize("name", MODELS)
def test_scores_are_those_of_predict(name: str, tmp_path: Path):
    kind, settings = MODELS[name]
    # A bound and a bias show in one logit as in a difference; every second model has one token.
    model = written(
        tmp_path / "written", kind, one=name in ("Phi adds a bias", "Cohere multiplies"), settings=settings
    )
    found = prove(tmp_path / "written").answers("classify", PAIRS)
    np.testing.assert_allclose(np.concatenate(found), scores(model), atol=DIFFERENCE)


@pytest.mark.parametrize(
    "variables", [{"add_generation_prompt": True}, {"add_generation_prompt": False}, {}], ids=str
)
def test_the_chat_template_gets_the_librarys_variables(variables: dict[str, Any], tmp_path: Path):
    from poolrt.exporter import checkpoint
    from poolrt.exporter.heads import planning
    from poolrt.runtime.inputs import templates

    written(
        tmp_path / "written",
        "Qwen2ForCausalLM",
        template=TEMPLATE,
        processing_kwargs={"chat_template": variables},
    )
    plan = planning.plan(checkpoint.read(tmp_path / "written", recipe=None))
    messages = [{"role": "query", "content": "a"}, {"role": "document", "content": "b"}]
    rendered = templates.conversation(plan.files["score_template.jinja"].decode(), messages)
    assert rendered == "query: a\ndocument: b\n" + "the answer is" * bool(
        variables.get("add_generation_prompt")
    )


def test_what_is_not_followed_is_refused(tmp_path: Path):
    for index, (kwargs, match) in enumerate(
        [
            ({"text": {"stride": 3}}, "text.stride"),
            ({"chat_template": {"continue_final_message": True}}, "continue_final_message"),
        ]
    ):
        written(
            tmp_path / f"{index}" / "written", "Qwen2ForCausalLM", template=TEMPLATE, processing_kwargs=kwargs
        )
        with pytest.raises(CheckpointError, match=match):
            prove(tmp_path / f"{index}" / "written")
