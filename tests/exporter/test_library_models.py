"""Which class of which library is asked about a folder, and when what it read is no reference."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from poolrt.exporter.proof import library_answers, library_models, library_sentence_transformers

ST = "sentence_transformers.models."
MODULES = [{"type": f"{ST}Transformer"}, {"type": f"{ST}Pooling"}]


@pytest.mark.parametrize(
    ("settings", "modules", "config", "kind"),
    [
        (None, None, {}, None),
        ({}, None, {}, None),
        ({"model_type": "SentenceTransformer"}, None, {}, None),
        ({"model_type": "CrossEncoder"}, None, {}, "CrossEncoder"),
        (None, None, {"sbert_ce_default_activation_function": None}, "CrossEncoder"),
        (None, None, {"sentence_transformers": {"activation_fn": "x"}}, "CrossEncoder"),
        (
            {"model_type": "SentenceTransformer"},
            None,
            {"sentence_transformers": {"activation_fn": "x"}},
            None,
        ),
        (None, None, {"sentence_transformers": None}, None),
        (None, None, {"architectures": ["HF_ColBERT"]}, "MultiVectorEncoder"),
        (None, MODULES, {}, "SentenceTransformer"),
        ([], MODULES, {}, "SentenceTransformer"),
        ({"model_type": "unheard of"}, MODULES, {}, "SentenceTransformer"),
        ({"model_type": "SparseEncoder"}, MODULES, {}, "SparseEncoder"),
        ({"model_type": "ColBERT"}, MODULES, {}, "MultiVectorEncoder"),
        (None, [*MODULES, {"type": "pylate.models.Dense.Dense"}], {}, "MultiVectorEncoder"),
        (None, [*MODULES, {"type": f"{ST}SpladePooling"}], {}, "SparseEncoder"),
        (
            {"model_type": "SentenceTransformer"},
            [*MODULES, {"type": f"{ST}SpladePooling"}],
            {},
            "SparseEncoder",
        ),
        (None, [*MODULES, {"type": f"{ST}LogitScore"}], {}, "CrossEncoder"),
        (None, [*MODULES, {"type": f"{ST}MultiVectorMask"}], {}, "MultiVectorEncoder"),
        ({"similarity_fn_name": "MaxSim", "query_length": 8}, MODULES, {}, "MultiVectorEncoder"),
        ({"similarity_fn_name": "MaxSim", "document_length": 8}, MODULES, {}, "MultiVectorEncoder"),
        ({"similarity_fn_name": "MaxSim"}, MODULES, {}, "SentenceTransformer"),
        ({"similarity_fn_name": "cosine", "query_length": 8}, MODULES, {}, "SentenceTransformer"),
    ],
)
def test_the_class_that_a_folder_is_for(
    tmp_path: Path, settings: Any, modules: Any, config: dict[str, Any], kind: str | None
):
    for name, content in (("config_sentence_transformers.json", settings), ("modules.json", modules)):
        if content is not None:
            (tmp_path / name).write_text(json.dumps(content))
    assert library_sentence_transformers.sentence_class(tmp_path, config) == kind


@pytest.mark.parametrize(
    ("kind", "config", "pool", "name"),
    [
        ("embed", {"architectures": ["BertModel"]}, None, "AutoModel"),
        ("embed", {"is_encoder_decoder": True}, None, "AutoModelForTextEncoding"),
        ("splade", {"architectures": ["BertForMaskedLM"]}, None, "AutoModelForMaskedLM"),
        (
            "classify",
            {"architectures": ["BertForSequenceClassification"]},
            None,
            "AutoModelForSequenceClassification",
        ),
        ("classify", {}, None, "AutoModelForSequenceClassification"),
        ("classify", {"architectures": ["BertForSequenceClassification"]}, "mean", "AutoModel"),
        (
            "classify",
            {"architectures": ["BertForSequenceClassification"], "classifier_from_token": ["a"]},
            None,
            "AutoModel",
        ),
        ("classify", {"architectures": ["OwnForSequenceClassification"]}, None, "AutoModel"),
        ("classify", {"architectures": ["BertModel"]}, None, "AutoModel"),
        (
            "token_classify",
            {"architectures": ["BertForTokenClassification"]},
            None,
            "AutoModelForTokenClassification",
        ),
        ("token_classify", {"architectures": ["BertForSequenceClassification"]}, None, "AutoModel"),
        ("embed", {"architectures": ["BertForTokenClassification"]}, None, "AutoModel"),
    ],
)
def test_the_class_of_transformers_that_shows_most(
    kind: str, config: dict[str, Any], pool: str | None, name: str
):
    checkpoint: Any = SimpleNamespace(
        kind=kind, architecture="BertForSequenceClassification", pooler=SimpleNamespace(pool=pool)
    )
    assert library_answers.auto_class(checkpoint, config) == name


@pytest.mark.parametrize(
    ("info", "head", "brought", "told"),
    [
        ({}, True, (), None),
        ({"missing_keys": {"pooler.dense.weight"}}, False, (), None),
        (
            {"missing_keys": {"bert.pooler.dense.weight"}},
            True,
            (),
            "BertModel finds no bert.pooler.dense.weight of its shape",
        ),
        ({"missing_keys": {"poolers.weight"}}, False, (), "poolers.weight"),
        ({"missing_keys": {"score.weight"}}, True, ("score.weight",), None),
        ({"missing_keys": {"b", "a", "c"}}, False, (), "finds no a, b, c of its shape"),
        (
            {"missing_keys": {"b", "a", "c"}, "mismatched_keys": [("d", 1, 2)]},
            False,
            (),
            "finds no a, b, c ... of",
        ),
        ({"mismatched_keys": {("d", (1,), (2,))}}, False, ("d",), "finds no d of its shape"),
    ],
)
def test_weights_that_were_made_up_are_no_reference(
    info: dict[str, Any], head: bool, brought: tuple[str, ...], told: str | None
):
    loaded = library_models.Loaded([("First", {}), ("BertModel", info)])
    checkpoint: Any = SimpleNamespace(
        adapter=SimpleNamespace(whole=dict.fromkeys(brought)) if brought else None
    )
    if told is None:
        loaded.check(head=head, checkpoint=checkpoint)
        return
    with pytest.raises(library_models.Unreadable) as error:
        loaded.check(head=head, checkpoint=checkpoint)
    assert told in str(error.value)


def test_a_class_that_transformers_lacks_is_noted():
    def noted(*names: str) -> str:
        library: Any = SimpleNamespace(foreign="")
        return library_models._binding(library, {"architectures": list(names)}).foreign

    assert noted() == noted("BertModel") == noted("HF_ColBERT") == ""
    assert noted("NewModel", "BertModel").startswith("NewModel is not a class of transformers")


def test_other_people_s_reasons_are_one_short_line():
    def reason(text: str) -> str:
        return library_models._reason(ValueError(text))

    assert (
        reason("set trust_remote_code=True")
        == reason("contains custom code")
        == ("it needs the repository's own code, which is never run")
    )
    assert reason("x does not recognize this architecture y") == "transformers has no such model_type"
    assert reason("a\n  b") == "a b"
    assert reason("") == "ValueError"
    assert reason("a" * 200) == "a" * 200
    assert reason("a" * 201) == "a" * 197 + "..."
