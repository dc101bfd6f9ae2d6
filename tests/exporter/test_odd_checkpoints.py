"""Checkpoints whose files say something unusual: what poolrt makes of them is what their
own library makes of them.

The library is asked twice: by the check that every export runs, and here, by a client's calls, where the
check leaves something out.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from poolrt.exporter import checkpoint
from poolrt.exporter.graph import tracing
from poolrt.exporter.heads import planning
from poolrt.exporter.proof import library_reference
from poolrt.runtime.artifact import manifest as contract
from poolrt.runtime.artifact.manifest import Manifest
from poolrt.runtime.inputs.items import TokenLimits
from poolrt.runtime.inputs.preparation import Preparation

import tests.checkpoints as tiny
from tests import families
from tests.checkpoints import randomise

CUT = TokenLimits(truncate_prompt_tokens=-1)
TEXTS = ("what is the capital of France?", "", "Paris", "MIXED case [MASK] é 北京", "deep sun " * 200)


def changed(path: Path, **values: Any) -> None:
    known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    path.write_text(json.dumps({**known, **values}), encoding="utf-8")


def agreed(folder: Path) -> dict[str, int]:
    """What the check compared with the library, and on how many texts. It must have
    had nothing to leave out."""
    reading = library_reference.compare(folder, recipe=None)
    assert reading.reference != library_reference.OWN_ONLY
    assert not reading.why
    return {each.what: each.texts for each in reading.agreements}


def prepared(folder: Path, place: Path) -> Preparation:
    """The text side of the artifact, without the artifact."""
    found = checkpoint.read(folder, recipe=None)
    plan = planning.plan(found)
    for name, content in plan.files.items():
        (place / name).write_bytes(content)
    manifest = Manifest(
        format=contract.FORMAT, name="odd", architecture=found.architecture,
        source=contract.Source(checkpoint="odd"), tasks=plan.tasks,
        scoring=plan.scoring, text=plan.text, graphs=(tracing.described(plan, "model.onnx", ()),),
        heads=plan.heads,
    )  # fmt: skip
    return Preparation(place, manifest)


def model_ids(model: Any, call: Callable[[], object]) -> list[list[int]]:
    """Token ids that a model of Sentence Transformers was run on during `call`."""
    seen: list[list[int]] = []

    def keep(module: Any, inputs: Any) -> None:
        seen.extend(inputs[0]["input_ids"].tolist())

    handle = model[0].register_forward_pre_hook(keep)
    call()
    handle.remove()
    return seen


def moved(folder: Path, name: str) -> None:
    """The transformer's files into a folder of their own, as Sentence Transformers wrote
    them before version 0.4."""
    inner = folder / name
    inner.mkdir()
    for path in list(folder.iterdir()):
        if path.is_file() and path.name not in ("modules.json", "config_sentence_transformers.json"):
            path.rename(inner / path.name)
    entries = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
    entries[0]["path"] = name
    (folder / "modules.json").write_text(json.dumps(entries), encoding="utf-8")


def test_a_transformer_in_a_folder_of_its_own_is_compared(written: Callable[[str], Path]):
    folder = written("minilm_like")
    moved(folder, "0_Transformer")
    assert agreed(folder)["embed"] >= 3


def test_a_transformer_in_a_folder_of_its_own_is_compared_with_overrides(written: Callable[[str], Path]):
    folder = written("minilm_like")
    moved(folder, "0_Transformer")
    reading = library_reference.compare(folder, recipe=None, hf_overrides={"layer_norm_eps": 0.1})
    assert reading.reference.endswith("SentenceTransformer")


def test_vectors_that_the_library_cuts_by_itself_are_compared(written: Callable[[str], Path]):
    folder = written("minilm_like")
    changed(
        folder / "config_sentence_transformers.json",
        truncate_dim=16,
        prompts={},
        model_type="SentenceTransformer",
    )
    assert planning.plan(checkpoint.read(folder, recipe=None)).heads["embed"].dimensions == 16
    assert agreed(folder)["embed"] >= 3


def test_markers_of_a_lower_casing_colbert_are_not_taken_for_words(written: Callable[[str], Path]):
    folder = written("colbert_pylate_bert")
    described = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    for token in described["added_tokens"]:
        if token["content"].startswith(("[Q]", "[D]")):
            token.update(normalized=True, special=False)  # as add_tokens writes a plain text
    (folder / "tokenizer.json").write_text(json.dumps(described), encoding="utf-8")
    assert agreed(folder)["token_embed"] >= 3


@pytest.mark.parametrize("post", ["kept", None], ids=["post-processor", "no post-processor"])
def test_a_tokenizer_that_makes_no_token_types_gives_a_pair_none(
    written: Callable[[str], Path], post: str | None, tmp_path: Path
):
    """model_input_names without token_type_ids: the class PreTrainedTokenizerFast,
    unless its settings name them."""
    from transformers import AutoTokenizer

    folder = written("bert_cross_encoder")
    changed(folder / "tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast")
    if post is None:
        changed(folder / "tokenizer.json", post_processor=None)
    theirs: Any = AutoTokenizer.from_pretrained(str(folder))
    assert "token_type_ids" not in theirs("a", "b")
    [item] = prepared(folder, tmp_path).pairs(["the sun"], ["a planet"])
    assert item.ids == theirs("the sun", "a planet")["input_ids"]
    assert not any(item.type_ids or ())
    assert agreed(folder)["classify"] >= 3


@pytest.mark.parametrize(
    ("prompts", "default"),
    [
        ({"query": "query: ", "document": "passage: "}, None), ({"query": "find: "}, "query"),
        ({"query": "q: ", "passage": "p: "}, None),
        ({"query": "q: ", "document": None}, None),
    ],
    ids=["both", "query alone, by default", "passage", "null"],
)  # fmt: skip
def test_roles_have_the_stored_prompts_that_the_library_finds(
    written: Callable[[str], Path], tmp_path: Path, prompts: dict[str, str | None], default: str | None
):
    from sentence_transformers import SentenceTransformer

    folder = written("minilm_like")
    changed(
        folder / "config_sentence_transformers.json",
        prompts=prompts,
        default_prompt_name=default,
        model_type="SentenceTransformer",
    )
    ours, theirs = prepared(folder, tmp_path), SentenceTransformer(str(folder), device="cpu")
    for text in TEXTS:
        for role, encode in (("query", theirs.encode_query), ("document", theirs.encode_document)):
            [wanted] = model_ids(
                theirs, lambda encode=encode, text=text: encode([text], show_progress_bar=False)
            )
            [item] = ours.singles([text], limits=CUT, role=role)  # pyright: ignore[reportArgumentType]
            assert item.ids == wanted, (role, text)
    plain = theirs.tokenizer("Paris")["input_ids"]
    assert ours.singles(["Paris"])[0].ids == plain  # nothing unasked
    assert (
        ours.singles(["Paris"], role="document", prompt_name="query")[0].ids
        == theirs.tokenizer(f"{prompts['query']}Paris")["input_ids"]
    )
    assert agreed(folder)["embed"] >= 6


def logit_scored(folder: Path, template: str, **saved: Any) -> Any:
    """A small Qwen2 whose pairs go through `template`, saved by Sentence
    Transformers; the library's model."""
    from sentence_transformers import CrossEncoder
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.cross_encoder.modules.logit_score import LogitScore

    inner = families.find("qwen2_reward")(folder)
    from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

    config = Qwen2Config.from_pretrained(str(inner), max_position_embeddings=256)
    for path in inner.glob("*.safetensors*"):
        path.unlink()
    shutil.rmtree(inner / "1_Pooling", ignore_errors=True)
    randomise(Qwen2ForCausalLM(config)).save_pretrained(str(inner))
    tokenizer: Any = AutoTokenizer.from_pretrained(str(inner))
    tokenizer.chat_template, tokenizer.model_max_length = template, 200
    tokenizer.save_pretrained(str(inner))
    return CrossEncoder(
        modules=[Transformer(str(inner), transformer_task="text-generation"), LogitScore(5, 6)],
        device="cpu",
        **saved,
    )


PAIR = "{% for m in messages %}<{{ m.role }}> {{ m.content }} {% endfor %}"


@pytest.mark.parametrize(
    ("template", "saved"),
    [
        (PAIR + "is it? answer:", {}),
        (PAIR.strip(), {}),
        (PAIR + "so?", {"prompts": {"judge": "the sun"}, "default_prompt_name": "judge"}),
    ],
    ids=["ends with a question", "ends with the document", "default prompt"],
)
def test_a_pair_that_is_cut_ends_as_the_library_ends_it(tmp_path: Path, template: str, saved: dict[str, Any]):
    (tmp_path / "inner").mkdir()
    (tmp_path / "text").mkdir()
    logit_scored(tmp_path / "inner", template, **saved).save_pretrained(str(tmp_path / "odd"))
    from sentence_transformers import CrossEncoder

    theirs, ours = (
        CrossEncoder(str(tmp_path / "odd"), device="cpu"),
        prepared(tmp_path / "odd", tmp_path / "text"),
    )
    for document in (*TEXTS, "a", "planet, " * 140):
        [wanted] = model_ids(
            theirs, lambda document=document: theirs.predict([("what is", document)], show_progress_bar=False)
        )
        [item] = ours.pairs(["what is"], [document], limits=CUT)
        assert item.ids == wanted, document
    assert agreed(tmp_path / "odd")["classify"] >= 3


def test_the_encoder_of_t5_alone_is_compared_with_its_own_class(written: Callable[[str], Path]):
    """Its config.json says that it is no encoder-decoder; AutoModel would be the whole T5, with a
    decoder that the file lacks."""
    from transformers import T5Config, T5EncoderModel

    folder = written("bert_plain")
    for path in (*folder.glob("*.safetensors"), folder / "config.json"):
        path.unlink()
    config = T5Config(vocab_size=128, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=2)
    randomise(T5EncoderModel(config)).save_pretrained(str(folder))
    assert agreed(folder)["hidden states"] >= 3


def test_rotary_tables_that_grew_for_a_longer_text_do_not_stay(written: Callable[[str], Path]):
    """rope_type dynamic: the library keeps the table of the longest text so far for every other text
    beyond the first length."""
    folder = written("llama_causal" if "llama_causal" in tiny.ALL else "llama3_causal")
    changed(folder / "config.json", rope_parameters={"rope_type": "dynamic", "factor": 4.0,
    "rope_theta": 1000.0}, rope_scaling=None,
            max_position_embeddings=24)  # fmt: skip
    assert agreed(folder)["hidden states"] >= 3
