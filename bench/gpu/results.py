"""bench/RESULTS-GPU.md, from what the pieces left behind: also while some are missing."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

HEAD = """# Results on a GPU

Written by `make gpu`; not edited by hand. Contenders of one table took turns in one run (A B C A B C ...), each in a process of its own;
values are medians of the rounds, with the extremes in brackets. No text is measured twice. Times end with float32 vectors in numpy, on the
host. The cosine is the smallest of any text to PyTorch in float32 on the same card, one text at a time. BERT-base, ModernBERT-base
and Qwen3 have random weights of the published sizes."""  # noqa: E501
TITLES = {
    "minilm": "all-MiniLM-L6-v2",
    "base": "BERT-base",
    "long": "ModernBERT-base, 2 048 tokens",
    "decoder": "Qwen3-Embedding-0.6B",
}


def written(results: Mapping[str, Mapping[str, Any]], ended: Mapping[str, str], pieces: Sequence[str]) -> str:
    """The page.

    Args:
        results: piece -> what it wrote.
        ended: piece -> why it has no result (too long, an error); pieces that were not run are in neither.
        pieces: the names of all.
    """
    if not results and not ended:
        return f"{HEAD}\n\nNot run yet: no GPU was at hand.\n"
    lines = results.get("facts", {}).get("lines", {})
    parts = [HEAD, "\n".join(f"- {name}: {value}" for name, value in lines.items())]
    missing = [piece for piece in pieces if piece not in results and piece not in ended]
    if missing:
        parts.append(f"Not run: {', '.join(missing)}.")
    parts.append("## tests/gpu\n\n" + (_part("tests", results, ended) or "Not run."))
    for work, title in TITLES.items():
        own = [piece for piece in pieces if piece.endswith(f"-{work}")]
        texts = [_part(piece, results, ended) for piece in own]
        parts.append(f"## {title}\n\n" + ("\n\n".join(filter(None, texts)) or "Not run."))
    return "\n\n".join(filter(None, parts)) + "\n"


def _part(piece: str, results: Mapping[str, Mapping[str, Any]], ended: Mapping[str, str]) -> str:
    if piece in ended:
        return f"**{piece}: {ended[piece]}**"
    result = results.get(piece, {})
    notes = "\n".join(f"- {note}" for note in dict.fromkeys(result.get("notes", ())))
    return "\n\n".join(filter(None, (notes, result.get("section", ""))))


def read(folder: Path, pieces: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Piece -> what it wrote, of those that did."""
    files = {piece: folder / f"{piece}.json" for piece in pieces}
    return {
        piece: json.loads(file.read_text(encoding="utf-8")) for piece, file in files.items() if file.exists()
    }
