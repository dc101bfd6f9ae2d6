"""Records what transformers' processors and vLLM's loader make of the pictures of tests/pictures.py: `make
goldens`.

POOLRT_VLLM names the `vllm` program of an environment with torchvision; the interpreter beside it runs the
second half. POOLRT_PILLOW_12 names a folder with a Pillow below 13 (`pip install --target FOLDER`), because
Pillow 13 turns the order of its passes for some sizes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
FRAMES = (
    (96, 64, 20, 10.0), (64, 64, 3, 1.0), (160, 120, 9, 2.0), (160, 128, 75, 24.0), (100, 75, 41, 29.97),
    (48, 200, 12, 3.0), (20, 70, 16, 4.0), (64, 64, 30, None),
)  # fmt: skip
"""(width, height, frames, frames per second) of videos."""
VIDEO_OPTIONS: tuple[dict[str, Any], ...] = (
    {}, {"num_frames": 7}, {"fps": 1}, {"size": {"shortest_edge": 4096, "longest_edge": 65536}},
)  # fmt: skip
VIDEO_SIZE = {"shortest_edge": 4096, "longest_edge": 25165824}


def main() -> None:
    sys.path.insert(0, str(ROOT))
    from tests.pictures import FOLDER, filmed

    FOLDER.mkdir(exist_ok=True)
    for name, data in filmed().items():
        if not (FOLDER / name).exists():
            (FOLDER / name).write_bytes(data)
    program, older = Path(os.environ["POOLRT_VLLM"]), os.environ["POOLRT_PILLOW_12"]
    subprocess.run(
        [program.parent / "python", __file__, "--inside"], check=True, env=os.environ | {"PYTHONPATH": older}
    )


def inside() -> None:
    sys.path.insert(0, str(ROOT))
    import numpy as np
    import PIL
    import torch
    import transformers

    from tests.pictures import FOLDER, PROCESSORS, digest, drawn, encoded

    assert PIL.__version__ < "13", PIL.__version__
    torch.set_num_threads(1)
    FOLDER.mkdir(exist_ok=True)
    for name, data in encoded().items():
        if not (FOLDER / name).exists():
            (FOLDER / name).write_bytes(data)
    arrays: dict[str, Any] = {}
    pixels: dict[str, str] = {}
    for label, processor in PROCESSORS.items():
        for kernel in processor.kernels:
            prepare = _processor(processor, kernel)
            for number, (width, height) in enumerate(processor.sizes):
                values = prepare(drawn(width, height, number))
                pixels[f"{label}, {kernel}, {width}x{height}"] = (
                    str(values) if values is None else digest(values)
                )
                if label == "clip padded" and number < 2:
                    arrays[f"{kernel}, {width}x{height}"] = values
    versions = {
        "transformers": transformers.__version__, "torch": torch.__version__, "pillow": PIL.__version__,
    }  # fmt: skip
    record = {
        "versions": versions,
        "pixels": pixels,
        "files": _files(),
        "videos": _videos(),
        "clips": _clips(),
    }
    (FOLDER / "recorded.json").write_text(json.dumps(record, indent=1) + "\n")
    np.savez_compressed(FOLDER / "arrays.npz", **arrays)


def _processor(processor: Any, kernel: str) -> Any:
    """Pixels [height, width, 3] -> pixel_values of transformers, None where it refuses the picture."""
    from importlib import import_module

    from PIL import Image

    family = {"CLIP": "clip", "Siglip": "siglip", "Qwen2VL": "qwen2_vl", "Idefics3": "idefics3"}[
        processor.name
    ]
    middle, end = ("pil_", "Pil") if kernel == "pillow" else ("", "")
    module = import_module(f"transformers.models.{family}.image_processing_{middle}{family}")
    instance = getattr(module, f"{processor.name}ImageProcessor{end}")(**processor.settings)

    def prepare(pixels: Any) -> Any:
        try:
            values = instance(images=[Image.fromarray(pixels)], return_tensors="pt")["pixel_values"].numpy()
        except ValueError as error:
            if "aspect ratio" not in str(error):
                raise
            return None
        return values if processor.name == "Qwen2VL" else values[0]

    return prepare


def _files() -> dict[str, str]:
    """RGB bytes of the files as vLLM decodes them. A transparent colour of RGB is left out: vLLM shows
    it, while transformers puts white in its place."""
    import numpy as np
    from vllm.multimodal.media.image import ImageMediaIO  # pyright: ignore[reportMissingImports]

    from tests.pictures import FOLDER, digest, encoded

    loader = ImageMediaIO()
    return {
        name: digest(np.asarray(loader.load_bytes((FOLDER / name).read_bytes()).media))
        for name in encoded()
        if name != "rgb_key.png"
    }


def _clips() -> dict[str, Any]:
    """Frames that vLLM's loader for Qwen3-VL samples of video files, and what it knows of them."""
    from vllm.multimodal.video import Qwen3VLVideoBackend  # pyright: ignore[reportMissingImports]

    from tests.pictures import CLIPS, FOLDER, digest

    recorded = {}
    for name in CLIPS:
        frames, metadata = Qwen3VLVideoBackend.load_bytes((FOLDER / name).read_bytes())
        keys = ("total_num_frames", "fps", "frames_indices")
        recorded[name] = {"pixels": digest(frames)} | {key: metadata[key] for key in keys}
    return recorded


def _videos() -> dict[str, Any]:
    """Pixels, grid and text of videos as transformers' Qwen3VLProcessor prepares them."""
    from transformers.models.qwen3_vl.processing_qwen3_vl import Qwen3VLProcessor
    from transformers.models.qwen3_vl.video_processing_qwen3_vl import Qwen3VLVideoProcessor

    from tests.pictures import clip_of_frames, digest

    # Only the parts that write the text are needed of the processor; a tokenizer is not.
    writer = Qwen3VLProcessor.__new__(Qwen3VLProcessor)
    writer.video_processor = Qwen3VLVideoProcessor(size=VIDEO_SIZE)
    writer.video_token = "<|video_pad|>"
    writer.vision_start_token, writer.vision_end_token = "<|vision_start|>", "<|vision_end|>"
    recorded = {}
    for width, height, frames, fps in FRAMES:
        for options in VIDEO_OPTIONS:
            metadata = {"fps": fps, "total_num_frames": frames, "duration": frames / (fps or 24)}
            more = dict(options)
            if "num_frames" in more:
                more["fps"] = None
            values = writer.video_processor(
                [clip_of_frames(width, height, frames)], video_metadata=[metadata], do_sample_frames=True,
                return_metadata=True, return_tensors="pt", **more,
            )  # fmt: skip
            recorded[f"{width}x{height}, {frames} frames, {fps} fps, {json.dumps(options)}"] = {
                "pixels": digest(values["pixel_values_videos"].numpy()),
                "grid": values["video_grid_thw"][0].tolist(),
                "text": writer.replace_video_token(values, 0),
            }
    return recorded


if __name__ == "__main__":
    inside() if sys.argv[1:] == ["--inside"] else main()
