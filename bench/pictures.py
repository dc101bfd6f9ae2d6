"""`python -m bench.pictures`: from the bytes of a JPEG to the numbers of a vision graph, beside transformers'
own processors, on one core. Writes bench/PICTURES.md.

It needs an interpreter that has torch, torchvision, transformers and Pillow beside what poolrt itself needs.
The one that POOLRT_VLLM's program runs in has them.
"""

from __future__ import annotations

import io
import os
import random
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS")
LABELS = {
    "clip": "CLIP, 224",
    "siglip": "SigLIP, 224",
    "colpali": "ColPali (SigLIP, 448)",
    "qwen2": "Qwen2-VL, 602 112 pixels",
    "qwen3": "Qwen3-VL, 1 310 720 pixels",
    "idefics3 of the size that is published": "Idefics3, tiles of 512",
}
"""Of tests/pictures.py -> as the table calls them."""
SIZES = ((640, 480), (1280, 960), (1654, 2339), (4000, 3000))
ROUNDS = 11
FAMILIES = {"CLIP": "clip", "Siglip": "siglip", "Qwen2VL": "qwen2_vl", "Idefics3": "idefics3"}
HEAD = """# Pictures

Written by `python -m bench.pictures`; not edited by hand. From the bytes of a JPEG to the array that a vision graph reads, decoding included, on one
core: processor milliseconds, the median of {rounds} rounds, in each of which the contenders run in another order. Both sides give the same numbers, bit for bit
(tests/runtime/test_media_goldens.py), so only the time is compared. The last column is the faster one of transformers' two processors by poolrt.

{facts}

{table}
"""  # noqa: E501


@dataclass(frozen=True)
class Contenders:
    """Functions of the bytes of a picture."""

    torchvision: Callable[[bytes], Any]
    pillow: Callable[[bytes], Any]
    poolrt: Callable[[bytes], Any]
    poolrt_pillow: Callable[[bytes], Any]
    poolrt_numpy: Callable[[bytes], Any]


def contenders(label: str) -> Contenders:
    from PIL import Image
    from poolrt.runtime.artifact.images import Images
    from poolrt.runtime.artifact.records import from_plain
    from poolrt.runtime.inputs.media import native, prepared

    from tests.pictures import PROCESSORS

    processor = PROCESSORS[label]
    family = FAMILIES[processor.name]
    theirs = {
        end: getattr(
            import_module(f"transformers.models.{family}.image_processing_{middle}{family}"),
            f"{processor.name}ImageProcessor{end}",
        )(**processor.settings)
        for middle, end in (("", ""), ("pil_", "Pil"))
    }
    images = from_plain(Images, processor.facts)
    turned = replace(images, kernel="pillow")

    def by_numpy(data: bytes) -> None:
        library, native._library = native._library, lambda: None
        try:
            prepared.image(images, data)
        finally:
            native._library = library

    def decoded(data: bytes) -> Any:
        return Image.open(io.BytesIO(data)).convert("RGB")

    return Contenders(
        torchvision=lambda data: theirs[""](images=[decoded(data)], return_tensors="pt"),
        pillow=lambda data: theirs["Pil"](images=[decoded(data)], return_tensors="np"),
        poolrt=lambda data: prepared.image(images, data),
        poolrt_pillow=lambda data: prepared.image(turned, data),
        poolrt_numpy=by_numpy,
    )


def photo(width: int, height: int) -> bytes:
    """A JPEG as smooth as a photo."""
    from PIL import Image

    from tests.pictures import drawn

    out = io.BytesIO()
    image = Image.fromarray(drawn(width // 4, height // 4)).resize((width, height), Image.Resampling.BICUBIC)
    image.save(out, "JPEG", quality=88)
    return out.getvalue()


def measured(functions: dict[str, Callable[[bytes], Any]], data: bytes) -> dict[str, float]:
    """Name -> milliseconds of processor time. Each round has an order of its own, since a contender finds the
    memory that the one before it left."""
    order, shuffle = list(functions), random.Random(0).shuffle
    times: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(ROUNDS):
        shuffle(order)
        for name in order:
            begun = time.process_time()
            functions[name](data)
            times[name].append(1000 * (time.process_time() - begun))
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> None:
    from . import conditions, report

    header = (
        "processor", "picture", "transformers, torchvision", "transformers, Pillow", "poolrt",
        "poolrt, Pillow's kernel", "poolrt, numpy alone", "of the faster one",
    )  # fmt: skip
    rows: list[tuple[str, ...]] = []
    for label, name in LABELS.items():
        functions = vars(contenders(label))
        for width, height in SIZES:
            times = measured(functions, photo(width, height))
            fastest = min(times["torchvision"], times["pillow"])
            cells = (f"{value:.1f}" for value in times.values())
            rows.append((name, f"{width} × {height}", *cells, f"{fastest / times['poolrt']:.2f}×"))
            print(rows[-1], file=sys.stderr, flush=True)
    facts = report.lines(
        _versions() | {"processor": f"{conditions.processor()}; {conditions.instructions()}"}
    )
    text = HEAD.format(rounds=ROUNDS, facts=facts, table=report.table(header, rows))
    Path(__file__).with_name("PICTURES.md").write_text(text, encoding="utf-8")


def _versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    versions: dict[str, str] = {}
    for name in ("transformers", "torchvision", "pillow", "numpy", "hf-processors-rs"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "not installed"
    return versions


if __name__ == "__main__":
    if any(os.environ.get(name) != "1" for name in THREADS):
        # Libraries read the number of threads when they are loaded.
        os.execve(
            sys.executable, [sys.executable, "-m", "bench.pictures"], os.environ | dict.fromkeys(THREADS, "1")
        )
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    sys.path.insert(0, str(ROOT))
    import conftest  # noqa: F401

    main()
