"""Text classes of transformers, each in small: our graph computes what the class computes for a text alone,
or is refused in a sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import transformers
from poolrt.exporter import checkpoint
from poolrt.exporter.heads import planning
from poolrt.runtime.errors import CheckpointError

from tests.checkpoints import configure
from tests.exporter import swept
from tests.families import TEXTS, find, proof
from tests.families.proof import prove

SCALED = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10000.0}
LONG: dict[str, Any] = {
    "rope_type": "longrope", "rope_theta": 10000.0, "short_factor": [1.0, 1.5, 2.0, 2.5],
    "long_factor": [2.0, 3.0, 4.0, 5.0],
    "original_max_position_embeddings": 16, "factor": 4.0,
}  # fmt: skip
QUICK: dict[str, tuple[swept.Kind, str, dict[str, Any]]] = {
    "blocks of BigBird beyond its full length": ("hidden", "big_bird", {}),
    "rotary base that grows with the text": (
        "hidden",
        "llama",
        {"rope_parameters": SCALED, "max_position_embeddings": 24},
    ),
    "mixture of experts": ("hidden", "qwen3_moe", {"num_experts": 10}),
    "windows of Longformer and a first token that sees all": ("classify", "longformer", {}),
    "a head that no table describes": ("classify", "convbert", {}),
    "a token head called classifier": ("token_classify", "gpt2", {}),
    "a vocabulary head of its own": ("splade", "electra", {"embedding_size": 16}),
}
SLOW: dict[str, tuple[swept.Kind, str, dict[str, Any]]] = {
    "interleaved experts with biases": ("hidden", "gpt_oss", {}),
    "a recurrence over the tokens": ("hidden", "mamba", {}),
    "slopes in the place of positions": ("hidden", "falcon", {"alibi": True, "bias": True}),
    "windows alone": ("token_classify", "longformer", {}),
    "no limit of positions": ("hidden", "bloom", {}),
    "longrope": ("hidden", "phi3", {"rope_parameters": LONG, "original_max_position_embeddings": 16}),
    "hidden states narrower than the layers": ("hidden", "opt", {}),
    "a table of masks": ("hidden", "gpt_neo", {}),
    "albert's vocabulary": ("splade", "albert", {"embedding_size": 16}),
    "deberta-v2's vocabulary": ("splade", "deberta-v2", {}),
}


@pytest.fixture(autouse=True)
def silent_transformers() -> None:
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


def compare(folder: Path, kind: swept.Kind, built: Any) -> None:
    proof.read_from(folder)
    worst = swept.worst_difference(folder, kind, built)
    proof.note(difference=worst)
    assert worst < swept.DIFFERENCE


@pytest.mark.parametrize(("kind", "model_type", "settings"), QUICK.values(), ids=QUICK)
def test_a_text_of_a_batch_is_what_the_class_computes_for_it_alone(
    kind: swept.Kind, model_type: str, settings: dict[str, Any], tmp_path: Path
):
    built = swept.model(tmp_path, kind, model_type, **settings)
    compare(tmp_path, kind, built)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "model_type", "settings"), SLOW.values(), ids=SLOW)
def test_the_same_of_others(kind: swept.Kind, model_type: str, settings: dict[str, Any], tmp_path: Path):
    built = swept.model(tmp_path, kind, model_type, **settings)
    compare(tmp_path, kind, built)


HEADED = [table for kind, table in swept.TABLES.items() if kind != "hidden"]
TEXT_TYPES = sorted(
    name
    for name in swept.TABLES["hidden"]
    if any(name in table for table in HEADED) or name in swept.auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
)
SWEEP = [(kind, name) for kind, table in swept.TABLES.items() for name in TEXT_TYPES if name in table]


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "model_type"), SWEEP, ids=[f"{kind} {name}" for kind, name in SWEEP])
def test_every_text_class_is_right_or_refused_in_a_sentence(
    kind: swept.Kind, model_type: str, tmp_path: Path
):
    try:
        built = swept.model(tmp_path, kind, model_type)
        swept.answer(built, "hidden" if kind == "hidden" else kind, swept.torch.arange(9, 20)[None])
    except Exception as error:
        # Pictures, sounds, a decoder's input: what does not run in transformers on a text alone is no member.
        pytest.skip(f"{type(error).__name__}: {str(error)[:80]}")
    refused = ""
    try:
        worst = swept.worst_difference(tmp_path, kind, built)
    except CheckpointError as error:
        worst, refused = 0.0, str(error)
    assert worst < swept.DIFFERENCE
    assert "\n" not in refused


def test_internlm2_as_published_with_dynamic_scaling_is_unscaled_within_its_positions(tmp_path: Path):
    plain = find("internlm2_reward")(tmp_path / "plain")
    scaled = find("internlm2_reward")(tmp_path / "scaled")
    configure(scaled, rope_scaling={"type": "dynamic", "factor": 2.0})
    ours, expected = (prove(folder).raw("token_classify", TEXTS[1:]) for folder in (scaled, plain))
    for row, other in zip(ours, expected, strict=True):
        swept.np.testing.assert_allclose(row, other, atol=1e-5)


# --- encoders of T5
# ------------------------------------------------------------------------------------------------------------


def t5(folder: Path, model_type: str, name: str) -> Any:
    sizes = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}
    return swept.model(folder, "hidden", model_type, name, **sizes)


@pytest.mark.parametrize(
    ("model_type", "name"),
    [
        ("t5", "T5EncoderModel"),
        pytest.param("mt5", "MT5ForConditionalGeneration", marks=pytest.mark.slow),
        pytest.param("umt5", "UMT5EncoderModel", marks=pytest.mark.slow),
    ],
)
def test_the_encoder_of_a_t5_is_read_from_either_class(model_type: str, name: str, tmp_path: Path):
    built = t5(tmp_path, model_type, name)
    compare(tmp_path, "hidden", built.get_encoder())


def test_a_classifier_of_t5_is_refused_by_name(tmp_path: Path):
    t5(tmp_path, "t5", "T5ForSequenceClassification")
    with pytest.raises(CheckpointError, match="T5ForSequenceClassification judges what T5's decoder says"):
        checkpoint.read(tmp_path, recipe=None)


def test_a_decoders_head_of_several_layers_is_not_taken_for_one(tmp_path: Path):
    swept.model(tmp_path, "classify", "modernbert-decoder")
    with pytest.raises(CheckpointError, match=r"does not know.*head\.dense"):
        prove(tmp_path)


@pytest.mark.parametrize(("model_type", "match"), [("fnet", "Fourier"), ("mamba2", "chunks")])
def test_what_a_batch_or_a_graph_cannot_compute_is_refused_by_name(
    model_type: str, match: str, tmp_path: Path
):
    with pytest.raises(CheckpointError, match=match):
        checkpoint.read(bare(tmp_path, model_type), recipe=None)


# --- what is said, and what is refused by name
# --------------------------------------------------------------------------------------


def bare(folder: Path, model_type: str, name: str = "", **settings: Any) -> Path:
    swept.model(folder, "hidden", model_type, name, **settings)
    return folder


def changed(folder: Path, **settings: Any) -> Path:
    path = folder / "config.json"
    path.write_text(swept.json.dumps(swept.json.loads(path.read_text()) | settings))
    return folder


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"position_embedding_type": "alibi"}, "position_embedding_type 'alibi'"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type 'relative_key'"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "rope_scaling"),
        (
            {"architectures": ["JinaBertModel"], "auto_map": {"AutoModel": "x--modeling_bert.JinaBertModel"}},
            "JinaBertModel",
        ),
    ],
    ids=["alibi", "relative", "rotary", "remote"],
)
def test_a_bert_that_transformers_would_read_as_another_is_refused(
    settings: dict[str, Any], match: str, tmp_path: Path
):
    with pytest.raises(CheckpointError, match=match):
        checkpoint.read(changed(bare(tmp_path, "bert"), **settings), recipe=None)


def test_a_setting_that_was_refused_can_be_taken_back(tmp_path: Path):
    folder = changed(bare(tmp_path, "bert"), position_embedding_type="alibi")
    checkpoint.read(folder, recipe=None, hf_overrides={"position_embedding_type": None})


REMOTE = {
    "architectures": ["Qwen2BidirectionalModel"],
    "auto_map": {"AutoModel": "modeling_both.Qwen2BidirectionalModel"},
}


def test_a_remote_class_that_nobody_knows_is_named_and_refused(tmp_path: Path):
    folder = changed(bare(tmp_path, "qwen2"), **REMOTE)
    with pytest.raises(CheckpointError, match=r"Qwen2BidirectionalModel.*--convert.*is_causal"):
        checkpoint.read(folder, recipe=None)
    assert checkpoint.read(folder, recipe=None, convert="embed").kind == "embed"
    assert (
        checkpoint.read(folder, recipe=None, hf_overrides={"is_causal": False}).config["is_causal"] is False
    )


@pytest.mark.parametrize(
    ("model_type", "name"),
    [("gpt2", "GPT2LMHeadModel"), ("bert", "BertForMaskedLM"), ("llama", "LlamaForCausalLM")],
)
def test_a_model_that_predicts_words_is_said_not_to_embed(model_type: str, name: str, tmp_path: Path):
    folder = bare(tmp_path, model_type, name)
    lines = planning.plan(checkpoint.read(folder, recipe=None)).lines
    assert any("not trained to embed" in line and name in line for line in lines)
    assert not any(
        "not trained" in line
        for line in planning.plan(checkpoint.read(folder, recipe=None, convert="embed")).lines
    )


def test_an_encoder_alone_is_not_said_to_predict_words(tmp_path: Path):
    assert not any(
        "not trained" in line
        for line in planning.plan(checkpoint.read(bare(tmp_path, "bert"), recipe=None)).lines
    )
