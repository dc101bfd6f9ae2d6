"""Tiny ColBERT checkpoints as PyLate writes them (lightonai/GTE-ModernColBERT-v1), and re-saved by
Sentence Transformers 6."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests.checkpoints import HIDDEN, IDENTITY, _bert_settings, _hf, _json, randomise

from . import modernbert

MARKERS = ("[Q] ", "[D] ")


def pylate_files(
    folder: Path, *, widths: Sequence[int] = (24,), residual: bool = False, **settings: Any
) -> Path:
    """modules.json, the Dense modules of these widths in order, and
    config_sentence_transformers.json with `settings`."""
    import torch
    from safetensors.torch import save_file

    modules = [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}]
    inside = HIDDEN
    for index, width in enumerate(widths, start=1):
        modules.append(
            {"idx": index, "name": str(index), "path": f"{index}_Dense", "type": "pylate.models.Dense.Dense"}
        )
        place = folder / f"{index}_Dense"
        config = {
            "in_features": inside,
            "out_features": width,
            "bias": False,
            "activation_function": IDENTITY,
        }
        tensors = {
            "linear.weight": randomise(
                torch.nn.Linear(inside, width, bias=False), seed=20 + index
            ).weight.detach()
        }
        if residual:
            tensors["residual.weight"] = randomise(
                torch.nn.Linear(inside, width, bias=False), seed=30 + index
            ).weight.detach()
        _json(place / "config.json", config | ({"use_residual": True} if residual else {}))
        save_file(tensors, place / "model.safetensors")
        inside = width
    _json(folder / "modules.json", modules)
    _json(folder / "sentence_bert_config.json", {"max_seq_length": 47, "do_lower_case": False})
    versions = {"sentence_transformers": "4.0.2", "transformers": "4.51.3", "pytorch": "2.6.0"}
    known = {
        "__version__": versions,
        "prompts": {},
        "default_prompt_name": None,
        "similarity_fn_name": "MaxSim",
    }
    known |= {
        "query_prefix": MARKERS[0],
        "document_prefix": MARKERS[1],
        "query_length": 16,
        "document_length": 48,
    }
    _json(
        folder / "config_sentence_transformers.json", known | {"attend_to_expansion_tokens": False} | settings
    )
    return folder


def colbert_modernbert(folder: Path) -> Path:
    """lightonai/GTE-ModernColBERT-v1: markers behind the vocabulary, no expansion."""
    _hf(folder, "ModernBertModel", **modernbert.settings(folder, added=MARKERS))
    modernbert.as_published(folder)
    return pylate_files(folder, do_query_expansion=False, skiplist_words=list(",.!?"))


def colbert_expanded(folder: Path) -> Path:
    """Expansion by default, its positions attended to; two Dense modules in order; the default skip list."""
    _hf(folder, "ModernBertModel", seed=5, **modernbert.settings(folder, added=MARKERS))
    return pylate_files(folder, widths=(48, 24), attend_to_expansion_tokens=True)


def colbert_pylate_bert(folder: Path) -> Path:
    """A BERT backbone with markers from its vocabulary; expanded positions are not
    attended to; a residual Dense."""
    _hf(folder, "BertModel", seed=6, **_bert_settings(folder))
    return pylate_files(
        folder, residual=True, query_prefix="[unused2]", document_prefix="[unused3]", do_query_expansion=True
    )


def resaved(write: Callable[[Path], Path]) -> Callable[[Path], Path]:
    """The same checkpoint as Sentence Transformers' MultiVectorEncoder saves it."""

    def again(folder: Path) -> Path:
        from sentence_transformers import MultiVectorEncoder

        first = write(folder.parent / f"{folder.name}-pylate")
        MultiVectorEncoder(str(first), device="cpu").save_pretrained(str(folder))
        return folder

    again.__name__ = f"{write.__name__}_resaved"
    return again


ALL: dict[str, Callable[[Path], Path]] = {
    write.__name__: write
    for write in (
        colbert_modernbert, colbert_expanded, colbert_pylate_bert, resaved(colbert_modernbert),
        resaved(colbert_expanded),
        resaved(colbert_pylate_bert),
    )
}  # fmt: skip
