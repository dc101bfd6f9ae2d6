"""Voyage, GritLM, InternLM2, LFM2 and Jina's flash layouts against transformers' classes
built from the same numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.families import TEXTS, find, natives
from tests.families.natives import build, hidden, without
from tests.families.proof import COSINE, DIFFERENCE, Proved, cosines, differences, prove

GRIT = (
    "<|embed|>\nthe red planet",
    "<|user|>\nfind the sun\n<|embed|>\nmars",
    "no marker at all",
    "<|user|>\nsay <|embed|>\nand\n<|embed|>\nx y",
    "<|embed|>\n" + TEXTS[-1],
)


SHORT = TEXTS[:4]


def texts(proof: Proved) -> tuple[str, ...]:
    return tuple(text for text in TEXTS if proof.item(text).ids)


def test_voyage_projects_every_token_and_takes_the_mean(tmp_path: Path):
    folder = find("voyage")(tmp_path / "voyage")
    proof = prove(folder)
    model = build(folder, "Qwen3Model", rename=without("linear."), is_causal=False)
    weight = natives.tensors(folder)["linear.weight"].numpy()
    expected = [states @ weight.T for states in hidden(model, proof.ids(texts(proof)))]
    assert cosines(proof.raw("token_embed", texts(proof)), expected).min() > COSINE
    assert cosines(proof.answers("embed", texts(proof)), [rows.mean(0) for rows in expected]).min() > COSINE
    assert proof.plan.heads["embed"].dim == 96


def behind_marker(tokenizer: Any, ids: list[int]) -> int:
    """Where pooling starts, by a search for whole sequences."""

    def pieces(text: str) -> list[int]:
        return tokenizer.encode(text, add_special_tokens=False).ids

    first, on_line = pieces("<|embed|>\n"), pieces("x\n<|embed|>\n")[len(pieces("x")) :]
    user = pieces("<|user|>\n")
    wanted = on_line if ids[1 : 1 + len(user)] == user else first
    for start in range(1, len(ids)):
        if ids[start : start + len(wanted)] == wanted:
            return start + len(wanted)
    return 0


def test_gritlm_pools_what_follows_its_marker(tmp_path: Path):
    folder = find("gritlm")(tmp_path / "gritlm")
    proof = prove(folder)
    model = build(folder, "MistralModel", rename=without("lm_head."), is_causal=False, sliding_window=None)
    ids = proof.ids(GRIT)
    starts = [behind_marker(proof.tokenizer, row) for row in ids]
    assert starts[0] > 3
    assert starts[1] > 15
    assert starts[2] == 0
    expected = [states[start:].mean(0) for states, start in zip(hidden(model, ids), starts, strict=True)]
    assert cosines(proof.answers("embed", GRIT), expected).min() > COSINE


def test_gritlm_is_known_by_its_remote_code_too(tmp_path: Path):
    from poolrt.exporter import checkpoint

    from tests.checkpoints import configure

    folder = find("gritlm")(tmp_path / "gritlm")
    configure(
        folder,
        architectures=["MistralForCausalLM"],
        auto_map={"AutoModel": "modeling_gritlm7b.MistralForCausalLM"},
    )
    assert checkpoint.read(folder, recipe=None).architecture == "GritLM"


@pytest.mark.parametrize(("heads", "key_heads"), [(4, 2), (4, 4), (8, 2)])
def test_internlm2_is_llama_with_its_fused_rows_regrouped(heads: int, key_heads: int, tmp_path: Path):
    from tests.families.decoders import llama
    from tests.families.reshaped import internlm2_reward

    folder = internlm2_reward(tmp_path / "internlm2", heads=heads, key_heads=key_heads)
    proof = prove(folder)
    # The Llama it was made from, before anything was renamed or fused.
    from tests.checkpoints import HIDDEN, _hf

    twin = tmp_path / "llama"
    settings = llama(twin, num_attention_heads=heads, num_key_value_heads=key_heads, head_dim=HIDDEN // heads)
    _hf(twin, "LlamaForCausalLM", **settings)
    model = build(
        twin,
        "LlamaModel",
        rename=without("lm_head."),
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
    )
    score = natives.tensors(folder)["v_head.weight"].numpy()
    expected = [states @ score.T for states in hidden(model, proof.ids(texts(proof)))]
    assert differences(proof.raw("token_classify", texts(proof)), expected) < DIFFERENCE
    # Raw when a request asks for no activation
    assert proof.plan.heads["token_classify"].activation == "sigmoid"


def lfm2_twin(folder: Path) -> Any:
    """transformers' own, from the older keys of its config."""
    config = json.loads((folder / "config.json").read_text())
    types = [
        "full_attention" if index in config["full_attn_idxs"] else "conv"
        for index in range(config["num_hidden_layers"])
    ]
    return build(folder, "Lfm2Model", layer_types=types, intermediate_size=config["block_ff_dim"])


def test_lfm2_masks_inside_its_convolutions_what_fills_up_a_query(tmp_path: Path):
    folder = find("lfm2_colbert")(tmp_path / "lfm2")
    proof = prove(folder)
    model, weight = lfm2_twin(folder), natives.tensors(folder / "1_Dense")["linear.weight"].numpy()
    queries = ("mars", "the red planet is known", TEXTS[-1])
    items = [proof.item(text, "query") for text in queries]
    assert any(item.attention is not None and 0 in list(item.attention) for item in items)
    expected = []
    for item in items:
        mask = (
            torch.ones(1, len(item.ids), dtype=torch.int64)
            if item.attention is None
            else torch.tensor([list(item.attention)])
        )
        with torch.inference_mode():
            states = (
                model(torch.tensor([list(item.ids)]), attention_mask=mask, use_cache=False)
                .last_hidden_state[0]
                .numpy()
            )
        expected.append(states @ weight.T)
    assert cosines(proof.raw("token_embed", queries, role="query"), expected).min() > COSINE
    documents = proof.raw("token_embed", texts(proof), role="document")
    plain = [states @ weight.T for states in hidden(model, proof.ids(texts(proof), role="document"))]
    assert cosines(documents, plain).min() > COSINE


# --- Jina
# ------------------------------------------------------------------------------------------------------------


def merged(folder: Path, task: int) -> dict[str, torch.Tensor]:
    """The corrections of one task added, written from the description of the file."""
    known = natives.tensors(folder)
    made = {}
    for name, tensor in known.items():
        stem = name.removesuffix(".parametrizations.weight.original")
        if stem == name:
            if ".parametrizations." not in name:
                made[name] = tensor
            continue
        first, second = (known[f"{stem}.parametrizations.weight.0.lora_{letter}"][task] for letter in "AB")
        made[f"{stem}.weight"] = tensor + 0.25 * (first @ second if "embeddings" in stem else second @ first)
    return made


@pytest.mark.parametrize(
    ("asked", "index"),
    [(None, 4), ("retrieval.query", 0), ("retrieval.passage", 1), ("separation", 2), ("classification", 3)],
)
def test_jina_v3_adds_the_corrections_of_its_task(asked: str | None, index: int, tmp_path: Path):
    from transformers import JinaEmbeddingsV3Config, JinaEmbeddingsV3Model

    folder = find("jina_v3")(tmp_path / "jina")
    proof = prove(folder, hf_overrides={"lora_task": asked} if asked else None)
    config = json.loads((folder / "config.json").read_text()) | {"model_type": "jina_embeddings_v3"}
    settings = JinaEmbeddingsV3Config.from_dict(
        config | {"rope_parameters": {"rope_type": "default", "rope_theta": 20000.0}}
    )
    model = JinaEmbeddingsV3Model.from_pretrained(
        None, config=settings, state_dict=merged(folder, index), add_pooling_layer=False
    ).eval()
    with torch.inference_mode():
        expected = [model(torch.tensor([ids])).last_hidden_state[0].numpy() for ids in proof.ids(TEXTS)]
    assert cosines(proof.raw("token_embed", TEXTS), expected).min() > COSINE
    assert cosines(proof.answers("embed", TEXTS), [states.mean(0) for states in expected]).min() > COSINE
    assert proof.plan.heads["embed"].matryoshka == (16, 32, 64)


def test_jina_v3_in_transformers_own_layout_adds_the_adapter_of_its_task(tmp_path: Path):
    """jinaai/jina-embeddings-v3-hf: today's class, each task in a folder as PEFT writes it; without it the
    vectors are another model's."""
    import shutil

    from safetensors.torch import load_file, save_file

    folder = find("jina_v3")(tmp_path / "jina")
    config = json.loads((folder / "config.json").read_text())
    plain = merged(folder, 2)
    hf = shutil.copytree(folder, tmp_path / "hf")
    (hf / "model.safetensors").unlink()
    stem = "encoder.layers.1.mlp.fc1"
    known = load_file(folder / "model.safetensors")
    base, first, second = (
        next(
            tensor
            for name, tensor in known.items()
            if name.removeprefix("roberta.") == f"{stem}.parametrizations.weight.{end}"
        )
        for end in ("original", "0.lora_A", "0.lora_B")
    )
    rest = {name.removeprefix("roberta."): tensor.clone().contiguous() for name, tensor in plain.items()}
    save_file(rest | {f"{stem}.weight": base}, hf / "model.safetensors", metadata={"format": "pt"})
    (hf / "config.json").write_text(
        json.dumps(
            {key: value for key, value in config.items() if "lora" not in key and key != "auto_map"}
            | {
                "model_type": "jina_embeddings_v3",
                "rope_parameters": {"rope_type": "default", "rope_theta": 20000.0},
            }
        )
    )
    (hf / "separation").mkdir()
    (hf / "separation" / "adapter_config.json").write_text(
        json.dumps({"r": first.shape[1], "lora_alpha": config.get("lora_alpha", 1)})
    )
    save_file(
        {
            f"base_model.model.{stem}.lora_A.weight": first[2].clone(),
            f"base_model.model.{stem}.lora_B.weight": second[2].clone(),
        },
        hf / "separation" / "adapter_model.safetensors",
    )
    expected = prove(folder, hf_overrides={"lora_task": "separation"}).answers("embed", TEXTS)
    found = prove(hf, hf_overrides={"lora_task": "separation"}).answers("embed", TEXTS)
    assert cosines(found, expected).min() > COSINE


def test_a_task_that_jina_v3_does_not_have_is_refused(tmp_path: Path):
    from poolrt.runtime.errors import CheckpointError

    with pytest.raises(CheckpointError, match=r"'summarise'.*'separation'"):
        prove(find("jina_v3")(tmp_path / "jina"), hf_overrides={"lora_task": "summarise"})


@pytest.mark.parametrize("name", ["jina_v3", "jina_colbert", "jina_reranker"])
def test_flash_layouts_are_never_read_as_plain_xlm_r(name: str, tmp_path: Path):
    from poolrt.exporter import checkpoint

    family = checkpoint.read(find(name)(tmp_path / name), recipe=None).family
    assert family.matches is not None
    assert family.load.__module__.endswith(("jina", "flash"))


def test_jina_colbert_attends_to_what_fills_up_a_query(tmp_path: Path):
    from transformers import JinaEmbeddingsV3Config, JinaEmbeddingsV3Model

    folder = find("jina_colbert")(tmp_path / "colbert")
    proof = prove(folder)
    role = proof.plan.text.roles["query"]
    assert role.attend_expansion
    known = natives.tensors(folder)
    config = json.loads((folder / "config.json").read_text()) | {"model_type": "jina_embeddings_v3"}
    settings = JinaEmbeddingsV3Config.from_dict(
        config | {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}}
    )
    state = {
        key.removeprefix("roberta."): tensor for key, tensor in known.items() if not key.startswith("linear")
    }
    model = JinaEmbeddingsV3Model.from_pretrained(
        None, config=settings, state_dict=state, add_pooling_layer=False
    ).eval()
    queries = ("mars", "the red planet")
    with torch.inference_mode():
        states = [
            model(torch.tensor([ids])).last_hidden_state[0].numpy()
            for ids in proof.ids(queries, role="query")
        ]
    assert (
        cosines(
            proof.raw("token_embed", queries, role="query"),
            [rows @ known["linear.weight"].numpy().T for rows in states],
        ).min()
        > COSINE
    )
    assert {len(ids) for ids in proof.ids(queries, role="query")} == {16}


def test_the_flash_reranker_scores_as_xlm_r(tmp_path: Path):
    from tests.checkpoints import xlmr_reranker

    proof = prove(find("jina_reranker")(tmp_path / "flash"))
    (tmp_path / "plain").mkdir()
    plain = prove(xlmr_reranker(tmp_path / "plain"))  # the same seed: the same numbers under XLM-R's names
    pairs = [("what is mars", text) for text in TEXTS]
    assert differences(proof.raw("classify", pairs), plain.raw("classify", pairs)) == 0.0


EXPORTED = ["lfm2_colbert", "gritlm"]
SLOW = ["voyage", "internlm2_reward", "jina_v3", "jina_colbert", "jina_reranker"]


@pytest.mark.parametrize("name", [*EXPORTED, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
def test_the_graph_answers_as_the_module(name: str, tmp_path: Path):
    graph = prove(find(name)(tmp_path / name), tmp_path / "out")
    module = Proved(**{**vars(graph), "session": None})
    role = "query" if graph.plan.text.roles else None
    asked = GRIT if name == "gritlm" else texts(graph)
    for task in graph.plan.tasks:
        for batch in (asked, asked[:1], asked[-1:]):
            found, expected = graph.raw(task, batch, role=role), module.raw(task, batch, role=role)
            if "embed" in task:
                assert cosines(found, expected).min() > COSINE, task
            else:
                assert differences(found, expected) < DIFFERENCE, task
    assert np.isfinite(graph.raw(graph.plan.tasks[0], asked)[0]).all()


@pytest.mark.parametrize("task", [None, "clustering"])
@pytest.mark.parametrize("name", ["jina_v5", "jina_v5_nano"])
def test_jina_v5_adds_the_adapter_of_its_task(name: str, task: str | None, tmp_path: Path):
    from safetensors.torch import load_file, save_file

    folder = find(name)(tmp_path / "jina")
    proof = prove(folder, hf_overrides={"jina_task": task} if task else None)
    corrections = load_file(folder / "adapters" / (task or "retrieval") / "adapter_model.safetensors")
    known = natives.tensors(folder)
    for key in known:
        stem = f"base_model.model.{key.removesuffix('.weight')}"
        if f"{stem}.lora_A.weight" in corrections:
            known[key] += 2.0 * corrections[f"{stem}.lora_B.weight"] @ corrections[f"{stem}.lora_A.weight"]
    save_file(known, folder / "model.safetensors", metadata={"format": "pt"})
    kind = {"jina_v5": "Qwen3Model", "jina_v5_nano": "EuroBertModel"}[name]
    model = build(folder, kind, model_type=kind.removesuffix("Model").lower())
    with torch.inference_mode():
        expected = [
            model(torch.tensor([ids])).last_hidden_state[0].numpy() for ids in proof.ids(texts(proof))
        ]
    assert cosines(proof.raw("token_embed", texts(proof)), expected).min() > COSINE
    assert cosines(proof.answers("embed", texts(proof)), [rows[-1] for rows in expected]).min() > COSINE


def test_an_adapter_that_is_not_there_is_refused(tmp_path: Path):
    from poolrt.runtime.errors import CheckpointError

    with pytest.raises(CheckpointError, match=r"'separation' is not there; found classification, clustering"):
        prove(find("jina_v5")(tmp_path / "jina"), hf_overrides={"jina_task": "separation"})


def test_embedding_gemma2_reads_text_as_transformers_does(tmp_path: Path):
    folder = find("embedding_gemma2")(tmp_path / "gemma")
    proof = prove(folder)
    inner = json.loads((folder / "config.json").read_text())["text_config"]
    model = build(
        folder, "EmbeddingGemma2TextModel", rename=lambda name: name.removeprefix("language_model."), **inner
    )
    with torch.inference_mode():
        ids = [torch.tensor([row]) for row in proof.ids(SHORT)]
        expected = [
            model(row, attention_mask=torch.ones_like(row)).last_hidden_state[0].numpy() for row in ids
        ]
    assert cosines(proof.raw("token_embed", SHORT), expected).min() > COSINE
    assert cosines(proof.answers("embed", SHORT), [rows.mean(0) for rows in expected]).min() > COSINE
    assert (proof.plan.heads["embed"].dim, proof.plan.text.max_tokens) == (48, 8192)


def test_a_listwise_reranker_reads_all_documents_at_once(tmp_path: Path):
    from poolrt.exporter import pipeline
    from poolrt.runtime import load

    folder = find("jina_reranker_v3")(tmp_path / "jina-reranker-v3")
    pipeline.export(str(folder), name="listwise", out=str(tmp_path / "artifacts"))
    qwen = build(
        folder,
        "Qwen3Model",
        rename=lambda name: name.removeprefix("model.") if name.startswith("model.") else None,
    )
    known = natives.tensors(folder)
    documents = ["mars is red", "venus<|embed_token|> is not", "the sun"]
    with load(tmp_path / "artifacts" / "listwise") as model:
        made = model.score("which planet is red", documents)
        alone = model.score("which planet is red", documents[:1])
        ids = made.requests[0].prompt_token_ids
        end, query = (
            model.preparation.encoder.tokenizer.token_to_id(token)
            for token in ("<|embed_token|>", "<|rerank_token|>")
        )
        text = model.detokenize(ids)
        ranked = model.rerank("which planet is red", documents, top_n=2)
    [states] = hidden(qwen, [ids])
    inner = (
        np.maximum(states @ known["projector.0.weight"].numpy().T, 0) @ known["projector.2.weight"].numpy().T
    )
    rows = natives.unit(np.concatenate([inner[np.array(ids) == end], inner[np.array(ids) == query]]))
    assert len(rows) == 4
    scores = [one.outputs.score for one in made.requests]
    np.testing.assert_allclose(scores, rows[:-1] @ rows[-1], atol=DIFFERENCE)
    # Its neighbours were read too
    assert alone.requests[0].outputs.score != pytest.approx(scores[0], abs=1e-4)
    assert [one.index for one in ranked] == list(np.argsort(-np.array(scores), kind="stable")[:2])
    assert '<passage id="1">\nvenus is not' in text
    assert text.count("which planet is red") == 2
