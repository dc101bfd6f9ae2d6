"""Which artifacts replicas serve, and what requests call them: the `user_config` of the deployment."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from ...runtime.artifact import reading
from ...runtime.artifact.checkpoints import is_artifact
from ...runtime.artifact.manifest import Manifest
from ...runtime.errors import ArtifactError, InputError
from ...runtime.store import resolving
from ...runtime.store.addresses import is_address

NONE = (
    "no artifact: artifacts=A,B behind `serve run poolrt.ray:app`, poolrt.ray.app(ARTIFACT), "
    "POOLRT_RAY_ARTIFACTS, or in a config file `args` or the `user_config` of the deployment poolrt"
)


@dataclass(frozen=True, slots=True)
class Entry:
    artifact: str
    """A folder, a stored name, or an address."""
    names: tuple[str, ...] = ()
    """That the operator gave it; none: its own."""

    @property
    def key(self) -> str:
        """What Serve's multiplexing calls it: another artifact under the same name takes its place."""
        return self.names[0] if self.names else self.artifact


@dataclass(frozen=True, slots=True)
class Names:
    """What a front knows of the artifacts of the replicas."""

    digest: str
    several: bool
    first: str
    """Key of the entry that a request without a model means."""
    keys: Mapping[str, str]
    """Name in a request -> key of the entry."""

    def key(self, name: str) -> str | None:
        """What a name means; Ollama's clients add a tag, and mind no case."""
        if name in self.keys:
            return self.keys[name]
        plain = name.casefold().removesuffix(":latest")
        return next((key for known, key in self.keys.items() if known.casefold() == plain), None)


@dataclass(frozen=True)
class Table:
    """The artifacts of a replica, in order; a request without a model means the first."""

    entries: tuple[Entry, ...]
    manifests: Mapping[str, Manifest] = field(default_factory=dict)
    """Key -> manifest, of those that are on this machine."""

    @property
    def several(self) -> bool:
        return len(self.entries) > 1

    @property
    def digest(self) -> str:
        return self.names.digest

    def entry(self, key: str) -> Entry | None:
        return next((entry for entry in self.entries if entry.key == key), None)

    @cached_property
    def listed(self) -> list[tuple[str, Entry]]:
        """Every name that /v1/models lists, with what it names."""
        return [(name, entry) for entry in self.entries for name in entry.names or self._own(entry)[:1]]

    @cached_property
    def names(self) -> Names:
        """The operator's names win over the artifacts' own, and earlier artifacts over later ones."""
        keys: dict[str, str] = {name: entry.key for name, entry in self.listed}
        for entry in self.entries:
            for name in self._own(entry):
                keys.setdefault(name, entry.key)
        plain = json.dumps([(entry.artifact, entry.names) for entry in self.entries])
        digest = hashlib.blake2b(plain.encode(), digest_size=8).hexdigest()
        return Names(digest, self.several, self.entries[0].key, keys)

    def named(self, name: str) -> Entry | None:
        """What a request means."""
        key = self.names.key(name)
        return None if key is None else self.entry(key)

    def _own(self, entry: Entry) -> tuple[str, ...]:
        """The names that an artifact has by itself."""
        manifest = self.manifests.get(entry.key)
        if manifest is None:
            return (entry.artifact,)
        name = manifest.name if Path(entry.artifact).is_absolute() else entry.artifact
        return (name, manifest.source.checkpoint)


def entries(value: Any) -> tuple[Entry, ...]:
    """The artifacts of an argument, a variable, or a `user_config`: A, `A,B`, NAME=A, a list of those, or
    name -> A. Paths that exist are absolute, since replicas run elsewhere. Raises InputError."""
    if isinstance(value, str):
        value = [part for part in value.split(",") if part]
    pairs: list[tuple[str, str]] = []
    if isinstance(value, Mapping):
        pairs = [(str(artifact), str(name)) for name, artifact in value.items()]
    elif isinstance(value, list | tuple):
        for part in value:
            name, equals, artifact = str(part).partition("=")
            pairs.append((artifact, name) if equals else (name, ""))
    elif value is not None:
        raise InputError(f"artifacts is {value!r}, expected a list, or names with artifacts")
    named: dict[str, list[str]] = {}
    for artifact, name in pairs:
        named.setdefault(_absolute(artifact), []).extend([name] if name else [])
    table = tuple(Entry(artifact, tuple(names)) for artifact, names in named.items())
    names = [name for entry in table for name in entry.names]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(f"two artifacts would be called {', '.join(twice)}")
    return table


def configured(config: Any) -> Table:
    """The table of a `user_config`. Reads the manifests of artifacts that are on this machine. Raises
    InputError and ArtifactError."""
    if not isinstance(config, Mapping) or set(config) != {"artifacts"}:
        raise InputError(f"user_config is {config!r}, expected {{'artifacts': ...}}")
    table = Table(entries(config["artifacts"]))
    if not table.entries:
        raise InputError(NONE)
    manifests: dict[str, Manifest] = {}
    for entry in table.entries:
        if not is_address(entry.artifact):
            folder = Path(resolving.artifact_or_checkpoint(entry.artifact)[0])
            if is_artifact(folder):
                manifests[entry.key] = reading.read(folder, check="quick").manifest
            elif folder.is_absolute() and not folder.exists():
                raise ArtifactError(f"{folder}: no such folder on {platform.node()}")
    table = Table(table.entries, manifests)
    names = [name for name, _ in table.listed]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(
            f"two artifacts would be called {', '.join(twice)}; name them, as NAME=ARTIFACT or name: artifact"
        )
    return table


def _absolute(artifact: str) -> str:
    if is_address(artifact):
        return artifact
    path = Path(artifact).expanduser()
    return str(path.absolute()) if path.exists() else artifact
