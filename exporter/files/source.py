"""Where a checkpoint is: a local folder, or a repository of the hub brought into the local cache."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from ...runtime.artifact import other_formats
from ...runtime.errors import CheckpointError, InputError
from ...runtime.store.addresses import HUB_ID, HUB_REVISION, HubAddress, parsed
from ...runtime.store.hub import LEFT_OUT, PICKLED_WEIGHTS, SAFE_WEIGHTS, SMALL
from ...runtime.store.hub_errors import reported

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

SETTINGS = ("config.json", "modules.json")
"""Files of which a folder with a checkpoint holds one."""
NAMED = 5
"""Most folders that an error names."""


@dataclass(frozen=True, slots=True)
class Source:
    """A checkpoint or adapter in a local folder."""

    name: str
    """Hub id, or the folder's own name."""
    folder: Path
    revision: str | None
    subfolder: str | None = None
    """Where `folder` lies inside the repository, as the user chose it."""


def find(source: str, revision: str | None = None, subfolder: str | None = None) -> Source:
    """The checkpoint in a local folder, or the hub's, brought into the local cache.

    Args:
        source: a folder, a hub id, `owner/name@revision`, or `hf://owner/name[@revision][/folder]`.
        subfolder: the folder of it that holds the checkpoint, for repositories that keep several.

    Raises CheckpointError where there is none, or the hub is not reachable.
    """
    source, revision, subfolder = _parted(source, revision, subfolder)
    place = _place(source, subfolder, settings="config.json")
    inside = _inside(source, subfolder)
    if place is not None:
        root = _local(source, place, revision)
    else:
        folder = _download(source, revision, inside, SMALL, SAFE_WEIGHTS, PICKLED_WEIGHTS)
        root = _from_hub(source, folder, revision)
    if not inside:
        return root
    folder = root.folder / inside
    if not any((folder / name).is_file() for name in SETTINGS):
        whole = root.folder if place is not None else _download(source, revision, "", SMALL[:1], (), ())
        raise CheckpointError(
            f"{source}: no {SETTINGS[0]} in its folder {inside}{'' if place else _cached()}{_choice(whole)}"
        )
    return replace(root, folder=folder, subfolder=inside)


def find_adapter(source: str) -> Source:
    """A LoRA adapter likewise, without the whole checkpoints of its training in its repository."""
    place = _place(source, None, settings="adapter_config.json")
    if place is not None:
        return _local(source, place, None)
    folder = _download(source, None, "", (), BESIDE_ADAPTERS + ADAPTERS[:1], ADAPTERS[1:])
    return _from_hub(source, folder, None)


def checkpoints_in(folder: Path) -> list[str]:
    """The folders inside `folder`, up to two deep, that hold a checkpoint of their own."""
    return sorted(
        path.parent.relative_to(folder).as_posix()
        for pattern in ("*/config.json", "*/*/config.json")
        for path in folder.glob(pattern)
        if _is_model(path)
    )


def _is_model(path: Path) -> bool:
    """Whether a config.json is that of a model; those of single layers name no type."""
    try:
        values = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(values, dict) and bool(values.get("model_type") or values.get("architectures"))


def _choice(folder: Path) -> str:
    """What an error says of the checkpoints inside a folder."""
    names = checkpoints_in(folder)
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f"; folders of it that hold one: {', '.join(names[:NAMED])}{more}" if names else ""


def _cached() -> str:
    """What an error says where a repository may hold more than the local cache."""
    from huggingface_hub import constants

    return " of the local cache (offline, or HF_HUB_OFFLINE is set)" if constants.HF_HUB_OFFLINE else ""


def _parted(source: str, revision: str | None, subfolder: str | None) -> tuple[str, str | None, str | None]:
    """The hub id, revision and subfolder of an address; what is no address is left as it is."""
    if not source.startswith("hf://") and (Path(source).exists() or not HUB_REVISION.fullmatch(source)):
        return source, revision, subfolder
    try:
        address = parsed(source)
    except InputError as error:
        raise CheckpointError(str(error)) from None
    assert isinstance(address, HubAddress)
    for flag, inside, beside in (
        ("--revision", address.revision, revision),
        ("--subfolder", address.folder, subfolder),
    ):
        if inside and beside is not None and inside != beside:
            raise CheckpointError(f"{source}: names {inside!r}, and {flag} {beside!r}; give one of them")
    return address.repository, address.revision or revision, address.folder or subfolder


def _inside(source: str, subfolder: str | None) -> str:
    """The subfolder as a path inside the repository; empty: the repository itself."""
    if subfolder is None:
        return ""
    path = PurePosixPath(subfolder)
    # Names of folders become patterns of the files that are fetched.
    strange = any(mark in subfolder for mark in "\\*?[]")
    if path.is_absolute() or not path.parts or ".." in path.parts or strange:
        raise CheckpointError(
            f"{source}: --subfolder {subfolder!r} is no folder inside the repository; give a path such as v1"
        )
    return path.as_posix()


def _place(source: str, subfolder: str | None, *, settings: str) -> Path | None:
    """The local folder; None: a repository of the hub."""
    if not source.strip():
        raise CheckpointError("the name is empty; give a folder, or a hub id such as BAAI/bge-m3")
    path = Path(source).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        kind = other_formats.of_file(path) or f"a file; give the folder that holds {settings} and the weights"
        raise CheckpointError(f"{source}: {kind}")
    if HUB_ID.fullmatch(source):
        return None
    parts = source.split("/", 2)
    hint = ""
    if subfolder is None and len(parts) == 3 and HUB_ID.fullmatch("/".join(parts[:2])):
        hint = f"; for a folder of a repository: {parts[0]}/{parts[1]} --subfolder {parts[2]}"
    raise CheckpointError(f"{source}: no such folder, and not a hub id such as BAAI/bge-m3{hint}")


def _local(source: str, path: Path, revision: str | None) -> Source:
    if revision is not None:
        raise CheckpointError(
            f"{source}: a revision ({revision!r}) chooses a hub repository's version, this is a local folder"
        )
    return Source(_name(path), path, None)


def _from_hub(source: str, folder: Path, revision: str | None) -> Source:
    return Source(source, folder, revision or (folder.name if folder.parent.name == "snapshots" else None))


def _name(folder: Path) -> str:
    """The folder's name; inside the hub's cache, where folders are named by commit, the repository's id."""
    resolved = folder.resolve()
    repository = resolved.parent.parent.name
    if resolved.parent.name == "snapshots" and repository.startswith("models--"):
        return repository.removeprefix("models--").replace("--", "/")
    return resolved.name


def _download(
    hub_id: str,
    revision: str | None,
    inside: str,
    small: tuple[str, ...],
    safe: tuple[str, ...],
    pickled: tuple[str, ...],
) -> Path:
    """The local copy of a repository, with the files of its folder `inside` that match.

    Args:
        small: patterns of files that are fetched before weights; empty: nothing is.
        safe, pickled: patterns of weights, of which the latter are fetched where the former match nothing.
    """
    import huggingface_hub

    front = f"{inside}/" if inside else ""

    def fetch(patterns: tuple[str, ...], left_out: Sequence[str] = ()) -> Path:
        return Path(
            huggingface_hub.snapshot_download(
                hub_id,
                revision=revision,
                allow_patterns=[front + pattern for pattern in patterns],
                ignore_patterns=[front + pattern for pattern in (*LEFT_OUT, *left_out)],
            )
        )

    with reported(hub_id, revision, CheckpointError):
        # Small files first: they tell which weights are those of other checkpoints in the repository.
        folder = fetch(small or safe)
        others = _others(folder / inside) if small else []
        if not safe or (others and not (folder / inside / SETTINGS[0]).is_file()):
            return folder
        left_out = [f"{name}/*" for name in others]
        folder = fetch(small + safe, left_out) if small else folder
        held = folder / inside
        # Half of the hub's repositories carry both formats; pickles are fetched only where there is no other.
        if not any((*held.glob("*.safetensors"), *held.glob("0_*/*.safetensors"))):
            folder = fetch(small + safe + pickled, left_out)
    return folder


def _others(folder: Path) -> list[str]:
    """Folders with checkpoints of their own. Where there is a modules.json, these are parts of one."""
    return [] if (folder / "modules.json").is_file() else checkpoints_in(folder)
