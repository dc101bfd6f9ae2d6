"""Export compares pictures of every family with classes of transformers: what the manifest says of it, and
that one wrong step is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from poolrt.exporter.families import _pages
from poolrt.exporter.families.modules import clip_tiles, features, naflex, tiles
from poolrt.exporter.files.pictures import processor
from poolrt.exporter.proof import library_reference
from poolrt.runtime.artifact.manifest import Reading
from poolrt.runtime.errors import VerificationError
from poolrt.runtime.inputs.tilings import cut, grids

from tests.families import gemmas, idefics, llava, nemotron_vl, phi3v, qwen2_vl, towers

# Name -> a checkpoint, the class whose answers are compared, and the task
FAMILIES: dict[str, tuple[Callable[[Path], Path], str, str]] = {
    "llava_next": (llava.e5_v, "LlavaNextForConditionalGeneration", "embed"),
    "nemotron_embed": (nemotron_vl.embedder, "SiglipVisionModel and LlamaModel", "embed"),
    "nemotron_rerank": (nemotron_vl.reranker, "SiglipVisionModel and LlamaModel", "classify"),
    "phi3_v": (phi3v.phi3v_other, "CLIPVisionModel and Phi3Model", "embed"),
    "idefics3": (idefics.idefics3, "Idefics3ForConditionalGeneration", "token_embed"),
    "smolvlm": (idefics.smolvlm, "SmolVLMForConditionalGeneration", "embed"),
    "col_smol": (idefics.col_smol, "Idefics3ForConditionalGeneration", "token_embed"),
    "paligemma2": (gemmas.paligemma2, "PaliGemmaForConditionalGeneration", "embed"),
    "gemma3": (gemmas.gemma3, "Gemma3ForConditionalGeneration", "embed"),
    "jina_m0": (qwen2_vl.jina_m0, "Qwen2VLForConditionalGeneration", "classify"),
    "naflex": (towers.naflex, "Siglip2Model", "embed"),
}


def compared(name: str, place: Path) -> Reading:
    return library_reference.compare(FAMILIES[name][0](place / name), recipe=None)


@pytest.mark.parametrize("name", FAMILIES)
def test_answers_to_pictures_are_those_of_transformers(name: str, tmp_path: Path) -> None:
    reading = compared(name, tmp_path)
    _, published, task = FAMILIES[name]
    assert reading.reference.endswith(published)
    assert "pictures were prepared by" in reading.why
    assert ("transformers has no class of the whole" in reading.why) == (" and " in published)
    counts = {agreement.what: agreement.texts for agreement in reading.agreements}
    assert counts["prepared pictures"] == 4
    apart = f"{task} of pictures"
    assert counts.get(apart, 0) == 4 if name == "naflex" else counts[f"{task} of prompts with pictures"] == 5


def _wrong_mean(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(processor.Settings, "normalisation", lambda *_: (processor.HALF, processor.CLIP_STD))


def _wrong_order(patch: pytest.MonkeyPatch) -> None:
    plain = cut.pieces
    patch.setattr(grids, "pieces", lambda *arguments: [*plain(*arguments)][::-1])


def _another_grid(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(grids, "ENOUGH", 6.0)


def _changed(patch: pytest.MonkeyPatch, module: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    plain = module.forward

    def wrong(self: Any, *arguments: Any, **options: Any) -> torch.Tensor:
        return change(plain(self, *arguments, **options))

    patch.setattr(module, "forward", wrong)


def _no_line_end(patch: pytest.MonkeyPatch) -> None:
    _changed(patch, clip_tiles.LineTower, lambda rows: torch.cat((rows[:, :-1], rows[:, -1:] * 0), dim=1))


def _border_for_line_end(patch: pytest.MonkeyPatch) -> None:
    _changed(patch, clip_tiles.BorderTower, lambda rows: torch.cat((rows[:, :-2], rows[:, -2:].flip(1)), 1))


def _columns_first(patch: pytest.MonkeyPatch) -> None:
    plain = tiles.shuffled
    patch.setattr(tiles, "shuffled", lambda states, factor: plain(states, factor).flip(-1))


def _tables_upper_left(patch: pytest.MonkeyPatch) -> None:
    def wrong(side: int, positions: int) -> torch.Tensor:
        return (torch.arange(side)[:, None] * positions + torch.arange(side)).flatten()

    patch.setattr(tiles, "buckets", wrong)


def _causal_in_pictures(patch: pytest.MonkeyPatch) -> None:
    plain = features.BlockText.masks
    patch.setattr(
        features.BlockText, "masks", lambda self, mask, shown: plain(self, mask, torch.zeros_like(shown))
    )


def _without_the_line_break(patch: pytest.MonkeyPatch) -> None:
    plain = _pages.expression
    patch.setattr(_pages, "expression", lambda *parts: plain(*parts[:-1]))


def _turned_positions(patch: pytest.MonkeyPatch) -> None:
    plain = naflex.NaFlexTower.places
    patch.setattr(
        naflex.NaFlexTower,
        "places",
        lambda self, places: plain(self, places[..., torch.tensor([1, 0, 3, 2])]),
    )


FAULTS: dict[str, tuple[str, Callable[[pytest.MonkeyPatch], None], str]] = {
    "mean": ("llava_next", _wrong_mean, "prepares pictures otherwise than LlavaNextImageProcessor"),
    "order of tiles": ("nemotron_embed", _wrong_order, "prepares pictures otherwise than Pillow"),
    "grid": ("nemotron_rerank", _another_grid, r"with \d pictures as \d+ tokens"),
    "image_newline": ("llava_next", _no_line_end, "embed of pictures otherwise"),
    "rows of line and border": ("phi3_v", _border_for_line_end, "embed of pictures otherwise"),
    "shuffle of pixels": ("nemotron_rerank", _columns_first, "classify of pictures otherwise"),
    "places in the table": ("idefics3", _tables_upper_left, "embed of pictures otherwise"),
    "attention in a picture": ("gemma3", _causal_in_pictures, "embed of pictures otherwise"),
    "prompt": ("paligemma2", _without_the_line_break, r"with \d pictures as \d+ tokens"),
    "positions of patches": ("naflex", _turned_positions, "embeds pictures otherwise"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_one_wrong_step_is_refused(fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name, wrong, reason = FAULTS[fault]
    wrong(monkeypatch)
    with pytest.raises(VerificationError, match=reason):
        compared(name, tmp_path)
