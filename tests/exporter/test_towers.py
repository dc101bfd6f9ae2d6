"""CLIP and SigLIP from the checkpoint to the runtime, beside transformers' own classes."""

from __future__ import annotations

import dataclasses
import functools
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from numpy.typing import NDArray
from poolrt.exporter import checkpoint as checkpoints
from poolrt.exporter.base import artifact as writer
from poolrt.exporter.families.modules.towers import EndOfText
from poolrt.exporter.graph import tracing
from poolrt.exporter.heads import planning
from poolrt.exporter.pipeline import export
from poolrt.exporter.proof import verify
from poolrt.exporter.proof.pictures import beside
from poolrt.exporter.proof.pictures.seen import Seen
from poolrt.runtime import load
from poolrt.runtime.artifact import reading
from poolrt.runtime.errors import CheckpointError, VerificationError
from poolrt.runtime.inputs.media import prepared

from tests import pictures
from tests.conftest import exported
from tests.families import proof, towers
from tests.serve.picture_cases import SERVERS
from tests.serve.picture_cases import artifact as shared

Floats = NDArray[np.float32]
SAME = 3e-6
"""Largest difference of unit vectors in float32: other kernels of attention and other orders of sums. Worst
measured 7e-7."""
TEXTS = ("a photo of a cat", "two cats sleeping on a pink couch", "x", "numbers 1 2 3 " * 30)
PICTURES = tuple(pictures.drawn(*size) for size in ((40, 70), (200, 100), (33, 500), (1, 1)))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """`checkpoint("clip")`: that tiny checkpoint."""
    home = tmp_path_factory.mktemp("towers")

    @functools.cache
    def folder(name: str) -> Path:
        # Those that vLLM's answers were recorded of are exported anyway.
        options = SERVERS[name].options if name in SERVERS else {}
        return towers.ALL[name](home / name, **options)

    return folder


@pytest.fixture(scope="module")
def artifact() -> Callable[[str], Path]:
    """`artifact("clip")`: its artifact."""

    def folder(name: str) -> Path:
        if name in SERVERS:
            return shared(name)
        return exported(f"towers-{name}", lambda place: towers.ALL[name](place / name))

    return folder


def theirs(folder: Path) -> Any:
    return transformers.AutoModel.from_pretrained(folder, dtype=torch.float32).eval()


def unit(output: Any) -> Floats:
    vectors = getattr(output, "pooler_output", output).float().numpy()
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def texts_of(folder: Path, model: Any) -> Floats:
    """The texts as transformers' processors read them: CLIP pads to the longest, SigLIP to 64."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    clip = model.config.model_type == "clip"
    limits = {"padding": True, "max_length": 77} if clip else {"padding": "max_length", "max_length": 64}
    read = tokenizer(list(TEXTS), truncation=True, return_tensors="pt", **limits)
    used = {name: read[name] for name in ("input_ids", *(["attention_mask"] if clip else []))}
    with torch.inference_mode():
        return unit(model.get_text_features(**used))


def pictures_of(artifact: Path, model: Any) -> Floats:
    """The pictures that our preparation made, through transformers' class."""
    images = reading.read(artifact).manifest.images
    assert images is not None
    rows = [prepared.image(images, picture).items[0].arrays["pixel_values"] for picture in PICTURES]
    with torch.inference_mode():
        return unit(model.get_image_features(pixel_values=torch.from_numpy(np.stack(rows))))


def compared(folder: Path, artifact: Path) -> None:
    reference = theirs(folder)
    with load(artifact) as model:
        proof.shown(model.manifest)
        texts = np.asarray(model.embed(list(TEXTS), truncate_prompt_tokens=-1))
        seen = np.asarray(model.embed([{"image": picture} for picture in PICTURES]))
        alone = np.asarray(model.embed([TEXTS[2]]))
    expected = np.concatenate([texts_of(folder, reference), pictures_of(artifact, reference)])
    ours = np.concatenate([texts, seen])
    np.testing.assert_allclose(ours, expected, atol=SAME)
    np.testing.assert_allclose(alone[0], texts[2], atol=SAME)
    assert proof.cosines(list(ours), list(expected)).min() > proof.COSINE


@pytest.mark.parametrize(
    "name", ["clip", pytest.param("clip_legacy", marks=pytest.mark.slow), "siglip", "siglip2"]
)
def test_texts_and_pictures_are_embedded_as_transformers_does(
    name: str, checkpoint: Callable[[str], Path], artifact: Callable[[str], Path]
) -> None:
    compared(checkpoint(name), artifact(name))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("write", "options"),
    [
        (towers.clip, {"seed": 5, "heads": 3, "side": 48, "patch": 16}),
        (towers.clip, {"seed": 6, "dtype": torch.bfloat16}),
        (towers.siglip2, {"seed": 7, "heads": 4, "side": 40, "max_shard_size": "40KB"}),
        (towers.siglip, {"seed": 8, "dtype": torch.bfloat16, "text": {"max_position_embeddings": 16}}),
    ],
    ids=["other sizes", "bf16", "sharded", "short texts"],
)
def test_other_seeds_sizes_and_files(write: Any, options: dict[str, Any], tmp_path: Path) -> None:
    folder = write(tmp_path / "checkpoint", **options)
    export(folder, name="out", out=tmp_path)
    reference = theirs(folder)
    with load(tmp_path / "out") as model:
        seen = np.asarray(model.embed([{"image": picture} for picture in PICTURES]))
    np.testing.assert_allclose(seen, pictures_of(tmp_path / "out", reference), atol=SAME)


@pytest.mark.parametrize(("end", "places"), [(9, [2, 1]), (None, [2, 3])], ids=["stated", "legacy"])
def test_a_text_of_clip_is_pooled_at_its_first_end(end: int | None, places: list[int]) -> None:
    """In files from before transformers 4.31 the highest id ends a text, whatever config.json states."""
    ids = torch.tensor([[8, 3, 9, 9], [8, 9, 3, 10]])
    mask = EndOfText(end)(ids, torch.ones_like(ids))
    assert mask.argmax(1).tolist() == places
    assert mask.sum(1).tolist() == [1, 1]


def test_siglip_texts_are_lower_cased_and_without_punctuation(artifact: Callable[[str], Path]) -> None:
    with load(artifact("siglip")) as one, load(artifact("siglip2")) as two:
        assert one.tokenize("  A Photo, of: a CAT!") == one.tokenize("a photo of a cat")
        assert two.tokenize("A Photo, of a CAT!") == two.tokenize("a photo, of a cat!")
        assert two.tokenize("a cat!") != two.tokenize("a cat")


def test_padding_of_the_models_own_is_not_counted(artifact: Callable[[str], Path]) -> None:
    with load(artifact("siglip2")) as model:
        output = model.embed("a cat")
        assert output[0].prompt_token_ids is not None
        assert output.prompt_tokens == len(model.tokenize("a cat"))


@pytest.mark.parametrize("word", ["CLS", "LAST"])
def test_both_words_of_vllm_mean_the_models_own_vector(word: str, checkpoint: Callable[[str], Path]) -> None:
    plan = planning.plan(checkpoints.read(checkpoint("clip"), pooler_config={"pooling_type": word}))
    assert plan.heads["embed"].pool == "last"


def test_any_other_pooling_is_refused(checkpoint: Callable[[str], Path]) -> None:
    opened = checkpoints.read(checkpoint("clip"), pooler_config={"pooling_type": "MEAN"})
    with pytest.raises(CheckpointError, match="one vector of its own"):
        planning.plan(opened)


def test_pictures_are_proved_and_kept(artifact: Callable[[str], Path], tmp_path: Path) -> None:
    folder = artifact("clip")
    manifest = reading.read(folder).manifest
    rows = [row for row in manifest.evidence if row.shape == "pictures"]
    assert [(row.engine, row.texts >= 6) for row in rows] == [("onnxruntime:vision.onnx", True)]
    whats = {agreement.what for agreement in manifest.reading.agreements} if manifest.reading else set()
    assert "embed" in whats
    evidence, _ = verify.against_golden(folder, manifest)
    assert {row.shape for row in evidence} >= {"golden pictures together", "golden pictures alone"}
    changed = Path(shutil.copytree(folder, tmp_path / "changed"))
    arrays = writer.read_golden(changed)
    arrays["prepared pictures"] = np.array(["0" * 64 for _ in arrays["prepared pictures"]])
    writer.write_golden(changed, arrays)
    with pytest.raises(VerificationError, match="prepares the golden pictures 40 x 70"):
        verify.against_golden(changed, manifest)


def test_a_wrong_reading_of_the_processor_is_caught(checkpoint: Callable[[str], Path]) -> None:
    pytest.importorskip("PIL")
    opened = checkpoints.read(checkpoint("clip"))
    plan = planning.plan(opened)
    module = tracing.module(opened, plan)
    pictures = tracing.picture_module(opened, plan, module)
    assert plan.vision is not None
    assert pictures is not None
    wrong = dataclasses.replace(plan.vision.images, mean=(0.5, 0.5, 0.5))
    with pytest.raises(VerificationError, match="prepares pictures otherwise than CLIPImageProcessor"):
        beside.compared(
            "clip", opened.inner, wrong, Seen(pictures), lambda values: values["pixel_values"], unit=True
        )
