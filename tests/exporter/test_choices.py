"""Pooling, normalisation, activation, labels and widths: which file wins over which."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from poolrt.exporter.checkpoint import read_pooler as read
from poolrt.exporter.files.module_chain import Route
from poolrt.exporter.files.sentence_files import Module
from poolrt.exporter.heads import precedence, text_plan
from poolrt.runtime.errors import CheckpointError
from poolrt.runtime.vllm.pooler_config import PoolerConfig

TORCH = "torch.nn.modules.activation"


class Facts(SimpleNamespace):
    """What a test says nothing of is not there."""

    def __getattr__(self, name: str) -> None:
        return None


def checkpoint(
    *, config: dict[str, Any] | None = None, sentence: dict[str, Any] | None = None,
    pooler: dict[str, Any] | None = None,
    recipe: Any = None, text: dict[str, Any] | None = None, kind: str = "embed",
    architecture: str = "BertModel",
    positions: Any = lambda config: config["max_position_embeddings"], capped: bool = False,
) -> Any:  # fmt: skip
    settings = {"settings": {}, "max_tokens": None, "mask": None, "generation": 2} | (sentence or {})
    tokens = {"max_tokens": None, "ids": {}} | (text or {})
    made = {"hidden_size": 8, "vocab_size": 100, "max_position_embeddings": 512} | (config or {})
    return SimpleNamespace(
        config=made, sentence=None if sentence is None else Facts(**settings),
        pooler=PoolerConfig(**(pooler or {})),
        family=Facts(pool="cls", names=("BertModel",), positions=positions, instruction="",
        capped_by_tokenizer=capped), recipe=recipe,
        text=Facts(**tokens), kind=kind, architecture=architecture, source="org/m",
        number=lambda key: made[key],
    )  # fmt: skip


def route(facts: dict[str, Any]) -> Route | None:
    """Through the Pooling module of a folder that has one."""
    pools = facts.get("sentence", {}).get("pools")
    pooling = Module(
        kind="Pooling",
        folder="1_Pooling",
        reads="token_embeddings",
        writes="sentence_embedding",
        settings={"pooling_mode": pools},
    )
    return Route(source="token_embeddings", task="feature-extraction", pooling=pooling) if pools else None


# --- pooling and normalisation
# ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("facts", "pools"),
    [
        ({}, ("cls",)), ({"architecture": "Qwen2ForCausalLM"}, ("last",)),
        ({"sentence": {"pools": ("mean", "max")}}, ("mean", "max")),
        ({"sentence": {"pools": ()}}, ("cls",)),
        ({"sentence": {"pools": ("mean",)}, "pooler": {"pooling_type": "LAST"}}, ("last",)),
        ({"pooler": {"seq_pooling_type": "MEAN"}}, ("mean",)),
        ({"pooler": {"pooling_type": "ALL"}}, ("cls",)),
        ({"architecture": "Qwen2ForCausalLM", "sentence": {"pools": ("mean",)}}, ("mean",)),
    ],
    ids=str,
)  # fmt: skip
def test_what_is_asked_wins_over_modules_and_these_over_the_family(
    facts: dict[str, Any], pools: tuple[str, ...]
):
    found, why = precedence.pools(checkpoint(**facts), route(facts))
    assert found == pools
    assert why


@pytest.mark.parametrize(
    ("facts", "activation"),
    [
        ({}, "l2"), ({"sentence": {}}, "l2"), ({"sentence": {"pools": ("mean",)}}, "identity"),
        ({"sentence": {"pools": ("mean",), "normalize": True}}, "l2"),
        ({"pooler": {"use_activation": False}}, "identity"),
        ({"sentence": {"pools": ("mean",)}, "pooler": {"use_activation": True}}, "l2"),
    ],
    ids=str,
)  # fmt: skip
def test_a_folder_without_a_normalize_module_is_not_normalised(facts: dict[str, Any], activation: str):
    found, guess = precedence.normalisation(
        checkpoint(**facts), route(facts), bool(facts.get("sentence", {}).get("normalize"))
    )
    assert found == activation
    assert guess.value == ("yes" if activation == "l2" else "no")


@pytest.mark.parametrize(("use", "activation"), [(None, "l2"), (True, "l2"), (False, "identity")])
def test_an_activation_is_switched_off_by_the_pooler_config_alone(use: bool | None, activation: str):
    assert precedence.unless_off(checkpoint(pooler={"use_activation": use}), "l2") == activation


def test_a_classifiers_pooling_is_one_that_is_known():
    assert precedence.known_pool(checkpoint(), "mean") == "mean"
    with pytest.raises(CheckpointError, match="'max'; known are cls, mean, last"):
        precedence.known_pool(checkpoint(), "max")


# --- activations and labels
# -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("labels", "facts", "activation"),
    [
        (1, {}, "sigmoid"), (2, {}, "softmax"),
        (1, {"sentence": {"settings": {"activation_fn": f"{TORCH}.Tanh"}}}, "tanh"),
        (2, {"sentence": {"settings": {"activation_fn": f"{TORCH}.Tanh"}}}, "softmax"),
        (1, {"config": {"sentence_transformers": {"activation_fn": f"{TORCH}.ReLU"}},
             "sentence": {"settings": {"activation_fn": f"{TORCH}.Tanh"}}}, "relu"),
        (1, {"config": {"sbert_ce_default_activation_function": "torch.nn.modules.linear.Identity"}},
        "identity"),
        (2, {"config": {"sbert_ce_default_activation_function": f"{TORCH}.Sigmoid"}}, "softmax"),
        (1, {"config": {"sbert_ce_default_activation_function": f"{TORCH}.Softmax"}}, "sigmoid"),
        (1, {"config": {"problem_type": "regression",
        "sbert_ce_default_activation_function": f"{TORCH}.Sigmoid"}}, "identity"),
        (2, {"config": {"problem_type": "multi_label_classification"}}, "sigmoid"),
        (1, {"config": {"sentence_transformers": None}}, "sigmoid"),
    ],
    ids=str,
)  # fmt: skip
def test_an_activation_is_the_first_that_a_file_names(labels: int, facts: dict[str, Any], activation: str):
    assert precedence.classifier_activation(checkpoint(**facts), labels)[0] == activation


@pytest.mark.parametrize(
    "stored", ["os.system", "torch.nn.modules.activation.GELU", "torch.optim.Tanh", "Tanh"]
)
def test_an_activation_that_is_none_of_torchs_is_refused(stored: str):
    with pytest.raises(CheckpointError, match=r"expected a class of torch\.nn\.modules"):
        precedence.classifier_activation(
            checkpoint(config={"sbert_ce_default_activation_function": stored}), 1
        )


def test_a_problem_that_nobody_knows_is_refused():
    with pytest.raises(CheckpointError, match="problem_type 'ranking'; known are regression"):
        precedence.classifier_activation(checkpoint(config={"problem_type": "ranking"}), 1)


@pytest.mark.parametrize(
    ("use", "raw", "expected"),
    [
        (None, False, {"activation": "softmax"}), (True, False, {"activation": "softmax"}),
        (True, True, {"activation": "softmax"}),
        (None, True, {"activation": "identity", "asked_activation": "softmax"}),
        (False, False, {"activation": "identity", "asked_activation": "softmax"}),
        (False, True, {"activation": "identity", "asked_activation": "softmax"}),
    ],
)  # fmt: skip
def test_raw_values_keep_the_activation_for_who_asks(use: bool | None, raw: bool, expected: dict[str, str]):
    assert precedence.activations(checkpoint(pooler={"use_activation": use}), 3, raw=raw)[0] == expected


@pytest.mark.parametrize(
    ("config", "count", "labels"),
    [
        ({}, 2, ("LABEL_0", "LABEL_1")), ({"id2label": {"0": "a", "1": "b"}}, 2, ("a", "b")),
        ({"id2label": {"1": "b", "0": "a"}}, 2, ("a", "b")),
        ({"id2label": {"0": "a"}, "num_labels": 2}, 2, ("a", "LABEL_1")),
        ({"id2label": {0: "a", 1: 5}}, 2, ("a", "5")), ({"num_labels": 1}, 1, ("LABEL_0",)),
    ],
    ids=str,
)  # fmt: skip
def test_labels_are_in_the_order_of_their_numbers(
    config: dict[str, Any], count: int, labels: tuple[str, ...]
):
    assert precedence.labels_of(checkpoint(config=config), count) == labels


@pytest.mark.parametrize(
    ("config", "count"),
    [({"id2label": {"0": "a", "1": "b"}}, 3), ({"num_labels": 2}, 1), ({"num_labels": 1}, 2)],
)
def test_labels_that_are_not_the_classifiers_are_refused(config: dict[str, Any], count: int):
    with pytest.raises(CheckpointError, match=f"the classifier has {count} rows"):
        precedence.labels_of(checkpoint(config=config), count)


@pytest.mark.parametrize(
    ("labels", "facts", "expected"),
    [
        (1, {}, {"activation": "sigmoid"}), (2, {}, {"activation": "identity"}),
        (3, {"sentence": {}}, {"activation": "identity"}),
        (1, {"sentence": {"settings": {"activation_fn": f"{TORCH}.Tanh"}}}, {"activation": "tanh"}),
        (2, {"config": {"sentence_transformers": {"activation_fn": f"{TORCH}.Softmax"}}},
        {"activation": "softmax"}),
        (1, {"config": {"sentence_transformers": {"activation_fn": f"{TORCH}.ReLU"}},
             "sentence": {"settings": {"activation_fn": "torch.nn.Sigmoid"}}}, {"activation": "sigmoid"}),
        (1, {"pooler": {"use_activation": False}}, {"activation": "identity", "asked_activation": "sigmoid"}),
        (1, {"pooler": {"use_activation": True}}, {"activation": "sigmoid"}),
    ],
    ids=str,
)  # fmt: skip
def test_a_cross_encoder_of_modules_has_the_librarys_activation(
    labels: int, facts: dict[str, Any], expected: dict[str, str]
):
    assert precedence.modular_activations(checkpoint(**facts), labels)[0] == expected


@pytest.mark.parametrize(("asked", "kept"), [(None, None), (4, 4), (7, 7), (8, None), (9, None)])
def test_the_librarys_truncation_counts_where_it_cuts(asked: int | None, kept: int | None):
    assert precedence.truncation(checkpoint(sentence={"settings": {"truncate_dim": asked}}), 8) == kept


# --- widths
# ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({}, {"any_dimension": False, "dimensions": None}),
        ({"config": {"is_matryoshka": True}}, {"any_dimension": True, "dimensions": None}),
        ({"config": {"matryoshka_dimensions": [8, 2, 4]}}, {"matryoshka": (2, 4, 8), "dimensions": None}),
        ({"config": {"matryoshka_dimensions": [1]}, "pooler": {"dimensions": 4}},
        {"matryoshka": (1,), "dimensions": 4}),
        ({"pooler": {"dimensions": 8}}, {"any_dimension": False, "dimensions": 8}),
    ],
    ids=str,
)  # fmt: skip
def test_widths_are_sorted_and_the_default_stands_beside_them(
    facts: dict[str, Any], expected: dict[str, Any]
):
    assert precedence.matryoshka(checkpoint(**facts), 8) == expected


@pytest.mark.parametrize("widths", [[9], [0, 4], [-1], [4.0], ["4"]], ids=str)
def test_widths_beyond_the_models_are_refused(widths: list[Any]):
    with pytest.raises(CheckpointError, match="not between 1 and the model's 8"):
        precedence.matryoshka(checkpoint(config={"matryoshka_dimensions": widths}), 8)
    with pytest.raises(CheckpointError, match="dimensions 9 is wider than the model's 8"):
        precedence.matryoshka(checkpoint(pooler={"dimensions": 9}), 8)


def test_a_recipes_widths_are_cut_to_a_smaller_namesake():
    recipe = SimpleNamespace(hf_overrides={"matryoshka_dimensions": [4, 8, 16]})
    asked = checkpoint(config={"matryoshka_dimensions": [4, 8, 16]}, recipe=recipe)
    assert precedence.matryoshka(asked, 8) == {"matryoshka": (4, 8), "dimensions": None}
    own = checkpoint(config={"matryoshka_dimensions": [4, 16]}, recipe=recipe)
    with pytest.raises(CheckpointError, match=r"\[16\] are not between"):
        precedence.matryoshka(own, 8)


# --- text
# ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("facts", "limit"),
    [
        ({}, 512), ({"sentence": {"max_tokens": 256}}, 256), ({"sentence": {"max_tokens": 1024}}, 512),
        ({"text": {"max_tokens": 128}}, 512), ({"text": {"max_tokens": 128}, "capped": True}, 128),
        ({"text": {"max_tokens": 128}, "sentence": {"generation": 6}}, 128),
        ({"text": {"max_tokens": 128}, "sentence": {"generation": 5}}, 512),
        ({"text": {"max_tokens": 128}, "sentence": {"max_tokens": 64, "generation": 6}}, 64),
        ({"kind": "colbert", "sentence": {"max_tokens": 31}, "text": {"max_tokens": 128}, "capped": True},
        128),
        ({"kind": "colbert", "sentence": {"max_tokens": 31, "mask": {}}, "text": {"max_tokens": 128},
        "capped": True}, 512),
    ],
    ids=str,
)  # fmt: skip
def test_the_longest_item_is_the_least_that_counts(facts: dict[str, Any], limit: int):
    found, (guess,) = text_plan.max_tokens(checkpoint(**facts))
    assert (found, guess.value) == (limit, str(limit))


@pytest.mark.parametrize(
    ("facts", "limit"),
    [({}, text_plan.UNLIMITED), ({"text": {"max_tokens": 128}}, 128), ({"sentence": {"max_tokens": 64}}, 64)],
    ids=str,
)
def test_a_model_that_needs_no_positions_has_the_limit_of_its_files(facts: dict[str, Any], limit: int):
    found, (guess,) = text_plan.max_tokens(checkpoint(positions=lambda _: None, **facts))
    assert (found, guess.value) == (limit, str(limit))


@pytest.mark.parametrize("value", ["many", "missing"])
def test_a_model_without_a_number_of_positions_is_refused(value: Any):
    def positions(config: dict[str, Any]) -> Any:
        return config["n_positions"] if value == "missing" else value

    with pytest.raises(
        CheckpointError, match=r"config\.json has no usable (n_positions|number " r"of positions)"
    ):
        text_plan.max_tokens(checkpoint(positions=positions))


@pytest.mark.parametrize(
    ("config", "ids", "pad"),
    [
        ({"pad_token_id": 5}, {"pad_token": 1}, 5), ({"pad_token_id": 0}, {"pad_token": 1}, 0),
        ({"pad_token_id": 100}, {"pad_token": 1}, 1),
        ({"pad_token_id": 99}, {"pad_token": 1}, 99), ({"pad_token_id": -1}, {"pad_token": 1}, 1),
        ({"pad_token_id": None}, {"eos_token": 2}, 2),
        ({}, {"pad_token": 1, "eos_token": 2}, 1), ({}, {}, 0),
    ],
    ids=str,
)  # fmt: skip
def test_padding_is_a_row_of_the_table(config: dict[str, Any], ids: dict[str, int], pad: int):
    assert text_plan.pad_id(checkpoint(config=config, text={"ids": ids})) == pad


@pytest.mark.parametrize(
    ("ids", "ends"),
    [
        ({"a": [5, 2], "what is this": [6, 7, 2]}, 2), ({"a": [5], "what is this": [6, 7]}, None),
        ({"a": [], "what is this": [2]}, None),
        ({"a": [5, 9], "what is this": [6, 9]}, None), ({"a": [2], "what is this": []}, None),
    ],
    ids=str,
)  # fmt: skip
def test_an_end_is_what_stands_behind_every_text(ids: dict[str, list[int]], ends: int | None):
    found, (guess,) = text_plan.ending(
        checkpoint(text={"ids": {"eos_token": 2}, "encode": lambda text: ids[text]})
    )
    assert found == ends
    assert guess.what == "ends with"


def text_of(heads: dict[str, str] | None = None, files: tuple[str, ...] = (), **facts: Any) -> Any:
    """The manifest's text, and what is guessed of it by name."""
    text = {
        "ids": {"eos_token": 2},
        "encode": lambda text: [5, 2],
        "special": {"eos_token": "</s>"},
    } | facts.pop("text", {})
    sentence = facts.pop("sentence", None)
    if sentence is not None:
        sentence = {"prompts": {}, "default_prompt": None, "lowercase": False} | sentence
        pooling = {"include_prompt": sentence.pop("include_prompt", True)}
        transformer = Module(kind="Transformer", folder="", reads="", writes="token_embeddings", settings={})
        pool = Module(
            kind="Pooling",
            folder="1_Pooling",
            reads="token_embeddings",
            writes="sentence_embedding",
            settings=pooling,
        )
        sentence |= {"chain": (transformer, pool), "text": {}}
    pools = {task: SimpleNamespace(pool=pool) for task, pool in (heads or {"embed": "mean"}).items()}
    guesses: list[Any] = []
    read: Any = checkpoint(text=text, sentence=sentence, **facts)
    heads_of: Any = pools
    made = text_plan.text(read, 64, {}, dict.fromkeys(files, b""), heads_of, guesses)
    return made, {guess.what: guess.value for guess in guesses}


def test_a_plain_checkpoint_has_plain_text():
    made, guesses = text_of()
    assert (made.max_tokens, made.vocab_size, made.pad_id, made.lowercase, made.pair) == (
        64,
        100,
        2,
        False,
        "separator",
    )
    assert (made.prompts, made.default_prompt, made.ends_with, made.special_tokens) == (
        {},
        None,
        None,
        {"eos_token": "</s>"},
    )
    assert (made.chat_template, made.score_template, made.tokenizer_config) == (None, None, None)
    assert guesses == {}


def test_prompts_are_those_of_the_files_and_then_of_the_recipe():
    stored = {"query": "q: ", "document": ""}
    recipe = SimpleNamespace(prompts={"document": "d: ", "query": "own: "}, instruction="")
    made, guesses = text_of(sentence={"prompts": stored, "default_prompt": "query"})
    assert (made.prompts, made.default_prompt, guesses) == (stored, "query", {"prompts": "query"})
    made, guesses = text_of(
        sentence={"prompts": stored, "include_prompt": False, "lowercase": True}, recipe=recipe
    )
    assert made.prompts == {"query": "own: ", "document": "d: "}
    assert guesses == {"prompts": "query, document", "prompt tokens": "not pooled"}
    assert text_of(sentence={"prompts": {"query": ""}, "include_prompt": False})[1] == {}
    with pytest.raises(CheckpointError, match="default prompt 'x' is not among the prompts: query, document"):
        text_of(sentence={"prompts": stored, "default_prompt": "x"})
    with pytest.raises(CheckpointError, match="default prompt 'x' is not among the prompts: none"):
        text_of(sentence={"default_prompt": "x"})


@pytest.mark.parametrize(
    ("heads", "ends"),
    [
        ({"embed": "last"}, 2),
        ({"embed": "mean", "token_embed": "tokens"}, None),
        ({"token_embed": "tokens", "embed": "last"}, 2),
    ],
    ids=str,
)
def test_an_end_matters_where_the_last_token_is_pooled(heads: dict[str, str], ends: int | None):
    made, guesses = text_of(heads)
    assert made.ends_with == ends
    assert ("ends with" in guesses) == (ends is not None)


@pytest.mark.parametrize(
    ("config", "pair"),
    [
        ({}, "separator"), ({"classifier_from_token": ["no", "yes"]}, "concatenate"),
        ({"use_sep_token": False}, "concatenate"),
        ({"use_pad_token": False}, "concatenate"),
        ({"use_sep_token": True, "use_pad_token": False}, "separator"),
        ({"classifier_from_token": ["no"], "use_sep_token": True}, "separator"),
    ],
    ids=str,
)  # fmt: skip
def test_a_pair_is_joined_as_the_config_says(config: dict[str, Any], pair: str):
    assert text_of(config=config)[0].pair == pair


def test_files_are_named_where_they_are():
    made, _ = text_of(files=("chat_template.jinja", "score_template.jinja", "tokenizer_config.json"))
    assert (made.chat_template, made.score_template, made.tokenizer_config) == (
        "chat_template.jinja", "score_template.jinja", "tokenizer_config.json",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("template", "carries"),
    [
        ("{% for m in messages %}{{ m.content }}{% endfor %}", True), ("{{ messages[0].content }}", False),
        ("{{ messages[1].content }}", False),
        ("{% for m in messages %}{% if m.role == 'query' %}Q{{ m.content }}{% else %}D{{ m.content }}"
         "{% endif %}"
         "{% endfor %}", True),
        ("{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}{% endif %}{% endfor %}", False),
        ("{{ 1/0 }}", False),
    ],
)  # fmt: skip
def test_a_template_shows_both_sides_of_a_pair_or_not(template: str, carries: bool):
    assert text_plan._carries_pairs(template) == carries


# --- the pooler config itself
# -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"pooling_type": "CLS", "tok_pooling_type": "ALL"}, "cannot be combined"),
        ({"logit_mean": 1.0, "logit_bias": 1.0}, "give one of them"),
        ({"logit_sigma": 0}, "cannot be 0"), ({"dimensions": 0}, "at least 1"),
        ({"normalize": False}, "was renamed"),
    ],
    ids=str,
)  # fmt: skip
def test_a_pooler_config_that_contradicts_itself_is_refused(asked: dict[str, Any], told: str):
    with pytest.raises(CheckpointError, match=told):
        read(asked)


def test_a_pooler_config_has_older_names():
    assert read(None) == read({}) == PoolerConfig()
    assert read(read({"dimensions": 1})).dimensions == 1
    assert (read({"logit_bias": 0.5}).mean, read({"logit_mean": 0.0}).mean, read({}).mean) == (0.5, 0.0, None)
    assert (read({"pooling_type": "STEP"}).steps, read({"tok_pooling_type": "STEP"}).steps,
    read({"tok_pooling_type": "ALL"}).steps) == (
        True, True, False,
    )  # fmt: skip
    assert (read({"pooling_type": "STEP"}).pool, read({"pooling_type": "MEAN"}).pool,
    read({"seq_pooling_type": "LAST"}).pool) == (
        None, "mean", "last",
    )  # fmt: skip
