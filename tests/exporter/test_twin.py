"""A shrunken twin: narrower and shorter than its original, the same in everything that is read, and
read alike by both sides."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from poolrt.exporter import checkpoint
from poolrt.exporter.families.modules import tiles
from poolrt.exporter.files import recipe as recipes
from poolrt.exporter.files import weights
from poolrt.exporter.heads import head_modules
from poolrt.exporter.proof import library_reference, twin, twin_scale
from poolrt.runtime.artifact.manifest import Reading
from poolrt.runtime.errors import CheckpointError, VerificationError

from tests.families import (
    decoders,
    find,
    gemmas,
    idefics,
    large,
    llava,
    nemotron_vl,
    pages,
    phi3v,
    qwen2_vl,
    qwen3_5,
    towers,
)
from tests.families.large import qwen3


def read(folder: Path, **asked: Any) -> checkpoint.Checkpoint:
    return checkpoint.read(folder, **{"recipe": None, **asked})


def wide(folder: Path, *, name: str = "Qwen3Model", **more: Any) -> Path:
    """A Qwen3 of other proportions than the twins': six layers, eight heads on four, odd widths."""
    folder.mkdir()
    sizes = {
        "hidden_size": 160,
        "num_hidden_layers": 6,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 32,
    }
    return decoders.qwen3_embedding(folder, **sizes, intermediate_size=352, **more)


def bert(folder: Path) -> Path:
    import transformers

    from tests.checkpoints import _hf, _wordpiece, sentence_transformers_files

    folder.mkdir()
    sizes: dict[str, Any] = {
        "hidden_size": 384,
        "num_hidden_layers": 6,
        "num_attention_heads": 12,
        "intermediate_size": 1536,
    }
    _hf(
        folder,
        "BertModel",
        vocab_size=_wordpiece(folder),
        max_position_embeddings=128,
        pad_token_id=0,
        **sizes,
    )
    sentence_transformers_files(folder)
    assert transformers.AutoConfig.from_pretrained(folder).hidden_size == 384
    return folder


def gemma3(folder: Path) -> Path:
    folder.mkdir()
    return decoders.embedding_gemma(folder)


def agreed(reading: Reading, task: str) -> None:
    assert reading.twin
    assert reading.reference.startswith(("sentence-transformers", "transformers"))
    assert not reading.why
    assert {"token ids", "hidden states", task} <= {each.what for each in reading.agreements}


@pytest.mark.parametrize("make", [wide, bert, gemma3], ids=lambda make: make.__name__)
def test_a_twin_is_small_and_both_sides_read_it_alike(make: Callable[[Path], Path], tmp_path: Path):
    original = read(make(tmp_path / "model"))
    folder = twin.write(original, tmp_path / "twin")
    small = read(folder)
    assert small.config.keys() == original.config.keys()
    assert set(small.weights) <= set(original.weights)
    assert small.kind == original.kind
    assert small.architecture == original.architecture
    assert (folder / "tokenizer.json").read_bytes() == (original.folder / "tokenizer.json").read_bytes()
    vocabulary = int(original.config["vocab_size"])
    beside = {name for name, shape in original.weights.shapes.items() if shape[0] != vocabulary}
    assert sum(math.prod(small.weights.shapes[name]) for name in beside if name in small.weights) * 3 < sum(
        math.prod(original.weights.shapes[name]) for name in beside
    )
    agreed(library_reference.against_twin(original), "embed")


def test_proportions_stay(tmp_path: Path):
    original = read(wide(tmp_path / "model"))
    config = read(twin.write(original, tmp_path / "twin")).config
    assert config["num_attention_heads"] // config["num_key_value_heads"] == 2
    assert config["num_attention_heads"] * config["head_dim"] / config["hidden_size"] == 8 * 32 / 160
    assert config["num_hidden_layers"] == 2


def test_every_kind_of_layer_is_in_the_twin(tmp_path: Path):
    folder = tmp_path / "model"
    folder.mkdir()
    decoders.gemma2_embedder(folder)
    types = json.loads((folder / "config.json").read_text())["layer_types"]
    config = json.loads((twin.write(read(folder), tmp_path / "twin") / "config.json").read_text())
    assert set(config["layer_types"]) == set(types)
    assert config["sliding_window"] <= twin_scale.WINDOW


def test_a_wrong_reading_shows_on_the_twin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    original = read(wide(tmp_path / "model"))
    monkeypatch.setitem(head_modules.POOLS, "last", head_modules.POOLS["mean"])
    with pytest.raises(VerificationError, match="embed of"):
        library_reference.against_twin(original)


def test_what_makes_no_twin_is_own_reading_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    original = read(wide(tmp_path / "model"))

    def refuse(*arguments: Any) -> Path:
        raise CheckpointError("config.json has no width")

    monkeypatch.setattr(twin, "write", refuse)
    reading = library_reference.against_twin(original)
    assert reading.reference == library_reference.OWN_ONLY
    assert "no width" in reading.why


def test_a_twin_of_published_sizes_reads_headers_only(tmp_path: Path):
    """Qwen3-Embedding of published widths, in bfloat16 shards with an index."""
    sizes = {"num_hidden_layers": 3, "intermediate_size": 1216, "hidden_size": 640, "num_attention_heads": 8}
    # As many as its tokenizer admits
    folder = qwen3(tmp_path / "published", **sizes, max_position_embeddings=128)
    original = read(folder)
    place = twin.write(original, tmp_path / "twin")
    opened = weights.open_folder(place)
    assert (
        max(math.prod(shape) for shape in opened.shapes.values()) < original.parameters / 10
        or len(opened.shapes) < 30
    )
    agreed(library_reference.against_twin(original), "embed")


PICTURED: dict[str, Callable[[Path], Path]] = {
    "nemotron_rerank": nemotron_vl.reranker,
    "phi3_v": phi3v.vlm2vec,
    "jina_m0": qwen2_vl.jina_m0,
    "naflex": towers.naflex,
    "colpali": pages.ALL["colpali"],
    "e5_v": llava.e5_v,
    "smolvlm": idefics.smolvlm,
    "paligemma2": gemmas.paligemma2,
    "gemma3": gemmas.gemma3,
    "colqwen2": qwen2_vl.colqwen2,
    "colqwen3_5": qwen3_5.colqwen3_5,
}
QUICK = ("nemotron_rerank", "phi3_v", "jina_m0")


def shown(reading: Reading) -> None:
    assert reading.twin
    whats = {agreement.what for agreement in reading.agreements}
    assert "prepared pictures" in whats, reading.why
    assert [
        what for what in whats if what.endswith("of prompts with pictures") or what == "embed of pictures"
    ]


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in PICTURED]
)
def test_twins_of_models_that_read_pictures_are_shown_some(name: str, tmp_path: Path):
    shown(library_reference.against_twin(read(PICTURED[name](tmp_path / name))))


@pytest.mark.parametrize("name", ["colqwen3_4b", pytest.param("e5_v_8b", marks=pytest.mark.slow)])
def test_both_halves_of_published_sizes_shrink(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(large, "_shard", large.hollow)
    (tmp_path / name).mkdir()
    original = read(large.LARGE[name](tmp_path / name))
    folder = twin.write(original, tmp_path / "twin")
    shapes = weights.open_folder(folder).shapes
    rows = original.config["vocab_size"]
    others = [math.prod(shape) for shape in shapes.values() if shape[0] < rows]
    assert max(others) < 200_000
    shown(library_reference.against_twin(original))


def test_a_wrong_reading_of_pictures_shows_on_the_twin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    original = read(nemotron_vl.reranker(tmp_path / "model"))
    plain = tiles.shuffled
    monkeypatch.setattr(tiles, "shuffled", lambda states, factor: plain(states, factor).flip(-1))
    with pytest.raises(VerificationError, match="classify of pictures otherwise"):
        library_reference.against_twin(original)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "qwen3_reranker", "gte_qwen2", "e5_mistral", "llama3_causal", "bge_gemma", "gemma2_embedder",
        "embedding_gemma2",
        "modernbert_reranker", "modernbert_embedder", "splade_bert", "splade_modernbert",
        "colbert_modernbert", "lfm2_colbert",
        "roberta_multi_label", "bert_tokens", "mpnet_embedder", "albert_classifier", "distilbert_classifier",
        "electra_reranker",
        "gpt2_classifier", "gpt_neox_embedder", "nomic_v15", "qwen2_reward", "jina_reranker_v3",
    ],
)  # fmt: skip
def test_twins_of_every_family_are_read_alike(name: str, tmp_path: Path):
    import tests.checkpoints as tiny

    (tmp_path / name).mkdir()
    folder = (tiny.ALL.get(name) or find(name))(tmp_path / name)
    reading = library_reference.against_twin(read(folder))
    assert reading.twin, reading.why
    assert reading.reference.startswith(("sentence-transformers", "transformers")), reading.why


# Recipe -> a tiny checkpoint in the layout of the model it is for. Recipes of one layout and no settings
# of their own share one.
RECIPES = {
    "GTE-ModernColBERT-v1": "colbert_modernbert", "LFM2-ColBERT-350M": "lfm2_colbert",
    "NeuroBERT-NER": "bert_tokens",
    "Qwen2-7B-Instruct-embed-base": "qwen2_ssmits", "Qwen2.5-1.5B-apeach": "qwen2_apeach",
    "Qwen2.5-Math-PRM-7B": "qwen2_process_reward",
    "Qwen2.5-Math-RM-72B": "qwen2_reward", "Qwen3-Embedding": "qwen3_embedding",
    "Qwen3-Embedding-0.6B": "qwen3_embedding",
    "Qwen3-Reranker": "qwen3_reranker", "Qwen3-Reranker-0.6B-seq-cls": "qwen3_seq_cls",
    "all-MiniLM-L6-v2": "minilm_like",
    "all-roberta-large-v1": "roberta_embedder", "answerai-colbert-small-v1": "colbert",
    "bge-base-en-v1.5": "bert_sharded",
    "bge-m3": "bge_m3", "bge-multilingual-gemma2": "gemma2_embedder", "bge-reranker-base": "xlmr_reranker",
    "bge-reranker-v2-gemma": "bge_gemma", "colbertv2.0": "colbert", "e5-mistral-7b-instruct": "e5_mistral",
    "e5-small": "minilm_like",
    "electrical-ner-ModernBERT-base": "modernbert_tokens", "embeddinggemma-2": "embedding_gemma2",
    "embeddinggemma-300m": "embedding_gemma", "gte-Qwen2-instruct": "gte_qwen2", "gte-base": "minilm_like",
    "gte-modernbert-base": "modernbert_embedder", "gte-reranker-modernbert-base": "modernbert_reranker",
    "jina-reranker-v3": "jina_reranker_v3", "ms-marco-MiniLM-L6-v2": "bert_cross_encoder",
    "multilingual-e5-base": "xlmr_embedder",
    "mxbai-rerank-v2": "mxbai_rerank", "nomic-embed-text-v1.5": "nomic_v15",
    "quora-roberta-base": "roberta_cross_encoder",
    "reranker-ModernBERT-large-gooaq-bce": "modernbert_reranker",
    "snowflake-arctic-embed-l-v2.0": "xlmr_embedder",
    "snowflake-arctic-embed-m-v1.5": "bert_sharded", "splade-v3": "splade_bert",
    "text2vec-base-chinese": "minilm_like",
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_whose_class_transformers_has_is_read_alike(name: str, tmp_path: Path):
    import tests.checkpoints as tiny

    recipe = next(each for each in recipes.all_recipes() if each.name == name)
    (tmp_path / "model").mkdir()
    long: dict[str, Any] = {"max_position_embeddings": 1024} if recipe.score_template else {}
    folder = (tiny.ALL.get(RECIPES[name]) or find(RECIPES[name]))(tmp_path / "model", **long)
    reading = library_reference.against_twin(read(folder, recipe=recipe))
    assert reading.reference.startswith(("sentence-transformers", "transformers")), reading.why
    assert len(reading.agreements) >= 2
