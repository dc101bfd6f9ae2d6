"""Records what transformers and colpali-engine make of pages and questions on the checkpoints of
tests/families/pages.py and idefics.py: token ids, vectors of tokens, and scores.

Run it with a Python that has transformers, torchvision and colpali-engine; poolrt is not imported.
"""

from __future__ import annotations

import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))


def main() -> None:
    from tests.families.idefics import LATE
    from tests.families.pages import ALL, PAGES, QUESTIONS

    writers = {**ALL, **LATE}
    for name in sys.argv[1:] or list(RECORDED):
        kinds, library, pages = RECORDED[name]
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            place = writers[name](Path(folder) / name)
            arrays = recorded(
                *loaded(place, kinds, library), PAGES[:pages], QUESTIONS, white=name == "colpali"
            )
        path = Path(__file__).parent / "pages" / f"{name}.npz"
        path.parent.mkdir(exist_ok=True)
        np.savez_compressed(path, allow_pickle=False, **arrays)
        print(f"{name}: {path.stat().st_size} bytes, scores {arrays['scores'].round(3).tolist()}")


RECORDED: dict[str, tuple[tuple[str, str], str, int]] = {
    "colpali": (("ColPaliForRetrieval", "ColPaliProcessor"), "transformers", 6),
    "colpali_engine": (("ColPali", "ColPaliProcessor"), "colpali_engine.models", 3),
    "colmodernvbert": (("ColModernVBertForRetrieval", "ColModernVBertProcessor"), "transformers", 6),
    "colmodernvbert_merged": (("ColModernVBert", "ColModernVBertProcessor"), "colpali_engine.models", 3),
    "col_smol": (("ColIdefics3", "ColIdefics3Processor"), "colpali_engine.models", 3),
}
"""Checkpoint -> (class of the model, class of its processor), the library that has them, and how many pages
it reads. colpali-engine's vectors are long, and its ColPali drops transparency."""


def loaded(folder: Path, kinds: tuple[str, str], library: str) -> tuple[Any, Any]:
    import importlib

    import torch

    model, processor = (getattr(importlib.import_module(library), kind) for kind in kinds)
    opened, info = model.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="sdpa", output_loading_info=True
    )
    left = {key: sorted(info[key]) for key in ("missing_keys", "mismatched_keys") if info[key]}
    assert not left, f"{folder.name}: {left}"
    return opened.eval(), processor.from_pretrained(folder)


def picture(values: np.ndarray, *, white: bool) -> Any:
    """A Pillow image of [height, width, channels]. `white`: transparency is composited on white, as
    transformers does since 5.23; older versions, and colpali-engine, drop it."""
    from PIL import Image

    image = Image.fromarray(values[..., 0] if values.shape[-1] == 1 else values)
    if image.mode == "RGBA" and white:
        image = Image.alpha_composite(Image.new("RGBA", image.size, (255, 255, 255, 255)), image)
    return image.convert("RGB")


def recorded(model: Any, processor: Any, pages: Any, questions: Any, *, white: bool) -> dict[str, np.ndarray]:
    import torch

    arrays: dict[str, np.ndarray] = {}
    vectors: dict[str, list[Any]] = {"page": [], "question": []}
    with torch.no_grad():
        for kind, sources in (("page", pages), ("question", questions)):
            for index, source in enumerate(sources):
                if kind == "page":
                    inputs = processor.process_images([picture(source, white=white)])
                else:
                    inputs = processor.process_queries([source])
                inputs = {key: value for key, value in inputs.items() if key != "labels"}
                output = model(**inputs)
                rows = (output if isinstance(output, torch.Tensor) else output.embeddings)[0]
                arrays[f"{kind}_{index}_ids"] = inputs["input_ids"][0].numpy().astype(np.int32)
                arrays[f"{kind}_{index}"] = rows.float().numpy()
                vectors[kind].append(rows.float())
    score = getattr(processor, "score_retrieval", None) or processor.score
    arrays["scores"] = score(vectors["question"], vectors["page"]).float().numpy()
    return arrays


if __name__ == "__main__":
    main()
