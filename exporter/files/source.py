"""Where a checkpoint is: a local folder, or a repository of the hub brought into the local cache."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from ...runtime.artifact import other_formats
from ...runtime.errors import CheckpointError

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
# Everything a pooling model may need, except weights. Code is not listed, since none is run.
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
ADAPTERS = ("adapter_model.safetensors", "adapter_model.bin")
# Settings of an adapter, and Sentence Transformers' files where it saved the adapted model.
BESIDE_ADAPTERS = (
    "adapter_config.json",
    "modules.json",
    "config_sentence_transformers.json",
    "sentence_bert_config.json",
    "[1-9]_*/config.json",
    "*_Dense/*",
)
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


@dataclass(frozen=True, slots=True)
class Source:
    """A checkpoint or adapter in a local folder."""

    name: str
    """Hub id, or the folder's own name."""
    folder: Path
    revision: str | None


def find(source: str, revision: str | None = None) -> Source:
    """The checkpoint in a local folder, or the hub's, brought into the local cache.

    Raises CheckpointError where neither exists or the hub is not reachable.
    """
    return _find(source, revision, SMALL + SAFE_WEIGHTS, PICKLED_WEIGHTS, settings="config.json")


def find_adapter(source: str) -> Source:
    """A LoRA adapter likewise, without the whole checkpoints of its training in its repository."""
    return _find(source, None, BESIDE_ADAPTERS + ADAPTERS[:1], ADAPTERS[1:], settings="adapter_config.json")


def _find(
    source: str, revision: str | None, safe: tuple[str, ...], pickled: tuple[str, ...], *, settings: str
) -> Source:
    if not source.strip():
        raise CheckpointError("the name is empty; give a folder, or a hub id such as BAAI/bge-m3")
    path = Path(source).expanduser()
    if path.is_dir():
        if revision is not None:
            raise CheckpointError(
                f"{source}: a revision ({revision!r}) chooses a hub repository's "
                "version, this is a local folder"
            )
        return Source(_name(path), path, None)
    if path.exists():
        kind = other_formats.of_file(path) or f"a file; give the folder that holds {settings} and the weights"
        raise CheckpointError(f"{source}: {kind}")
    if not HUB_ID.fullmatch(source):
        raise CheckpointError(f"{source}: no such folder, and not a hub id such as BAAI/bge-m3")
    folder = _download(source, revision, safe, pickled)
    return Source(source, folder, revision or (folder.name if folder.parent.name == "snapshots" else None))


def _name(folder: Path) -> str:
    """The folder's name; inside the hub's cache, where folders are named by commit, the repository's id."""
    resolved = folder.resolve()
    repository = resolved.parent.parent.name
    if resolved.parent.name == "snapshots" and repository.startswith("models--"):
        return repository.removeprefix("models--").replace("--", "/")
    return resolved.name


def _download(hub_id: str, revision: str | None, safe: tuple[str, ...], pickled: tuple[str, ...]) -> Path:
    import huggingface_hub
    from huggingface_hub import errors

    def fetch(patterns: tuple[str, ...]) -> Path:
        return Path(
            huggingface_hub.snapshot_download(
                hub_id, revision=revision, allow_patterns=list(patterns), ignore_patterns=list(LEFT_OUT)
            )
        )

    try:
        folder = fetch(safe)
        # Half of the hub's repositories carry both formats; pickles are fetched only where there is no other.
        if not any((*folder.glob("*.safetensors"), *folder.glob("0_*/*.safetensors"))):
            folder = fetch(safe + pickled)
    except errors.GatedRepoError:
        raise CheckpointError(
            f"{hub_id}: access must be asked for on the hub; then log in with `hf auth login`"
        ) from None
    except errors.RevisionNotFoundError:
        raise CheckpointError(f"{hub_id}: has no revision {revision!r}") from None
    except errors.RepositoryNotFoundError:
        raise CheckpointError(
            f"{hub_id}: no such repository on the hub, and no such folder here; is the name spelled right?"
        ) from None
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled, errors.HfHubHTTPError, OSError):
        raise CheckpointError(
            f"{hub_id}: not in the local cache and the hub is not reachable (offline, or HF_HUB_OFFLINE is "
            "set); go online, or give the folder of a downloaded copy"
        ) from None
    return folder
