"""Records what the real vLLM answers for the tiny checkpoints on Qwen2-VL, on pictures and a video, one .npz
per checkpoint, and what transformers' processor makes of videos: `make goldens`.

POOLRT_VLLM names the `vllm` program of an environment with torchvision; the interpreter beside it runs the
second halves. Two pictures on one side of a pair are not recorded, because vLLM swaps them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
FOLDER = Path(__file__).parent / "qwen2_vl"
EMBEDDERS: dict[str, dict[str, Any]] = {"qwen2_vl": {}, "qwen2_5_vl": {"newer": True}}
PAIRS: tuple[tuple[str, str], ...] = (
    ("the red planet", "mars"), ("the red planet", "wide.png"), ("tall.png", "mars"),
    ("tall.png", "wide.png"), ("", "strip.png"),
)  # fmt: skip
"""Query and document: texts, or pictures of qwen3_vl_prompts.py."""
FRAMES = ((96, 64, 20, 10.0), (64, 64, 5, 1.0), (160, 120, 9, 2.0), (100, 75, 41, 29.97), (70, 20, 16, 4.0))
"""(width, height, frames, frames per second) of videos."""
OPTIONS: tuple[dict[str, Any], ...] = (
    {}, {"fps": 1}, {"do_sample_frames": False}, {"size": {"shortest_edge": 784, "longest_edge": 4704}},
)  # fmt: skip
SIZE = {"shortest_edge": 3136, "longest_edge": 602112}


def main() -> None:
    sys.path.insert(0, str(ROOT))
    import numpy as np

    from tests.checkpoints import configure
    from tests.families import qwen2_vl
    from tests.families.qwen3_vl_prompts import CLIP, CLIP_FPS, PICTURES, PROMPTS
    from tests.goldens.record_decoders import SETTINGS

    FOLDER.mkdir(exist_ok=True)
    python = Path(os.environ["POOLRT_VLLM"]).parent / "python"
    for name in sys.argv[1:] or [*EMBEDDERS, "jina_m0", "videos"]:
        with tempfile.TemporaryDirectory() as place:
            stored = Path(place) / "media.npz"
            np.savez(stored, allow_pickle=False, clip=CLIP, **PICTURES)
            request: dict[str, Any] = {"media": str(stored), "out": str(FOLDER / f"{name}.npz")}
            recorder = __file__
            if name in EMBEDDERS:
                folder = qwen2_vl.qwen2_vl(Path(place) / "checkpoint", **EMBEDDERS[name])
                recorder = str(Path(__file__).with_name("record_qwen3_vl.py"))
                prompts = [{"text": prompt.text, "media": prompt.media} for prompt in PROMPTS]
                request |= {"fps": CLIP_FPS, "prompts": prompts, "tasks": ["embed"], "overrides": {}}
                request["checkpoint"] = str(folder)
            elif name == "jina_m0":
                folder = qwen2_vl.jina_m0(Path(place) / "checkpoint")
                configure(folder, auto_map=None)
                request["checkpoint"] = str(folder)
            command = [python, recorder, "--inside", json.dumps(request)]
            done = subprocess.run(command, env=os.environ | SETTINGS, check=False)
            print(f"{name}: {'recorded' if done.returncode == 0 else 'failed'}", flush=True)


def inside(request: dict[str, Any]) -> None:
    """Runs in vLLM's interpreter."""
    if "checkpoint" in request:
        scores(request)
    else:
        (FOLDER / "videos.json").write_text(json.dumps(videos(), indent=1) + "\n", encoding="utf-8")


def scores(request: dict[str, Any]) -> None:
    import base64
    import io

    import numpy as np
    import vllm  # pyright: ignore[reportMissingImports]  # installed in the recording interpreter only
    from PIL import Image  # pyright: ignore[reportMissingImports]  # likewise

    stored = np.load(request["media"])
    model = vllm.LLM(
        model=request["checkpoint"], runner="pooling", dtype="float32", enforce_eager=True,
        max_model_len=2048, max_num_batched_tokens=2048, enable_prefix_caching=False, seed=0,
        limit_mm_per_prompt={"image": 2},
    )  # fmt: skip

    def side(value: str) -> Any:
        if not value.endswith(".png"):
            return value
        file = io.BytesIO()
        Image.fromarray(stored[value.removesuffix(".png")]).save(file, "png")
        url = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
        return {"content": [{"type": "image_url", "image_url": {"url": url}}]}

    arrays: dict[str, Any] = {"versions": np.array(json.dumps({"vllm": vllm.__version__}))}
    for index, (query, document) in enumerate(PAIRS):
        [answer] = model.score(side(query), side(document), use_tqdm=False)
        arrays[f"score_{index}"] = np.float32(answer.outputs.score)
        arrays[f"ids_{index}"] = np.asarray(answer.prompt_token_ids, dtype=np.int32)
    np.savez_compressed(request["out"], **arrays)


def videos() -> dict[str, Any]:
    """Pixels, grid and seconds between groups of frames, as transformers' Qwen2VLVideoProcessor has them."""
    sys.path.insert(0, str(ROOT))
    from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor

    from tests.pictures import clip_of_frames, digest

    recorded: dict[str, Any] = {}
    for width, height, frames, fps in FRAMES:
        for options in OPTIONS:
            metadata = {"fps": fps, "total_num_frames": frames, "duration": frames / fps}
            asked = {"do_sample_frames": True, "fps": 2, **options}
            values = Qwen2VLVideoProcessor(size=SIZE)(
                [clip_of_frames(width, height, frames)], video_metadata=[metadata], return_metadata=True,
                return_tensors="pt", **asked,
            )  # fmt: skip
            recorded[f"{width}x{height}, {frames} frames, {fps} fps, {json.dumps(options)}"] = {
                "pixels": digest(values["pixel_values_videos"].numpy()),
                "grid": values["video_grid_thw"][0].tolist(),
                "seconds": 2 / values["video_metadata"][0].sampled_fps,
            }
    return recorded


if __name__ == "__main__":
    inside(json.loads(sys.argv[2])) if sys.argv[1:2] == ["--inside"] else main()
