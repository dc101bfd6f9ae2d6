"""The check against a checkpoint's own library: it agrees where poolrt reads rightly, and says what
differs where it does not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from poolrt.exporter import checkpoint
from poolrt.exporter.graph import tracing
from poolrt.exporter.heads import head_modules, planning
from poolrt.exporter.proof import library_models, library_reference
from poolrt.runtime.artifact.manifest import Reading
from poolrt.runtime.errors import VerificationError

from tests.adapters import adapted

ST, TRANSFORMERS = "sentence-transformers ", "transformers "
AGREE = {
    "minilm_like": f"{ST} SentenceTransformer embed", "bert_dense": f"{ST} SentenceTransformer embed",
    "bert_cross_encoder": f"{ST} CrossEncoder classify", "splade_twice": f"{ST} SparseEncoder embed",
    "colbert": f"{ST} MultiVectorEncoder token_embed",
    "colbert_pylate_bert": f"{ST} MultiVectorEncoder token_embed",
    "bert_plain": f"{TRANSFORMERS} BertModel embed",
    "roberta_multi_label": f"{TRANSFORMERS} RobertaForSequenceClassification classify",
    "bert_tokens": f"{TRANSFORMERS} BertForTokenClassification token_classify",
    "qwen3_embedding": f"{ST} SentenceTransformer embed",
    "e5_mistral": f"{ST} SentenceTransformer embed",
    "qwen2_reward": f"{TRANSFORMERS} Qwen2Model token_classify",
    "gpt2_classifier": f"{TRANSFORMERS} GPT2ForSequenceClassification classify",
    "embedding_gemma": f"{ST} SentenceTransformer embed",
}  # fmt: skip
"""Tiny checkpoint -> library, class, and the answer that must have been compared."""


def compared(folder: Path, **asked: Any) -> Reading:
    return library_reference.compare(folder, **{"recipe": None, **asked})


@pytest.mark.parametrize("name", AGREE)
def test_the_own_library_of_each_kind_is_asked_and_agrees(name: str, written: Callable[[str], Path]):
    reading = compared(written(name))
    library, kind, task = AGREE[name].split()
    assert reading.reference.startswith(library)
    assert reading.reference.endswith(f" {kind}")
    assert not reading.why
    parts = {each.what: each for each in reading.agreements}
    assert {"token ids", "hidden states", task} <= parts.keys()
    assert parts["token ids"].texts >= 26
    for what, each in parts.items():
        assert each.texts >= 3, what
        assert each.worst_cosine is None or each.worst_cosine > 1 - 1e-9, what  # worst measured 1 - 6e-12
        assert each.worst_difference is None or each.worst_difference < 5e-5, what  # worst measured 2e-5


@pytest.mark.parametrize(
    ("pool", "name", "wrong"),
    [
        ("mean", "minilm_like", "cls"),
        ("mean", "bert_plain", None),
        ("last", "qwen3_embedding", "mean"),
        ("cls", "bert_classifier", "last"),
    ],
)
def test_another_pooling_than_the_library_is_refused(
    pool: Any, name: str, wrong: Any, written: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
):
    if wrong is None:  # plain folders leave pooling open: what is asked for is computed, and shown
        assert "embed" in {
            each.what for each in compared(written(name), pooler_config={"pooling_type": "MEAN"}).agreements
        }
        return
    monkeypatch.setitem(head_modules.POOLS, pool, head_modules.POOLS[wrong])
    with pytest.raises(
        VerificationError,
        match=r"(?s)otherwise than (sentence-transformers|transformers) " r".*(embed|classify) of",
    ):
        compared(written(name))


def test_a_head_that_is_left_out_is_refused(written: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(head_modules.ACTIVATIONS, "tanh", lambda value: value)
    with pytest.raises(VerificationError, match=r"embed of .*cosine"):
        compared(written("bert_dense"))


def test_a_length_that_is_not_the_library_s_is_refused(
    written: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
):
    plain = head_modules.POOLS["mean"]
    monkeypatch.setitem(head_modules.POOLS, "mean", lambda hidden, mask: 2 * plain(hidden, mask))
    folder = written("minilm_like")
    modules = json.loads((folder / "modules.json").read_text())
    (folder / "modules.json").write_text(
        json.dumps([module for module in modules if not module["type"].endswith("Normalize")])
    )
    with pytest.raises(VerificationError, match="the same direction, but lengths"):
        compared(folder)


def test_hidden_states_of_another_backbone_are_refused(written: Callable[[str], Path]):
    folder = written("minilm_like")
    found = checkpoint.read(folder, recipe=None)
    plan = planning.plan(found)
    module = tracing.module(found, plan)
    for part in module.modules():
        if type(part).__name__ == "LayerNorm":
            part.eps = 1e-1  # type: ignore[assignment]
    with pytest.raises(VerificationError, match=r"hidden states of .*cosine"):
        library_reference.against_library(found, plan, module)


def test_other_token_ids_are_named_with_their_text(written: Callable[[str], Path]):
    folder = written("minilm_like")
    found = checkpoint.read(folder, recipe=None)
    plan = planning.plan(found)
    other = json.loads(plan.files["tokenizer.json"])
    other["normalizer"]["lowercase"] = False
    plan.files["tokenizer.json"] = json.dumps(other).encode()
    with pytest.raises(VerificationError, match=r"token ids of 'The stock market .*first apart at \d"):
        library_reference.against_library(found, plan, tracing.module(found, plan))


def test_tokens_that_only_the_library_knows_are_asked_for(written: Callable[[str], Path]):
    """The kind of added_tokens_decoder without tokenizer.json: either poolrt has the token
    too, or the check names it."""
    folder = written("minilm_like")
    path = folder / "tokenizer_config.json"
    token = {
        "content": "<query>",
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "single_word": False,
        "special": True,
    }
    path.write_text(json.dumps(json.loads(path.read_text()) | {"added_tokens_decoder": {"4": token}}))
    import transformers

    theirs = transformers.AutoTokenizer.from_pretrained(folder).encode("<query> capital")
    found = checkpoint.read(folder, recipe=None)
    if found.text.encode("<query> capital") == theirs:
        assert compared(folder).agreements[0].what == "token ids"
    else:
        with pytest.raises(VerificationError, match="<query>"):
            compared(folder)


def test_overrides_are_given_to_the_library_too(written: Callable[[str], Path]):
    folder = written("qwen2_ssmits")
    both_ways = compared(folder, hf_overrides={"is_causal": False})
    assert both_ways.reference.endswith("Qwen2Model")
    assert {each.what for each in both_ways.agreements} >= {"hidden states", "embed"}
    assert not (folder / "config.json").is_symlink()
    assert "is_causal" not in (folder / "config.json").read_text()


@pytest.mark.parametrize(
    "asked", [{"use_activation": False}, {"pooling_type": "CLS"}, {"dimensions": 8}], ids=str
)
def test_what_a_pooler_config_changes_is_compared_without_the_library_s_own_pooling(
    asked: dict[str, Any], written: Callable[[str], Path]
):
    reading = compared(written("minilm_like"), pooler_config=asked)
    assert {each.what for each in reading.agreements} >= {"token ids", "hidden states", "embed"}


def test_rows_of_a_language_model_are_compared_bare(written: Callable[[str], Path]):
    asked = {
        "architectures": ["Qwen3ForSequenceClassification"],
        "classifier_from_token": ["a", "the"],
        "method": "from_2_way_softmax",
    }
    folder = written("qwen3_reranker")
    words = [
        token
        for token in json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
        if token.isalpha()
    ]
    reading = compared(folder, hf_overrides={**asked, "classifier_from_token": words[:2]})
    assert "classify" in {each.what for each in reading.agreements}


def test_an_adapter_is_put_on_by_peft(written: Callable[[str], Path], tmp_path: Path):
    base = written("bert_plain")
    reading = compared(base, adapter=adapted(base, tmp_path / "adapter"))
    assert reading.reference.startswith("transformers")
    assert {each.what for each in reading.agreements} >= {"hidden states", "embed"}


def test_code_of_a_repository_is_never_run(written: Callable[[str], Path], tmp_path: Path):
    folder, trace = written("minilm_like"), tmp_path / "trace"
    code = f"open({str(trace)!r}, 'w')\nclass Model: ...\nclass Pooling: ...\n"
    (folder / "modeling_own.py").write_text(code)
    config = json.loads((folder / "config.json").read_text())
    auto = {"AutoModel": "modeling_own.Model", "AutoConfig": "modeling_own.Model"}
    (folder / "config.json").write_text(json.dumps(config | {"auto_map": auto}))
    reading = compared(folder)  # a native class reads these weights, and agrees
    assert reading.reference.endswith("SentenceTransformer")
    (folder / "config.json").write_text(
        json.dumps(config | {"auto_map": auto, "architectures": ["OwnModel"]})
    )
    compared(folder, convert="embed")
    assert not trace.exists()


def test_a_class_that_transformers_lacks_may_compute_otherwise(written: Callable[[str], Path]):
    reading = compared(written("voyage"))
    assert reading.reference == library_reference.OWN_ONLY
    assert "VoyageQwen3BidirectionalEmbedModel" in reading.why
    assert [each.what for each in reading.agreements] == ["token ids"]


def test_weights_that_the_library_would_invent_are_no_reference(written: Callable[[str], Path]):
    reading = compared(written("ernie_plain"))  # `bert.` in front, which ErnieModel does not read
    assert reading.reference == library_reference.OWN_ONLY
    assert "in the weights" in reading.why
    assert "own reading only" not in reading.why


def test_without_sentence_transformers_the_backbone_is_compared_still(
    written: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
):
    def missing(*arguments: Any) -> Any:
        raise ImportError("No module named 'sentence_transformers'")

    monkeypatch.setattr(library_models, "_sentence", missing)
    reading = compared(written("minilm_like"))
    assert reading.reference.endswith("BertModel")
    assert "sentence-transformers is not installed" in reading.why
    assert "hidden states" in {each.what for each in reading.agreements}


def test_a_folder_stays_as_it_is(written: Callable[[str], Path], tmp_path: Path):
    folder = written("minilm_like")
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    compared(folder, hf_overrides={"is_matryoshka": True})
    assert before == {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    shutil.rmtree(folder)


@pytest.mark.parametrize(
    "overrides", [{}, {"hidden_dropout_prob": 0.0}], ids=["as it stands", "with an override"]
)
def test_a_model_in_a_folder_of_its_own_is_compared(
    overrides: dict[str, Any], written: Callable[[str], Path], tmp_path: Path
):
    folder = tmp_path / "model"
    shutil.copytree(written("minilm_like"), folder / "0_Transformer")
    outer = (
        "modules.json",
        "config_sentence_transformers.json",
        *(path.name for path in folder.glob("0_Transformer/*_*/")),
    )
    for name in outer:
        if (path := folder / "0_Transformer" / name).exists():
            path.rename(folder / name)
    modules = json.loads((folder / "modules.json").read_text())
    (folder / "modules.json").write_text(json.dumps([modules[0] | {"path": "0_Transformer"}, *modules[1:]]))
    reading = library_reference.compare(folder, recipe=None, hf_overrides=overrides)
    assert reading.reference.endswith("SentenceTransformer")
    assert {"token ids", "hidden states", "embed"} <= {agreement.what for agreement in reading.agreements}
