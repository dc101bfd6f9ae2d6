"""Keywords of the public methods: described where they are declared, refused by the name of
the method that was called."""

from __future__ import annotations

import ast
import inspect
import typing
from pathlib import Path

import pytest
from poolrt.runtime import LLM, InputError, Model, options
from poolrt.runtime.errors import UnknownOption
from poolrt.runtime.inputs.encoder import Encoder
from poolrt.runtime.inputs.preparation import Preparation

TASKS = ["embed", "classify", "token_embed", "token_classify", "reward", "encode", "start"]
PAIRS = ["score", "rerank", "start_score", "start_rerank"]


@pytest.fixture(scope="module")
def llm(artifacts):
    """Opened by vLLM's class, so that both classes are at hand."""
    opened = LLM(str(artifacts("minilm_like")))
    yield opened
    opened.model.close(5)


def test_each_option_is_described_where_it_is_declared():
    tree = ast.parse(Path(options.__file__).read_text())
    records = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    assert len(records) > 5
    for record in records:
        assert ast.get_docstring(record)
        for before, after in zip(record.body, [*record.body[1:], None], strict=True):
            if isinstance(before, ast.AnnAssign):
                assert isinstance(after, ast.Expr), (
                    f"{record.name}.{ast.unparse(before.target)} has no docstring"
                )


@pytest.mark.parametrize("owner", [Model, LLM])
def test_every_method_with_options_names_their_record(owner):
    for name, method in inspect.getmembers(owner, inspect.isfunction):
        keywords = [
            one for one in inspect.signature(method).parameters.values() if one.kind is one.VAR_KEYWORD
        ]
        if keywords and not name.startswith("_"):
            hint = typing.get_type_hints(method)["options"]
            assert typing.is_typeddict(typing.get_args(hint)[0]), name


@pytest.mark.parametrize(
    ("record", "function"),
    [(options.ChatOptions, Preparation.chat), (options.TokenizeOptions, Encoder.tokenize)],
    ids=["chat", "tokenize"],
)
def test_options_of_text_are_the_keywords_of_the_preparation(record, function):
    parameters = inspect.signature(function).parameters.values()
    assert record.__optional_keys__ == {one.name for one in parameters if one.kind is one.KEYWORD_ONLY}


@pytest.mark.parametrize("method", [*TASKS, *PAIRS, "tokenize", "chat"])
def test_a_wrong_option_is_refused_by_the_name_of_the_method(llm, method):
    arguments = ["a", "b"] if method in PAIRS else ["a"]
    with pytest.raises(UnknownOption, match=rf"^{method}\(\) takes no option 'colour'$") as error:
        getattr(llm.model, method)(*arguments, colour="red")
    assert error.value.field == "colour"


@pytest.mark.parametrize("method", ["embed", "classify", "reward", "encode", "score"])
def test_a_wrong_option_of_vllms_class_is_refused_in_the_same_words(llm, method):
    arguments = ["a", "b"] if method == "score" else ["a"]
    with pytest.raises(
        UnknownOption,
        match=rf"^{method}\(\) takes no option 'dead_line_s'; did you mean " r"'deadline_s'\?$",
    ):
        getattr(llm, method)(*arguments, use_tqdm=False, dead_line_s=1)


@pytest.mark.parametrize(
    ("method", "wrong", "right"),
    [
        ("embed", "truncate_prompt_token", "'truncate_prompt_tokens'"),
        ("embed", "normalise", "pooling_params=PoolingParams(use_activation=...)"),
        ("embed", "dimension", "pooling_params=PoolingParams(dimensions=...)"),
        ("encode", "pooling_param", "'pooling_params'"),
        ("encode", "pooling_taks", "'pooling_task'"),
        ("token_embed", "rôle", "'role'"),
    ],
)
def test_the_closest_right_option_is_named(llm, method, wrong, right):
    with pytest.raises(UnknownOption) as error:
        getattr(llm.model, method)("a", **{wrong: 1})
    assert str(error.value) == f"{method}() takes no option {wrong!r}; did you mean {right}?"


def test_a_parameter_is_not_suggested_to_a_method_that_takes_none(llm):
    with pytest.raises(UnknownOption, match=r"^tokenize\(\) takes no option 'dimensions'$"):
        llm.model.tokenize("a", dimensions=8)


def test_a_wrong_option_is_a_mistake_of_the_caller_and_pythons_own_kind_of_error(llm):
    for kind in (InputError, TypeError):
        with pytest.raises(kind):
            llm.model.embed("a", colour="red")


def test_the_constructor_names_the_closest_keyword_too(artifacts):
    with pytest.raises(
        InputError,
        match=r"max_model_length: not a keyword that poolrt knows; did you mean " r"'max_model_len'\?",
    ):
        LLM(str(artifacts("minilm_like")), max_model_length=8)


def test_options_reach_the_computation(llm):
    (output,) = llm.model.embed("the cat sat on the mat", truncate_prompt_tokens=3, add_special_tokens=False)
    assert output.truncated
    assert len(output.prompt_token_ids) == 3
    assert len(llm.model.tokenize("a cat", add_special_tokens=False)) == len(llm.model.tokenize("a cat")) - 2
