"""Llama-Nemotron-VL: prompts, tiles and numbers beside transformers' classes, through exported artifacts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from poolrt.exporter import checkpoint
from poolrt.exporter.graph import tracing
from poolrt.exporter.heads import planning
from poolrt.runtime import load
from poolrt.runtime.artifact.manifest import RoleName
from poolrt.runtime.errors import CheckpointError
from poolrt.runtime.inputs.media import prepared
from poolrt.runtime.model import Model
from tokenizers import Tokenizer

from tests.checkpoints import configure, rewrite_weights
from tests.conftest import exported
from tests.families import nemotron_vl, proof
from tests.painted import painted

COSINE = 1 - 1e-6  # float32 on both sides; worst measured 1 - 2e-7
SCORE = 1e-5  # of probabilities
PAGES = [
    painted(*size, seed) for seed, size in enumerate([(70, 40), (200, 100), (33, 500), (64, 48), (1, 1)])
]
WORDS = "what is the capital of france"


def opened(name: str, workplace: Path) -> tuple[Model, nemotron_vl.Parts, Tokenizer]:
    artifact = exported(f"nemotron-vl-{name}", lambda folder: nemotron_vl.ALL[name](folder / name))
    folder = nemotron_vl.ALL[name](workplace / name)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    return load(artifact), nemotron_vl.Parts(folder), tokenizer


def cosine(ours: Any, theirs: torch.Tensor) -> float:
    return float(proof.cosines([np.asarray(ours)], [theirs.numpy()])[0])


def tiles(model: Model, page: Any) -> Any:
    assert model.manifest.images is not None
    return np.stack(
        [item.arrays["pixel_values"] for item in prepared.image(model.manifest.images, page).items]
    )


@pytest.mark.parametrize("name", ["embedder", pytest.param("embedder_other", marks=pytest.mark.slow)])
def test_pages_and_words_become_the_vectors_of_the_authors_classes(name: str, tmp_path: Path) -> None:
    model, parts, tokenizer = opened(name, tmp_path)
    images = model.manifest.images
    assert images is not None
    proof.shown(model.manifest)
    with model:
        prefixes: dict[RoleName, str] = {"query": "query: ", "document": "passage: "}
        for role, prefix in prefixes.items():
            [answer] = model.embed([WORDS], role=role)
            ids = tokenizer.encode(prefix + WORDS).ids
            assert answer.prompt_token_ids == ids
            assert cosine(answer.outputs.embedding, parts.pooled(ids)) > COSINE
        for page in PAGES:
            [answer] = model.embed([{"text": "red", "image": page}], role="document")
            cut = tiles(model, page)
            context = nemotron_vl.CONTEXT * (images.tokens * len(cut))
            ids = tokenizer.encode(f"passage: <img>{context}</img> red").ids
            assert answer.prompt_token_ids == ids
            assert cosine(answer.outputs.embedding, parts.pooled(ids, cut)) > COSINE


def test_pairs_become_the_scores_of_the_authors_classes(tmp_path: Path) -> None:
    model, parts, tokenizer = opened("reranker", tmp_path)
    images = model.manifest.images
    assert images is not None
    assert parts.score is not None
    proof.shown(model.manifest)
    with model:
        for page in (None, *PAGES):
            document: Any = "paris" if page is None else {"text": "paris", "image": page}
            [answer] = model.score(WORDS, [document])
            cut = None if page is None else tiles(model, page)
            front = "" if cut is None else f"<img>{nemotron_vl.CONTEXT * (images.tokens * len(cut))}</img> "
            ids = tokenizer.encode(f"{front}question:{WORDS} \n \n passage:paris").ids
            assert answer.prompt_token_ids == ids
            expected = torch.sigmoid(parts.score @ parts.pooled(ids, cut))
            assert proof.differences([np.array([answer.outputs.score])], [expected.numpy()]) < SCORE


def test_a_processor_of_another_version_writes_a_pair_without_words(tmp_path: Path) -> None:
    folder = nemotron_vl.reranker(tmp_path / "other", processor={"prompt_template": "v2"})
    read = checkpoint.read(folder, recipe=None)
    assert read.family.score_template is not None
    model, _, tokenizer = opened("reranker", tmp_path)
    with model:
        template = read.family.score_template(read)
        [answer] = model.score(WORDS, ["paris"], chat_template=template)
        assert tokenizer.decode(list(answer.prompt_token_ids)) == f"{WORDS} \n paris"


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"select_layer": -2}, "select_layer -2 of Llama-Nemotron-VL; expected -1"),
        ({"ps_version": "v1"}, "ps_version 'v1' of Llama-Nemotron-VL; expected 'v2'"),
        ({"downsample_ratio": 0.3}, "downsample_ratio 0.3; expected one by a whole number"),
        ({"img_context_token_id": 99999}, "img_context_token_id 99999 is no token"),
        ({"force_image_size": 32}, "the vision model has positions for 64 x 64 pixels"),
    ],
    ids=["layer", "shuffle", "ratio", "token", "size"],
)
def test_settings_that_are_not_known_are_refused(
    tmp_path: Path, settings: dict[str, Any], reason: str
) -> None:
    folder = nemotron_vl.embedder(tmp_path / "strange")
    configure(folder, **settings)
    read = checkpoint.read(folder, recipe=None)
    with pytest.raises(CheckpointError, match=reason):
        tracing.module(read, planning.plan(read))


def test_tensors_without_a_place_are_refused(tmp_path: Path) -> None:
    folder = nemotron_vl.embedder(tmp_path / "more")
    rewrite_weights(folder, lambda name: name.replace("mlp1.3", "mlp2.3"))
    read = checkpoint.read(folder, recipe=None)
    with pytest.raises(CheckpointError, match=r"no place for: mlp2\.3\.bias, mlp2\.3\.weight"):
        read.family.load(read)
