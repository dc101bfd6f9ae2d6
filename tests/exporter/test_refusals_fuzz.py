"""Whatever stands in the small files of a checkpoint or an artifact, reading it ends
well or with one sentence."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from poolrt.exporter import checkpoint
from poolrt.exporter.files import adapter
from poolrt.exporter.heads import planning
from poolrt.runtime.artifact import reading as artifact_folders
from poolrt.runtime.errors import CheckpointError, PoolrtError
from poolrt.runtime.inputs.preparation import Preparation

from tests.adapters import adapted

Paths = Callable[[str], Path]
STRANGE: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**63, 10**400, 0.5, -0.0, float("nan"), float("inf"), "", "x", "\0",
    "[MASK]", "../../x", "a" * 5000, "\udcff",
    [], {}, [[]], [None], {"": None}, ["a", 1], {"content": 1}, {"content": "x", "__type": "AddedToken"},
    [{"type": "x", "path": "y"}],
)  # fmt: skip
# Checkpoint -> files that are mutated.
FILES: dict[str, tuple[str, ...]] = {
    "bert_dense": (
        "config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "modules.json",
        "1_Pooling/config.json",
        "sentence_bert_config.json", "config_sentence_transformers.json", "2_Dense/config.json",
    ),
    "bert_sharded": ("model.safetensors.index.json",),
    "bert_classifier": ("config.json",),
    "colbert": ("artifact.metadata", "config.json"),
}  # fmt: skip


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) of a JSON value."""
    pairs = (
        list(value.items())
        if isinstance(value, dict)
        else list(enumerate(value))
        if isinstance(value, list)
        else []
    )
    return [place for key, inner in pairs for place in [(value, key), *places(inner)]]


def mutated(text: str, chance: random.Random) -> str:
    if chance.random() < 0.05:
        return text[: chance.randrange(len(text))]
    value = json.loads(text)
    for _ in range(chance.choice((1, 1, 2, 5))):
        found = places(value)
        if not found or chance.random() < 0.03:
            value = chance.choice(STRANGE)
            continue
        # Those near the top decide the most.
        container, key = found[min(chance.randrange(len(found)), chance.randrange(len(found)))]
        action = chance.random()
        if action < 0.2:
            del container[key]
        elif action < 0.3 and isinstance(container, dict):
            container[chance.choice(("x", "0", "type", "content", "pooling_mode"))] = container.pop(key)
        else:
            container[key] = json.loads(json.dumps(chance.choice(STRANGE)))
    return json.dumps(value)


def read(folder: Path) -> None:
    planning.plan(checkpoint.read(folder, recipe=None))


def read_adapter(folder: Path) -> None:
    planning.plan(checkpoint.read(folder.parent / "bert_classifier", recipe=None, adapter=folder))


def sentence(folder: Path, run: Callable[[Path], object]) -> str | None:
    """What the command would say; None: the folder was read. Any other error is raised."""
    try:
        run(folder)
    except CheckpointError as error:
        return str(error)
    except OSError as error:  # a name too long for the system: the command tells it in one sentence as well
        return error.strerror
    return None


def fuzz(checkpoints: Paths, home: Path, rounds: int, seed: int) -> None:
    chance = random.Random(seed)
    folders = {name: Path(shutil.copytree(checkpoints(name), home / name)) for name in FILES}
    folders["adapter"] = adapted(checkpoints("bert_plain"), home / "adapter")
    texts = {
        (name, file): (folders[name] / file).read_text(encoding="utf-8")
        for name, files in FILES.items()
        for file in files
    }
    texts["adapter", adapter.SETTINGS] = (folders["adapter"] / adapter.SETTINGS).read_text(encoding="utf-8")
    for number in range(rounds):
        name, file = chance.choice(list(texts))
        path = folders[name] / file
        path.write_text(mutated(texts[name, file], chance), encoding="utf-8")
        try:
            told = sentence(folders[name], read_adapter if name == "adapter" else read)
            assert told is None or (told.strip() and "\n" not in told)
        except BaseException:
            shutil.copy(path, home / "culprit.json")
            raise AssertionError(
                f"round {number} of seed {seed}: {name}/{file}, kept as {home / 'culprit.json'}"
            ) from None
        path.write_text(texts[name, file], encoding="utf-8")


def test_reading_mutated_files_ends_in_a_plan_or_a_sentence(checkpoints: Paths, tmp_path: Path):
    fuzz(checkpoints, tmp_path, rounds=200, seed=int(os.environ.get("POOLRT_FUZZ_SEED", "0")))


def manifests(artifact: Path, rounds: int, seed: int) -> None:
    """Mutated manifests that carry the sha256 of themselves, as somebody who knows the
    format would write them."""
    chance = random.Random(seed)
    text = (artifact / "manifest.json").read_text(encoding="utf-8")
    for number in range(rounds):
        try:
            plain = json.loads(mutated(text, chance))
        except ValueError:
            continue
        unsealed = (
            json.dumps({**plain, "digest": "0" * 64}, indent=1).encode() + b"\n"
            if isinstance(plain, dict)
            else b"[]"
        )
        (artifact / "manifest.json").write_bytes(
            unsealed.replace(b"0" * 64, hashlib.sha256(unsealed).hexdigest().encode())
        )
        try:
            opened = artifact_folders.read(artifact, check="quick")
            Preparation(opened.folder, opened.manifest)
        except PoolrtError as error:
            told = str(error)
            assert told.strip(), f"round {number} of seed {seed}"
    (artifact / "manifest.json").write_text(text, encoding="utf-8")


def test_a_mutated_manifest_opens_or_is_refused(artifacts: Paths, tmp_path: Path):
    manifests(Path(shutil.copytree(artifacts("bert_plain"), tmp_path / "artifact")), rounds=150, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 21))
def test_reading_many_mutated_files_does_too(checkpoints: Paths, tmp_path: Path, seed: int):
    fuzz(checkpoints, tmp_path, rounds=500, seed=seed)
