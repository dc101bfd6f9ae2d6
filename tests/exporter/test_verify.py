"""Verification accepts what is right and refuses what is not, however it came to be wrong."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from poolrt.exporter import pipeline
from poolrt.exporter.proof import evidence, verify
from poolrt.runtime.artifact.digests import sha256
from poolrt.runtime.artifact.manifest import Evidence, File, Manifest
from poolrt.runtime.artifact.reading import read, sealed
from poolrt.runtime.errors import ArtifactError, CheckpointError, VerificationError


def resealed(folder: Path, manifest: Manifest) -> None:
    """Lists the files as they are now: a change that no hash can tell."""
    files = {
        name: File(size=(folder / name).stat().st_size, sha256=sha256(folder / name))
        for name in manifest.files
    }
    (folder / "manifest.json").write_bytes(sealed(dataclasses.replace(manifest, files=files)))


@pytest.fixture
def copied(artifacts: Callable[[str], Path], tmp_path: Path) -> Callable[[str], tuple[Path, Manifest]]:
    def copy(name: str) -> tuple[Path, Manifest]:
        folder = shutil.copytree(artifacts(name), tmp_path / name)
        return folder, read(folder).manifest

    return copy


@pytest.mark.parametrize(
    "name", ["minilm_like", "colbert", "bert_cross_encoder", "bert_classifier", "bert_tokens", "bge_m3"]
)
def test_an_artifact_proves_itself_without_its_checkpoint(
    artifacts: Callable[[str], Path], name: str
) -> None:
    report = pipeline.verified(artifacts(name))
    assert {each.task for each in report.evidence} == set(report.tasks)
    assert {each.shape for each in report.evidence} == {"golden together", "golden alone"}


def test_it_is_proved_against_its_checkpoint(
    artifacts: Callable[[str], Path], checkpoints: Callable[[str], Path]
) -> None:
    report = pipeline.verified(artifacts("minilm_like"), against=checkpoints("minilm_like"))
    shapes = {each.shape for each in report.evidence}
    assert shapes >= {
        "one short",
        "one long",
        "odd batch",
        "padded rows",
        "longest",
        "hardly anything",
        "other languages",
    }


def test_another_checkpoint_is_refused(
    artifacts: Callable[[str], Path], checkpoints: Callable[[str], Path]
) -> None:
    with pytest.raises(CheckpointError, match="not the weights"):
        pipeline.verified(artifacts("minilm_like"), against=checkpoints("roberta_embedder"))


def test_a_tampered_weight_is_found_where_no_hash_tells(
    copied: Callable[[str], tuple[Path, Manifest]],
) -> None:
    folder, manifest = copied("minilm_like")
    model = onnx.load(folder / "model.onnx")
    weight = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    array = numpy_helper.to_array(weight).copy()
    array *= 1.01
    weight.CopyFrom(numpy_helper.from_array(array, weight.name))
    onnx.save(model, folder / "model.onnx")
    resealed(folder, manifest)
    with pytest.raises(VerificationError, match=r"embed, golden together: cosine 0\.\d+"):
        pipeline.verified(folder)


def test_a_changed_head_is_found(copied: Callable[[str], tuple[Path, Manifest]]) -> None:
    folder, manifest = copied("bert_classifier")
    heads = {task: dataclasses.replace(head, activation="sigmoid") for task, head in manifest.heads.items()}
    resealed(folder, dataclasses.replace(manifest, heads=heads))
    with pytest.raises(VerificationError, match="classify"):
        pipeline.verified(folder)


def test_changed_text_preparation_is_found(copied: Callable[[str], tuple[Path, Manifest]]) -> None:
    folder, manifest = copied("colbert")
    roles = {name: dataclasses.replace(role, marker_id=7) for name, role in manifest.text.roles.items()}
    resealed(folder, dataclasses.replace(manifest, text=dataclasses.replace(manifest.text, roles=roles)))
    with pytest.raises(VerificationError, match="other token ids"):
        pipeline.verified(folder)


@pytest.mark.parametrize("file", ["model.onnx", "golden.npz", "tokenizer.json", "manifest.json"])
def test_a_flipped_byte_is_refused(copied: Callable[[str], tuple[Path, Manifest]], file: str) -> None:
    folder, _ = copied("minilm_like")
    content = bytearray((folder / file).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / file).write_bytes(content)
    with pytest.raises(ArtifactError):
        pipeline.verified(folder)


def test_a_golden_file_of_nonsense_is_refused(copied: Callable[[str], tuple[Path, Manifest]]) -> None:
    folder, manifest = copied("minilm_like")
    (folder / "golden.npz").write_bytes(b"not a zip")
    resealed(folder, manifest)
    with pytest.raises(ArtifactError, match=r"golden\.npz: not readable"):
        pipeline.verified(folder)


def measured(found: np.ndarray, expected: np.ndarray, task: str = "embed") -> Evidence:
    return evidence.compared("engine", "fp32", task, "one", [found], [expected])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "found",
    [
        np.full(4, np.nan, np.float32),
        np.ones(3, np.float32),
        -np.ones(4, np.float32),
        np.zeros(4, np.float32),
    ],
    ids=["not a number", "other shape", "other way", "nothing"],
)
@pytest.mark.parametrize("task", ["embed", "classify"])
def test_what_is_wrong_never_holds(found: np.ndarray, task: str) -> None:
    result = measured(found, np.ones(4, np.float32), task)
    assert not evidence.holds(result)
    with pytest.raises(VerificationError, match=task):
        verify.enforce([result])


def test_what_is_right_holds() -> None:
    exact = np.array([0.6, 0.8], np.float32)
    assert evidence.holds(measured(exact, exact))
    assert evidence.holds(measured(np.zeros((0, 8), np.float32), np.zeros((0, 8), np.float32), "token_embed"))
    assert evidence.holds(measured(exact + 5e-6, exact, "classify"))


def test_rank_agreement_counts_neighbours() -> None:
    expected = [np.array([score], np.float32) for score in (0.9, 0.5, 0.7, 0.1)]
    swapped = [np.array([score], np.float32) for score in (0.9, 0.7, 0.5, 0.1)]
    same = evidence.compared("engine", "int8", "classify", "pairs", expected, expected, ranks=True)
    other = evidence.compared("engine", "int8", "classify", "pairs", swapped, expected, ranks=True)
    assert (same.rank_agreement, other.rank_agreement) == (1.0, pytest.approx(2 / 3))
