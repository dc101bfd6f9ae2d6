"""Export compares pages and questions with transformers' ColPali and ColModernVBERT, and with their
processors."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from poolrt.exporter.families import _idefics3, colpali
from poolrt.exporter.families.modules import features
from poolrt.exporter.files.pictures import processor
from poolrt.exporter.proof import library_reference
from poolrt.runtime.artifact.manifest import Reading
from poolrt.runtime.errors import VerificationError

from tests.families import pages


def compared(folder: Path) -> Reading:
    return library_reference.compare(folder, recipe=None)


@pytest.mark.parametrize(
    ("name", "published"),
    [("colpali", "ColPaliForRetrieval"), ("colmodernvbert", "ColModernVBertForRetrieval")],
)
def test_vectors_of_pages_and_questions_are_those_of_transformers(
    name: str, published: str, tmp_path: Path
) -> None:
    reading = compared(pages.ALL[name](tmp_path / name))
    assert reading.reference.endswith(published)
    counts = {agreement.what: agreement.texts for agreement in reading.agreements}
    assert counts["prepared pictures"] == 4
    assert counts["token_embed of prompts with pictures"] == 6


def _reversed(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = features.Tower.forward

    def wrong(self: Any, pixel_values: torch.Tensor) -> torch.Tensor:
        return whole(self, pixel_values).flip(1)

    monkeypatch.setattr(features.Tower, "forward", wrong)


def _half(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(*_: Any) -> tuple[Any, Any]:
        return processor.HALF, processor.CLIP_STD

    monkeypatch.setattr(processor.Settings, "normalisation", wrong)


def _shorter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(colpali, "AUGMENTATION", 9)
    monkeypatch.setattr(_idefics3, "AUGMENTATION", "<end_of_utterance>" * 9)


@pytest.mark.parametrize("name", ["colpali_exact", "colmodernvbert"])
@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (_reversed, "token_embed of pictures otherwise"),
        (_half, r"prepares pictures otherwise than \w+ImageProcessor"),
        (_shorter, r"with 0 pictures as \d+ tokens, .* otherwise, as \d+"),
    ],
    ids=["features", "pixels", "question"],
)
def test_another_reading_is_refused(
    name: str,
    fault: Callable[[pytest.MonkeyPatch], None],
    reason: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = pages.ALL[name](tmp_path / name)
    fault(monkeypatch)
    with pytest.raises(VerificationError, match=reason):
        compared(folder)


@pytest.mark.parametrize(
    ("name", "file", "lost", "reason"),
    [
        (
            "colpali_exact",
            "preprocessor_config.json",
            "image_seq_length",
            "ColPaliForRetrieval fails on them",
        ),
        ("colmodernvbert_merged", "config.json", "architectures", "ColModernVBertForRetrieval does not open"),
    ],
)
def test_files_that_the_class_does_not_read_are_exported_and_the_manifest_says_so(
    name: str, file: str, lost: str, reason: str, tmp_path: Path
) -> None:
    folder = pages.ALL[name](tmp_path / name)
    settings = json.loads((folder / file).read_text())
    settings.pop(lost, None)
    (folder / file).write_text(json.dumps(settings))
    reading = compared(folder)
    assert reason in reading.why
    assert [agreement.what for agreement in reading.agreements] == ["token ids"]
