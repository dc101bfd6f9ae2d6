"""What an artifact says about itself on the playground: what computes it, where it came from, and what was
measured when it was exported."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from ...runtime.artifact.manifest import Manifest
from ..metrics.build import computed_by
from ..models.registry import Served


def evidence_facts(served: Served) -> dict[str, Any]:
    """What computes the model, its source, and its comparisons with PyTorch and the checkpoint's own
    library."""
    manifest, choice = served.manifest, served.model.engine
    backend, device, precision, file = computed_by(choice)
    return {
        "backend": backend,
        "device": device,
        "precision": precision,
        "file": file,
        "bytes": weight_bytes(manifest, file, choice.graph.external),
        "checkpoint": manifest.source.checkpoint,
        "revision": manifest.source.revision,
        "created": manifest.created,
        "versions": manifest.versions,
        "digest": manifest.digest,
        "reading": None if manifest.reading is None else asdict(manifest.reading),
        "measured": [asdict(entry) for entry in manifest.evidence if entry.engine == choice.name],
    }


def weight_bytes(manifest: Manifest, file: str, external: tuple[str, ...]) -> int:
    """The size of what computes the model, with the files that its graph reads."""
    return sum(manifest.files[name].size for name in {file, *external} if name in manifest.files)
