"""Format 1 stays what it is while it is called 1 (docs/decisions/format-changes.md)."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from poolrt.runtime.artifact import images, manifest, reading
from poolrt.runtime.artifact.manifest import FILE, FORMAT
from poolrt.runtime.artifact.records import Descriptive
from poolrt.runtime.errors import ArtifactError

BEGINNING: dict[str, dict[str, str]] = json.loads(Path(__file__).with_name("format_1.json").read_bytes())
"""Record -> key -> its default as Python writes it, or `required`. Never written again."""
RECORDS: dict[str, Any] = {
    value.__name__: value
    for module in (manifest, images)
    for value in vars(module).values()
    if isinstance(value, type) and dataclasses.is_dataclass(value)
}


def default(field: dataclasses.Field[Any]) -> str:
    if field.default is not dataclasses.MISSING:
        return repr(field.default)
    return "required" if field.default_factory is dataclasses.MISSING else repr(field.default_factory())


def test_format_1_means_what_it_meant_when_it_began():
    assert FORMAT == 1, "compare with the beginning of that format then"
    for name, keys in BEGINNING.items():
        now = {field.name: default(field) for field in dataclasses.fields(RECORDS[name])}
        assert {key: now.get(key) for key in keys} == keys, f"{name}: a key went or has another default"
        new = [key for key in now if key not in keys and now[key] == "required"]
        assert not new, f"{name}: {new} have no default, so that older artifacts could not be read"


def written(folder: Path, change: Callable[[Any], object]) -> None:
    """A manifest as a newer poolrt might write it, with its own sha256."""
    plain = json.loads((folder / FILE).read_bytes())
    change(plain)
    del plain["digest"]
    text = (json.dumps(plain)[:-1] + ', "digest": "' + "0" * 64 + '"}').encode()
    (folder / FILE).write_bytes(text.replace(b"0" * 64, hashlib.sha256(text).hexdigest().encode()))


@pytest.fixture
def folder(artifacts: Callable[[str], Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(artifacts("minilm_like"), tmp_path / "copy"))


def test_new_keys_of_what_only_describes_are_ignored(folder: Path):
    before = reading.read(folder).manifest

    def newer(plain: Any) -> None:
        plain["evidence"][0]["p99_cosine"] = 0.5
        plain["reading"]["seconds"] = 1
        plain["reading"]["agreements"][0]["mean_cosine"] = {"a": 1}

    written(folder, newer)
    assert dataclasses.replace(reading.read(folder).manifest, digest=before.digest) == before
    assert {record.__name__ for record in RECORDS.values() if issubclass(record, Descriptive)} == {
        "Evidence", "Reading", "Agreement",
    }  # fmt: skip


@pytest.mark.parametrize("part", ["text", "source", None])
def test_a_new_key_of_anything_else_is_refused_as_one_of_a_newer_poolrt(folder: Path, part: str | None):
    written(folder, lambda plain: (plain if part is None else plain[part]).update(key_of_the_future=1))
    name = f"{part}.key_of_the_future" if part else "key_of_the_future"
    with pytest.raises(
        ArtifactError, match=f"newer poolrt.* knows {name}; upgrade poolrt, or export it again"
    ):
        reading.read(folder)
