"""Artifacts and checkpoints in repositories of the Hugging Face hub, by huggingface_hub's own client.

Its settings are obeyed: HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE, proxies.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

from ..artifact.manifest import FILE, Manifest
from ..errors import ArtifactError, CheckpointError
from .addresses import HubAddress, kept
from .hub_errors import reported

if TYPE_CHECKING:
    from huggingface_hub import HfApi

    from .sources import Tick

CHECKPOINT = ("config.json", "modules.json")
"""Files of which a folder with a checkpoint has one."""
SCRATCH = "hub"
"""Folder beside arriving parts in which the client keeps what it has of a file."""
# Everything that a pooling model may need, except weights. Code is not listed, since none is run.
SMALL = (
    "*.json",
    "*.txt",
    "*.model",
    "*.jinja",
    "*.metadata",
    "*_Dense/*",
    "sparse_linear.pt",
    "colbert_linear.pt",
)
SAFE_WEIGHTS = ("*.safetensors",)
PICKLED_WEIGHTS = ("pytorch_model*.bin", "0_*/pytorch_model*.bin")
# Other formats of the weights that repositories carry.
LEFT_OUT = (
    "onnx/*",
    "openvino/*",
    "coreml/*",
    "gguf/*",
    "original/*",
    "*/onnx/*",
    "*.msgpack",
    "*.h5",
    "*.ot",
    "consolidated*",
)


class HubSource:
    """One commit of a repository."""

    def __init__(self, address: HubAddress) -> None:
        """Raises ArtifactError for a repository or revision that cannot be read."""
        self.place = address
        self.api = _api()
        with _reported(address):
            info = self.api.model_info(address.repository, revision=address.revision, files_metadata=True)
        self.address, self.revision, self.wanted_revision = kept(address), info.sha, address.revision
        front = f"{address.folder}/" if address.folder else ""
        self.sizes: Mapping[str, int | None] = {
            file.rfilename.removeprefix(front): file.size
            for file in info.siblings or ()
            if file.rfilename.startswith(front)
        }

    @property
    def is_checkpoint(self) -> bool:
        """Whether the folder holds a checkpoint, and no artifact."""
        return FILE not in self.sizes and any(name in self.sizes for name in CHECKPOINT)

    def small(self, name: str, most: int) -> bytes:
        if name not in self.sizes:
            raise FileNotFoundError(name)
        if (self.sizes[name] or 0) > most:
            raise ArtifactError(f"{self.address}/{name}: {self.sizes[name]} bytes, more than it may have")
        import tempfile

        with tempfile.TemporaryDirectory(prefix="poolrt-") as folder:
            return self._download(name, Path(folder)).read_bytes()

    def fetch(self, name: str, size: int, part: Path, tick: Tick) -> None:
        if name not in self.sizes:
            raise ArtifactError(f"{self.address}/{name}: not in the repository, though the manifest lists it")
        if self.sizes[name] not in (None, size):
            raise ArtifactError(
                f"{self.address}/{name}: {self.sizes[name]} bytes in the repository, {size} in the manifest; "
                "whoever pushed it must push it again"
            )
        file = self._download(name, part.parent / SCRATCH)
        os.replace(file, part)
        tick(size)

    def _download(self, name: str, folder: Path) -> Path:
        inside = f"{self.place.folder}/{name}" if self.place.folder else name
        with _reported(self.place):
            return Path(
                self.api.hf_hub_download(
                    self.place.repository, inside, revision=self.revision, local_dir=folder
                )
            )


def published(folder: Path, manifest: Manifest, address: HubAddress, *, private: bool) -> str:
    """Uploads a checked artifact in one commit, which readers see whole or not at all. Makes the repository
    where there is none. Returns the commit's address. Raises ArtifactError."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    api = _api()
    front = f"{address.folder}/" if address.folder else ""
    names = [*manifest.files, FILE]
    with _reported(address):
        api.create_repo(address.repository, private=private or None, exist_ok=True)
        stale = set(_listed(api, address)) - {front + name for name in names}
        commit = api.create_commit(
            address.repository,
            [
                *(CommitOperationAdd(front + name, str(folder / name)) for name in names),
                *(CommitOperationDelete(name) for name in sorted(stale)),
            ],
            commit_message=f"poolrt push {manifest.name}",
            revision=address.revision,
        )
    return str(commit.commit_url)


def _listed(api: HfApi, address: HubAddress) -> list[str]:
    """The files that the artifact which is there now has; nothing else of the repository is touched."""
    import json
    import tempfile

    from huggingface_hub.errors import EntryNotFoundError

    front = f"{address.folder}/" if address.folder else ""
    with tempfile.TemporaryDirectory(prefix="poolrt-") as folder:
        try:
            file = api.hf_hub_download(
                address.repository, front + FILE, revision=address.revision, local_dir=folder
            )
            listed = json.loads(Path(file).read_bytes())["files"]
        except (EntryNotFoundError, ValueError, KeyError):
            return []
    info = api.model_info(address.repository, revision=address.revision)
    present = {file.rfilename for file in info.siblings or ()}
    return [front + name for name in listed if front + name in present]


def checkpoint(source: HubSource) -> Path:
    """Brings a checkpoint into the hub's own cache, where `poolrt export` looks for it. Returns its folder.
    Raises CheckpointError."""
    place = source.place
    front = f"{place.folder}/" if place.folder else ""
    safe = any(name.endswith(".safetensors") for name in source.sizes)
    patterns = [*SMALL, *(SAFE_WEIGHTS if safe else PICKLED_WEIGHTS)]
    from huggingface_hub import snapshot_download

    with _reported(place, CheckpointError):
        folder = snapshot_download(
            place.repository,
            revision=place.revision,
            allow_patterns=[front + pattern for pattern in patterns],
            ignore_patterns=[front + pattern for pattern in LEFT_OUT],
            endpoint=source.api.endpoint,
        )
    return Path(folder) / place.folder


def _api() -> HfApi:
    from huggingface_hub import HfApi

    return HfApi(endpoint=os.environ.get("HF_ENDPOINT"), library_name="poolrt")


def _reported(
    address: HubAddress, kind: type[ArtifactError] | type[CheckpointError] = ArtifactError
) -> AbstractContextManager[None]:
    return reported(str(address), address.revision, kind)
