"""What kind of model a folder holds, by name, files and settings: which of them decides."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from poolrt.exporter import detection
from poolrt.exporter.base.guess import Guess
from poolrt.exporter.detection import detect
from poolrt.runtime.errors import CheckpointError


class Weights(dict[str, tuple[int, ...]]):
    @property
    def shapes(self) -> Weights:
        return self


def found(
    folder: Path, name: str | None = "BertModel", *, config: dict[str, Any] | None = None,
    family: dict[str, Any] | None = None,
    weights: dict[str, tuple[int, ...]] | None = None, sentence: dict[str, Any] | None = None,
    convert: Any = "auto",
) -> detection.Detected:  # fmt: skip
    facts = {"names": ("BertModel",), "model_types": ("bert",), "prefixes": ("bert.", "model."),
        "projection": (), "listwise": None, "late_interaction": False,
             "rewards": ()} | (family or {})  # fmt: skip
    settings = (
        {"model_type": "bert", "hidden_size": 8}
        | ({} if name is None else {"architectures": [name]})
        | (config or {})
    )
    files = (
        None
        if sentence is None
        else {"settings": {}, "kind": "", "modules": (), "chain": (), "answers": None} | sentence
    )
    given: tuple[Any, Any, Any] = (
        SimpleNamespace(**facts),
        Weights(weights or {}),
        None if files is None else SimpleNamespace(**files),
    )
    return detect(folder, settings, *given, convert)


def kind(folder: Path, *arguments: Any, **facts: Any) -> tuple[str, str]:
    detected = found(folder, *arguments, **facts)
    return detected.architecture, detected.kind


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("BertModel", "embed"), ("BertForSequenceClassification", "classify"),
        ("BertForTokenClassification", "token_classify"),
        ("BertForMaskedLM", "embed"), ("LlamaForCausalLM", "embed"), ("GPT2LMHeadModel", "embed"),
        ("XForTextEncoding", "embed"),
        ("XEmbeddingModel", "embed"), ("XForRewardModeling", "embed"), ("XClassificationModel", "classify"),
        ("BertForTextClassification", "classify"),
    ],
)  # fmt: skip
def test_a_name_tells_the_kind_by_its_end(tmp_path: Path, name: str, expected: str):
    detected = found(tmp_path, name)
    assert (detected.architecture, detected.kind) == (name, expected)
    assert detected.guesses[0].what == "architecture"
    assert detected.guesses[-1].value == detection.WORDS[detected.kind]


def test_a_config_without_a_class_is_the_familys_backbone(tmp_path: Path):
    detected = found(tmp_path, None)
    assert (detected.architecture, detected.kind) == ("BertModel", "embed")
    assert detected.guesses[0].why == "model_type 'bert'; config.json names no class"
    assert found(tmp_path).guesses[0].why == "config.json, architectures"
    assert found(tmp_path, "Bare", family={"names": ("Bare",)}).kind == "embed"


def test_a_head_that_nobody_knows_is_refused(tmp_path: Path):
    with pytest.raises(
        CheckpointError, match="BertForQuestionAnswering has a head that poolrt does not know"
    ):
        found(tmp_path, "BertForQuestionAnswering")


@pytest.mark.parametrize(
    ("convert", "expected"),
    [("embed", "embed"), ("classify", "classify"), ("reward", "embed"), ("none", "classify")],
)
def test_what_is_asked_for_wins_over_a_name(tmp_path: Path, convert: str, expected: str):
    detected = found(tmp_path, "BertForSequenceClassification", convert=convert)
    assert detected.kind == expected
    told = (
        f"asked for by --convert {convert}" if convert != "none" else "from the architecture's name and files"
    )
    assert detected.guesses[-1].why == told


def test_what_is_asked_for_does_not_win_over_files_that_tell(tmp_path: Path):
    detected = found(tmp_path, "HF_ColBERT", convert="embed")
    assert detected.kind == "colbert"
    assert detected.guesses[-1].why == "from the architecture's name and files"


def test_a_backbone_of_another_name_is_told(tmp_path: Path):
    assert [
        guess.what for guess in found(tmp_path, "OtherModel", config={"model_type": "other"}).guesses
    ] == [
        "architecture",
        "backbone",
        "kind",
    ]
    assert [guess.what for guess in found(tmp_path, "OtherModel").guesses] == ["architecture", "kind"]
    assert [guess.what for guess in found(tmp_path, "BertModel", config={"model_type": "other"}).guesses] == [
        "architecture",
        "kind",
    ]


# --- files and settings that tell
# -------------------------------------------------------------------------------------------------


def test_bge_m3_is_known_by_both_of_its_files(tmp_path: Path):
    (tmp_path / "sparse_linear.pt").touch()
    assert kind(tmp_path, "XLMRobertaModel")[1] == "embed"
    (tmp_path / "colbert_linear.pt").touch()
    assert kind(tmp_path, "XLMRobertaModel") == ("BgeM3EmbeddingModel", "bge-m3")


def test_bge_m3_is_known_by_its_name(tmp_path: Path):
    assert kind(tmp_path, "BgeM3EmbeddingModel") == ("BgeM3EmbeddingModel", "bge-m3")


@pytest.mark.parametrize(
    ("model_type", "late"),
    [
        ("bert", "HF_ColBERT"),
        ("modernbert", "ColBERTModernBertModel"),
        ("lfm2", "ColBERTLfm2Model"),
        (None, "HF_ColBERT"),
    ],
)
def test_colbert_is_known_by_its_metadata_and_named_by_its_family(
    tmp_path: Path, model_type: str | None, late: str
):
    (tmp_path / "artifact.metadata").touch()
    assert kind(tmp_path, config={"model_type": model_type}) == (late, "colbert")


@pytest.mark.parametrize("name", ["HF_ColBERT", "ColBERTModernBertModel", "ColBERTJinaRobertaModel"])
def test_colbert_is_known_by_its_name(tmp_path: Path, name: str):
    assert kind(tmp_path, name) == (name, "colbert")


@pytest.mark.parametrize(
    ("weights", "family", "expected"),
    [
        ({"linear.weight": (4, 8), "bert.x": (1,)}, {}, "colbert"),
        ({"linear.weight": (4, 8), "model.x": (1,)}, {}, "colbert"),
        ({"linear.weight": (4, 9), "bert.x": (1,)}, {}, "embed"),
        ({"linear.weight": (8,), "bert.x": (1,)}, {}, "embed"),
        ({"linear.weight": (4, 8), "x": (1,)}, {}, "embed"), ({"bert.x": (1,)}, {}, "embed"),
        ({"linear.weight": (4, 8), "bert.x": (1,)}, {"projection": ("linear",)}, "embed"),
    ],
    ids=str,
)  # fmt: skip
def test_a_projection_beside_the_backbone_is_colberts(
    tmp_path: Path, weights: Any, family: dict[str, Any], expected: str
):
    assert kind(tmp_path, weights=weights, family=family)[1] == expected


@pytest.mark.parametrize(
    ("sentence", "expected"),
    [
        ({"kind": "ColBERT"}, ("HF_ColBERT", "colbert")),
        ({"kind": "MultiVectorEncoder"}, ("HF_ColBERT", "colbert")),
        ({"settings": {"similarity_fn_name": "MaxSim", "query_length": 32}}, ("HF_ColBERT", "colbert")),
        ({"settings": {"similarity_fn_name": "MaxSim", "document_length": 32}}, ("HF_ColBERT", "colbert")),
        ({"settings": {"similarity_fn_name": "MaxSim"}}, ("BertModel", "embed")),
        ({"settings": {"similarity_fn_name": "cosine", "query_length": 32}}, ("BertModel", "embed")),
        ({"modules": ("MLMTransformer", "SpladePooling"), "kind": "SparseEncoder"},
        ("BertSpladeSparseEmbeddingModel", "splade")),
        ({"modules": ("Transformer", "Pooling", "SparseAutoEncoder"), "kind": "SparseEncoder"},
        ("BertModel", "embed")),
        ({"answers": "a LogitScore module"}, ("BertModel", "classify")),
        ({"kind": "SentenceTransformer"}, ("BertModel", "embed")),
    ],
    ids=str,
)  # fmt: skip
def test_sentence_transformers_files_tell_the_kind(
    tmp_path: Path, sentence: dict[str, Any], expected: tuple[str, str]
):
    assert kind(tmp_path, sentence=sentence) == expected


def test_a_sparse_encoder_of_another_pooling_is_refused(tmp_path: Path):
    with pytest.raises(
        CheckpointError,
        match="a SparseEncoder of Transformer → Pooling; expected a SpladePooling or SparseAutoEncoder",
    ):
        found(tmp_path, sentence={"kind": "SparseEncoder", "modules": ("Transformer", "Pooling")})


@pytest.mark.parametrize(
    ("name", "facts", "expected"),
    [
        ("BertModel", {"family": {"listwise": object()}}, "listwise"),
        ("BertModel", {"family": {"late_interaction": True}}, "colbert"),
        ("BertRM", {"family": {"rewards": ("BertRM",)}}, "reward"),
        ("LlamaForCausalLM", {"config": {"classifier_from_token": ["a"]}}, "classify"),
        ("LlamaForCausalLM", {"config": {"classifier_from_token": []}}, "embed"),
        ("BertSpladeSparseEmbeddingModel", {}, "splade"), ("OtherSpladeSparseEmbeddingModel", {}, "splade"),
    ],
)  # fmt: skip
def test_special_heads_are_known_by_name_or_setting(
    tmp_path: Path, name: str, facts: dict[str, Any], expected: str
):
    assert kind(tmp_path, name, **facts) == (name, expected)


def test_a_guess_reads_as_one_line():
    assert str(Guess("kind", "x", "because")) == "kind: x (because)"
    assert str(Guess("kind", "x", "because", "--convert")) == "kind: x (because; to change: --convert)"
