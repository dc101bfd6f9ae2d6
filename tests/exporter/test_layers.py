"""Layers of a head: their tensors by name, their widths in a row, and everything that is missing at once."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from poolrt.exporter.families.registry import Layer
from poolrt.exporter.files import weights
from poolrt.exporter.files.sentence_files import Answers
from poolrt.exporter.heads import layers, yes_no
from poolrt.exporter.heads.texts import colbert
from poolrt.runtime.errors import CheckpointError
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers

WORDS = ["[UNK]", "[CLS]", "[Q]", "[D] ", "[MASK]", "yes", "no", ".", "!", "[unused0]", "[unused1]"]


class Facts(SimpleNamespace):
    """What a test says nothing of is not there."""

    def __getattr__(self, name: str) -> None:
        return None


def checkpoint(folder: Path, tensors: dict[str, tuple[int, ...]] | None = None, **facts: Any) -> Any:
    if tensors is not None:
        save_file({name: torch.zeros(shape) for name, shape in tensors.items()}, folder / "model.safetensors")
        facts["weights"] = weights.open_folder(folder)
    tokenizer = Tokenizer(
        models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="[UNK]")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(["[Q]", "[D] ", "[MASK]"])
    text = Facts(
        id=tokenizer.token_to_id, token=tokenizer.id_to_token, ids=facts.pop("ids", {"mask_token": 4}),
        tokenizer=tokenizer
    )  # fmt: skip
    config = {"vocab_size": len(WORDS), "hidden_size": 8} | facts.pop("config", {})
    family = Facts(**({"prefixes": ("bert.",), "attends_filler": False} | facts.pop("family", {})))
    return Facts(
        folder=folder, beside=folder, source="org/m", architecture="BertModel", config=config, text=text,
        family=family,
        number=lambda key: config[key], **facts,
    )  # fmt: skip


def steps(
    folder: Path, tensors: dict[str, tuple[int, ...]], *given: Layer, width: int = 8, **facts: Any
) -> tuple[Any, int]:
    return layers.steps(checkpoint(folder, tensors, **facts), given, width)


def test_widths_follow_one_another(tmp_path: Path):
    tensors = {"a.weight": (5, 8), "a.bias": (5,), "bert.b.weight": (3, 5), "norm.weight": (5,)}
    first, norm, second = (
        Layer(name="a"),
        Layer(name="norm", kind="layer_norm", bias=False, eps=("norm_eps", 1e-3)),
        Layer(name="b", bias=None),
    )
    made, width = steps(tmp_path, tensors, first, norm, second)
    assert (width, made[0].eps, made[1].eps) == (3, 1e-5, 1e-3)
    assert steps(tmp_path, tensors, first, norm, config={"norm_eps": 1e-7})[0][1].eps == 1e-7
    assert [(step.weight, step.bias) for step in made] == [
        ("a.weight", "a.bias"),
        ("norm.weight", None),
        ("bert.b.weight", None),
    ]


def test_a_layer_of_rows_is_as_wide_as_its_rows(tmp_path: Path):
    made, width = steps(
        tmp_path, {"lm_head.weight": (11, 8)}, Layer(name="lm_head", bias=False, rows=((5, 6), (4,)))
    )
    assert (width, len(made)) == (2, 1)


@pytest.mark.parametrize(
    ("tensors", "layer", "told"),
    [
        ({"x": (1,)}, Layer(name="a", bias=True), "missing a.weight; missing a.bias"),
        ({"a.weight": (5, 8)}, Layer(name="a", bias=True), "missing a.bias"),
        ({"a.weight": (5, 7)}, Layer(name="a", bias=None), "a.weight has shape [5, 7], expected 8 columns"),
        ({"x": (1,)}, Layer(name="a", bias=False), "missing a.weight"),
    ],
    ids=str,
)  # fmt: skip
def test_what_is_missing_is_named_at_once(
    tmp_path: Path, tensors: dict[str, tuple[int, ...]], layer: Layer, told: str
):
    with pytest.raises(CheckpointError) as refused:
        steps(tmp_path, tensors, layer)
    assert str(refused.value).endswith(f"is not complete: {told}")


def test_a_bias_is_taken_where_it_may_be(tmp_path: Path):
    tensors = {"a.weight": (5, 8), "a.bias": (5,)}
    for bias, found in ((True, "a.bias"), (None, "a.bias"), (False, None)):
        made, _ = steps(tmp_path, tensors, Layer(name="a", bias=bias))
        assert made[0].bias == found


def test_other_names_are_tried_in_order(tmp_path: Path):
    made, _ = steps(
        tmp_path, {"c.weight": (5, 8), "b.weight": (6, 8)}, Layer(name="a", names=("b", "c"), bias=False)
    )
    assert made[0].weight == "b.weight"


def test_a_layer_may_stand_in_a_folder_or_a_file(tmp_path: Path):
    (tmp_path / "2_Dense").mkdir()
    save_file(
        {"linear.weight": torch.zeros(4, 8), "linear.bias": torch.zeros(4)},
        tmp_path / "2_Dense/model.safetensors",
    )
    torch.save({"weight": torch.zeros(3, 4), "bias": torch.zeros(3)}, tmp_path / "colbert_linear.pt")
    given = (Layer(name="linear", where="2_Dense"), Layer(name="", where="colbert_linear.pt"))
    made, width = steps(tmp_path, {"x": (1,)}, *given)
    assert width == 3
    assert [(step.weight, step.bias) for step in made] == [
        ("linear.weight", "linear.bias"),
        ("weight", "bias"),
    ]
    with pytest.raises(CheckpointError, match="3_Dense is missing; the head of BertModel is in it"):
        steps(tmp_path, {"x": (1,)}, Layer(name="linear", where="3_Dense"))


@pytest.mark.parametrize(
    ("asked", "config", "name"),
    [
        ("identity", {}, "identity"), ("torch.nn.modules.activation.Tanh", {}, "tanh"),
        ("@act", {"act": "relu"}, "relu"),
        ("@act", {}, "gelu"), ("torch.nn.modules.activation.ReLU", {}, "relu"), ("os.system", {}, None),
        ("@act", {"act": "sorcery"}, None),
    ],
)  # fmt: skip
def test_an_activation_is_named_by_its_class_or_by_the_config(
    tmp_path: Path, asked: str, config: dict[str, Any], name: str | None
):
    layer = Layer(name="a", bias=False, activation=asked)
    if name is None:
        with pytest.raises(
            CheckpointError, match=r"inside a head; (known are|expected a class " r"of torch\.nn)"
        ):
            steps(tmp_path, {"a.weight": (5, 8)}, layer, config=config)
        return
    made, _ = steps(tmp_path, {"a.weight": (5, 8)}, layer, config=config)
    assert made[0].activation == name


# --- ColBERT's two sides
# ----------------------------------------------------------------------------------------------------------


def roles(
    folder: Path, metadata: dict[str, Any] | None = None, *, max_tokens: int = 100, **facts: Any
) -> Any:
    import json

    if metadata is not None:
        (folder / "artifact.metadata").write_text(json.dumps(metadata))
    found, guesses = colbert.roles(checkpoint(folder, **facts), max_tokens)
    assert [guess.what for guess in guesses] == ["queries", "documents"]
    return found["query"], found["document"]


def test_stanfords_defaults_are_the_librarys(tmp_path: Path):
    query, document = roles(tmp_path)
    assert (query.marker_id, query.max_tokens, query.expand_id, query.attend_expansion, query.skip_ids) == (
        9,
        32,
        4,
        False,
        (),
    )
    assert (document.marker_id, document.max_tokens, document.expand_id) == (10, 100, None)
    assert roles(tmp_path, max_tokens=500)[1].max_tokens == 220
    assert roles(tmp_path, max_tokens=20)[0].max_tokens == 20
    assert {7, 8} <= set(document.skip_ids)


def test_stanfords_metadata_is_followed(tmp_path: Path):
    metadata = {
        "query_token_id": "[Q]", "doc_token_id": "[D]", "query_maxlen": 8, "doc_maxlen": 9,
        "mask_punctuation": False,
        "attend_to_mask_tokens": True,
    }  # fmt: skip
    query, document = roles(tmp_path, metadata | {"doc_token_id": "[D] "})
    assert (query.marker_id, query.max_tokens, query.attend_expansion) == (2, 8, True)
    assert (document.marker_id, document.max_tokens, document.skip_ids) == (3, 9, ())
    assert roles(tmp_path, metadata | {"doc_token_id": "[Q] "})[1].marker_id == 2  # without its space
    with pytest.raises(CheckpointError, match=r"the marker '\[X\]' is not a token"):
        roles(tmp_path, {"query_token_id": "[X]"})
    assert roles(tmp_path, {}, family={"attends_filler": True})[0].attend_expansion


def pylate(folder: Path, max_tokens: int = 100, **settings: Any) -> Any:
    sentence = Facts(settings=settings, text={}, prompts={}, mask=None)
    return roles(folder, sentence=sentence, max_tokens=max_tokens)


def test_pylates_settings_are_followed(tmp_path: Path):
    query, document = pylate(tmp_path)
    assert (query.marker_id, query.max_tokens, query.expand_id, query.attend_expansion) == (2, 32, 4, False)
    assert (document.marker_id, document.max_tokens, document.skip_ids) == (3, 100, (7, 8))
    assert pylate(tmp_path, 500)[1].max_tokens == 180
    query, document = pylate(
        tmp_path, query_prefix="", document_prefix="", do_query_expansion=False,
        attend_to_expansion_tokens=True, query_length=7,
        document_length=8, skiplist_words=["yes", "nothing", "!"],
    )  # fmt: skip
    assert (query.marker_id, query.max_tokens, query.expand_id, query.attend_expansion) == (
        None,
        7,
        None,
        False,
    )
    assert (document.marker_id, document.max_tokens, document.skip_ids) == (None, 8, (5, 8))
    assert pylate(tmp_path, attend_to_expansion_tokens=True)[0].attend_expansion


def test_a_filler_is_the_mask_or_the_end(tmp_path: Path):
    assert roles(tmp_path, {}, ids={"mask_token": 4, "eos_token": 6})[0].expand_id == 4
    assert roles(tmp_path, {}, ids={"eos_token": 6})[0].expand_id == 6
    with pytest.raises(CheckpointError, match="needs a mask token"):
        roles(tmp_path, {}, ids={})


# --- classifiers of a few tokens
# --------------------------------------------------------------------------------------------------


def rows(folder: Path, **facts: Any) -> Any:
    """The layer whose rows are compared; None: nobody asked for one."""
    found = yes_no.steps(
        checkpoint(
            folder, {"lm_head.weight": (len(WORDS), 8), "embed_tokens.weight": (len(WORDS), 8)}, **facts
        )
    )
    return None if found is None else found[0][0].layer  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"method": "from_2_way_softmax"}, ((5, 6),)), ({"method": "no_post_processing"}, ((6,), (5,))),
        ({"is_original_qwen3_reranker": True}, ((5, 6),)),
    ],
    ids=str,
)  # fmt: skip
def test_tokens_no_and_yes_become_rows(tmp_path: Path, config: dict[str, Any], expected: Any):
    layer = rows(tmp_path, config={"classifier_from_token": ["no", "yes"], **config})
    assert layer is not None
    assert (layer.rows, layer.name, layer.names, layer.bias) == (
        expected,
        "lm_head",
        ("embed_tokens",),
        False,
    )
    tied = rows(
        tmp_path, config={"classifier_from_token": ["no", "yes"], "tie_word_embeddings": True, **config}
    )
    assert tied is not None
    assert (tied.name, tied.names) == ("embed_tokens", ())


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"classifier_from_token": ["no", "maybe"], "method": "from_2_way_softmax"},
        "'maybe' not in the vocabulary"),
        ({"classifier_from_token": ["no"], "method": "from_2_way_softmax"}, "needs two tokens, no and yes"),
        ({"classifier_from_token": ["no", "yes"], "method": "sorcery"},
        "expected one of from_2_way_softmax, no_post_processing"),
        ({"classifier_from_token": ["no", "yes"]}, "with method None"),
    ],
    ids=str,
)  # fmt: skip
def test_tokens_that_cannot_be_compared_are_refused(tmp_path: Path, config: dict[str, Any], told: str):
    with pytest.raises(CheckpointError, match=told):
        rows(tmp_path, config=config)


def test_a_model_without_answers_has_no_rows(tmp_path: Path):
    assert rows(tmp_path) is None
    assert rows(tmp_path, config={"classifier_from_token": []}) is None


def test_tokens_of_a_module_lie_inside_the_vocabulary(tmp_path: Path):
    with pytest.raises(
        CheckpointError, match=f"token {len(WORDS)} is not one of the vocabulary's {len(WORDS)}"
    ):
        rows(tmp_path, sentence=Facts(answers=Answers(true=len(WORDS), false=None)))
