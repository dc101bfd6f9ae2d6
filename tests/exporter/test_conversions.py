"""Models that write words about pictures, made embedders and classifiers: prompts and numbers beside
transformers' classes and their Pillow processors."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from poolrt.exporter import checkpoint
from poolrt.exporter.graph import tracing
from poolrt.exporter.heads import planning
from poolrt.runtime import PoolingParams, load
from poolrt.runtime.artifact.manifest import Manifest
from poolrt.runtime.errors import CheckpointError

from tests.checkpoints import configure
from tests.conftest import exported
from tests.families import gemmas, idefics, proof
from tests.families.converted import Reference
from tests.families.natives import tensors
from tests.families.pages import PAGES

COSINE = 1 - 1e-6  # float32 on both sides
PIL = {"backend": "pil"}
LOGITS = PoolingParams(use_activation=False)
PROMPTS: tuple[tuple[str, tuple[Any, ...]], ...] = (
    ("what is the capital of france", ()),
    ("red", ()),
    *(("red <image> paris", (page,)) for page in PAGES),
    ("<image> what is this <image>", PAGES[:2]),
)
EMBEDDERS: dict[str, tuple[Callable[[Path], Path], dict[str, str]]] = {
    "smolvlm": (idefics.smolvlm, {"name": "SmolVLM", "processor": "Idefics3"}),
    "paligemma2": (gemmas.paligemma2, {"name": "PaliGemma", "pictures": "Siglip"}),
    "gemma3": (gemmas.gemma3, {"name": "Gemma3"}),
}
"""Name -> how the checkpoint is written, and arguments of its reference."""
CLASSIFIERS: dict[str, tuple[Callable[[Path], Path], dict[str, str]]] = {
    "idefics3": (idefics.idefics3, {"name": "Idefics3"}),
    "paligemma": (gemmas.paligemma, {"name": "PaliGemma", "pictures": "Siglip"}),
}


def prompts(manifest: Manifest) -> list[tuple[str, tuple[Any, ...]]]:
    """PROMPTS with the model's own placeholder of a picture."""
    assert manifest.images is not None
    return [(text.replace("<image>", manifest.images.placeholder), pages) for text, pages in PROMPTS]


def asked(text: str, pages: tuple[Any, ...]) -> Any:
    """A prompt of the runtime."""
    return {"prompt": text, "multi_modal_data": {"image": list(pages)}} if pages else text


@pytest.mark.parametrize("name", EMBEDDERS)
def test_pictures_and_words_become_the_vectors_of_transformers(name: str, tmp_path: Path) -> None:
    write, facts = EMBEDDERS[name]
    theirs = Reference(write(tmp_path / name), **facts)
    artifact = exported(f"converted-{name}", lambda folder: write(folder / name), convert="embed")
    with load(artifact, mm_processor_kwargs=PIL) as model:
        proof.shown(model.manifest)
        assert model.manifest.heads["embed"].pool == "last"
        ours, expected = [], []
        for text, pages in prompts(model.manifest):
            ids, vector = theirs.last(text, *pages)
            [answer] = model.embed([asked(text, pages)])
            assert answer.prompt_token_ids == ids
            ours.append(np.asarray(answer.outputs.embedding))
            expected.append(vector)
        assert proof.cosines(ours, expected).min() > COSINE


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_head_behind_the_last_token_gives_the_logits_of_its_labels(name: str, tmp_path: Path) -> None:
    write, facts = CLASSIFIERS[name]
    folder = write(tmp_path / name)
    theirs, weight = Reference(folder, **facts), tensors(folder)["score.weight"].float().numpy()
    artifact = exported(f"converted-{name}", lambda place: write(place / name), convert="classify")
    with load(artifact, mm_processor_kwargs=PIL) as model:
        proof.shown(model.manifest)
        assert model.manifest.heads["classify"].labels == ("page", "photo", "chart")
        ours, expected = [], []
        for text, pages in prompts(model.manifest):
            ids, vector = theirs.last(text, *pages)
            [answer] = model.classify([asked(text, pages)], pooling_params=LOGITS)
            assert answer.prompt_token_ids == ids
            ours.append(np.asarray(answer.outputs.probs, np.float32))
            expected.append(weight @ vector)
        assert proof.differences(ours, expected) < proof.DIFFERENCE


@pytest.mark.parametrize(
    ("write", "settings", "reason"),
    [
        (idefics.smolvlm, {"image_processor_type": "Idefics2ImageProcessor"}, "tiles poolrt does not cut"),
        (idefics.smolvlm, {"max_image_size": {"longest_edge": 49}}, "have 7 patches of 7 a side, of which 2"),
        (gemmas.gemma3, {"do_pan_and_scan": True}, "adds crops of a picture"),
        (gemmas.paligemma2, {"image_seq_length": 9}, "the vision model makes 16 features"),
    ],
    ids=["class", "size", "crops", "features"],
)
def test_processors_that_are_not_known_are_refused(
    tmp_path: Path, write: Callable[[Path], Path], settings: dict[str, Any], reason: str
) -> None:
    folder = write(tmp_path / "strange")
    path = folder / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    with pytest.raises(CheckpointError, match=reason):
        planning.plan(checkpoint.read(folder, recipe=None, convert="embed"))


@pytest.mark.parametrize(
    ("write", "settings", "reason"),
    [
        (gemmas.gemma3, {"mm_tokens_per_image": 16}, "6 patches a side are not averaged to it"),
        (gemmas.gemma3, {"boi_token_index": 5}, "boi_token is token 5 in config.json"),
        (
            gemmas.paligemma2,
            {"text_config": {"model_type": "qwen2"}},
            "over 'qwen2'; expected gemma or gemma2",
        ),
    ],
    ids=["squares", "token", "text"],
)
def test_settings_that_are_not_known_are_refused(
    tmp_path: Path, write: Callable[[Path], Path], settings: dict[str, Any], reason: str
) -> None:
    folder = write(tmp_path / "strange")
    configure(folder, **settings)
    read = checkpoint.read(folder, recipe=None, convert="embed")
    with pytest.raises(CheckpointError, match=reason):
        tracing.module(read, planning.plan(read))
