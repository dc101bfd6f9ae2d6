"""Export compares prompts with pictures with transformers' own class: what it says, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from poolrt.exporter.families.modules import qwen3_vl as towers
from poolrt.exporter.files.pictures import processor
from poolrt.exporter.proof import library_reference
from poolrt.runtime.artifact.manifest import Reading
from poolrt.runtime.errors import VerificationError

from tests.families import qwen3_vl as tiny

FAMILIES: dict[str, tuple[Callable[..., Path], dict[str, Any], str]] = {
    "embedding": (tiny.qwen3_vl_embedding, {"sentence": True, "tied": False, "dtype": "bfloat16"}, "embed"),
    "reranker": (tiny.qwen3_vl_reranker, {"sentence": True, "tied": False}, "classify"),
    "colqwen3": (tiny.colqwen3, {}, "token_embed"),
    "ops_colqwen3": (tiny.ops_colqwen3, {"dims": 40}, "token_embed"),
    "nemotron_colembed": (tiny.nemotron_colembed, {}, "token_embed"),
}


def compared(folder: Path, **options: Any) -> Reading:
    return library_reference.compare(folder, recipe=None, **options)


@pytest.mark.parametrize("name", FAMILIES)
def test_answers_to_pictures_are_those_of_transformers(name: str, tmp_path: Path):
    builder, arguments, task = FAMILIES[name]
    reading = compared(builder(tmp_path / name, **arguments))
    assert reading.reference.endswith("Qwen3VLForConditionalGeneration")
    counts = {agreement.what: agreement.texts for agreement in reading.agreements}
    assert counts["prepared pictures"] == 4
    assert counts[f"{task} of prompts with pictures"] == 5


def test_a_reranker_of_vllms_overrides_is_compared(tmp_path: Path):
    folder = tiny.qwen3_vl_reranker(tmp_path / "reranker", tied=False)
    reading = compared(folder, hf_overrides=tiny.RERANKER)
    assert reading.agreements[-1].what == "classify of prompts with pictures"


def _without_levels(tower: towers.TextTower) -> None:
    tower.levels = 0


def _causal(tower: towers.TextTower) -> None:
    tower.causal = True


def _mixed_axes(tower: towers.TextTower) -> None:
    tower.axis = torch.nn.Buffer(torch.zeros_like(tower.axis))


@pytest.mark.parametrize("fault", [_without_levels, _causal, _mixed_axes])
def test_another_computation_is_refused(
    fault: Callable[[towers.TextTower], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder = tiny.nemotron_colembed(tmp_path / "nemotron")
    plain = towers.TextTower.__init__

    def wrong(self: towers.TextTower, *arguments: Any, **options: Any) -> None:
        plain(self, *arguments, **options)
        fault(self)

    monkeypatch.setattr(towers.TextTower, "__init__", wrong)
    with pytest.raises(VerificationError, match="token_embed of pictures otherwise"):
        compared(folder)


def test_another_preparation_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = tiny.qwen3_vl_embedding(tmp_path / "embedding")

    def half(*_: Any) -> tuple[Any, Any]:
        return processor.CLIP_MEAN, processor.HALF

    monkeypatch.setattr(processor.Settings, "normalisation", half)
    with pytest.raises(VerificationError, match=r"prepares pictures otherwise than Qwen2VLImageProcessor"):
        compared(folder)


def test_another_budget_of_pixels_is_another_number_of_tokens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder = tiny.qwen3_vl_embedding(tmp_path / "embedding")

    def size(*_: Any) -> dict[str, int]:
        return {"shortest_edge": 4096, "longest_edge": 8192}

    monkeypatch.setattr(processor.Settings, "size", size)
    with pytest.raises(VerificationError, match=r"with 1 pictures as \d+ tokens, .* otherwise, as \d+"):
        compared(folder)


def test_a_class_that_finds_no_weights_is_no_reference(tmp_path: Path):
    """The export goes on; the manifest says what was not compared."""
    folder = tiny.qwen3_vl_embedding(tmp_path / "embedding")
    (folder / "preprocessor_config.json").write_text('{"image_processor_type": "Unknown"}', encoding="utf-8")
    from poolrt.exporter.proof.pictures import beside, qwen_vl

    with pytest.raises(beside.Missing, match="Qwen3VLForConditionalGeneration does not open"):
        qwen_vl.QwenVL(folder, {}, "Qwen3VLModel")
