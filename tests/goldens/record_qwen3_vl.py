"""Records what the real vLLM answers for the tiny checkpoints on Qwen3-VL, on pictures and a video, one .npz
per checkpoint, and what Sentence Transformers does: `make goldens`.

POOLRT_VLLM names the `vllm` program of an environment with torchvision; the interpreter beside it runs this
file's second half. POOLRT_TORCHVISION names a folder with torchvision and Pillow, for the processors that
Sentence Transformers opens ask for.

vLLM leaves out the biases of the projections of ColQwen3 and Ops-ColQwen3, so their checkpoints have none
here. It runs Nemotron ColEmbed with a causal mask, so that is not recorded.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Literal

Task = Literal["embed", "token_embed", "classify"]
ROOT = Path(__file__).resolve().parents[2]
FOLDER = Path(__file__).parent / "qwen3_vl"
# Name -> checkpoint, arguments of its builder, tasks, whether vLLM needs its overrides for a reranker.
WANTED: dict[str, tuple[str, dict[str, Any], tuple[Task, ...], bool]] = {
    "qwen3_vl_embedding": ("qwen3_vl_embedding", {}, ("embed", "token_embed"), False),
    "qwen3_vl_reranker": ("qwen3_vl_reranker", {}, ("classify",), True),
    "colqwen3": ("colqwen3", {"bias": False}, ("token_embed",), False),
    "ops_colqwen3": ("ops_colqwen3", {"bias": False}, ("token_embed",), False),
}


def main() -> None:
    sys.path.insert(0, str(ROOT))
    import numpy as np

    from tests.checkpoints import configure
    from tests.families import qwen3_vl
    from tests.families.qwen3_vl_prompts import CLIP, CLIP_FPS, PICTURES, PROMPTS
    from tests.goldens.record_decoders import SETTINGS

    FOLDER.mkdir(exist_ok=True)
    python = Path(os.environ["POOLRT_VLLM"]).parent / "python"
    for name in sys.argv[1:] or [*WANTED, "sentence_transformers"]:
        if name == "sentence_transformers":
            path = {"PYTHONPATH": os.environ["POOLRT_TORCHVISION"]}
            subprocess.run([sys.executable, __file__, "--sentences"], env=os.environ | path, check=True)
            continue
        builder, arguments, tasks, reranks = WANTED[name]
        with tempfile.TemporaryDirectory() as place:
            checkpoint = getattr(qwen3_vl, builder)(Path(place) / "checkpoint", **arguments)
            # vLLM knows these classes, and code of their own is not there.
            configure(checkpoint, auto_map=None)
            np.savez(Path(place) / "media.npz", allow_pickle=False, clip=CLIP, **PICTURES)
            request = {
                "checkpoint": str(checkpoint),
                "media": str(Path(place) / "media.npz"),
                "fps": CLIP_FPS,
                "prompts": [{"text": prompt.text, "media": prompt.media} for prompt in PROMPTS],
                "tasks": tasks,
                "overrides": qwen3_vl.RERANKER if reranks else {},
                "out": str(FOLDER / f"{name}.npz"),
            }
            done = subprocess.run(
                [python, __file__, "--inside", json.dumps(request)], env=os.environ | SETTINGS, check=False
            )
            print(f"{name}: {'recorded' if done.returncode == 0 else 'failed'}", flush=True)


def inside(request: dict[str, Any]) -> None:
    """Runs in vLLM's interpreter."""
    import numpy as np
    import torch
    import transformers
    import vllm  # pyright: ignore[reportMissingImports]  # installed in the recording interpreter only
    from PIL import Image  # pyright: ignore[reportMissingImports]  # likewise

    stored = np.load(request["media"])
    clip = stored["clip"]
    metadata = {
        "fps": request["fps"], "total_num_frames": len(clip), "duration": len(clip) / request["fps"],
        "frames_indices": list(range(len(clip))), "do_sample_frames": True,
    }  # fmt: skip
    marks = {
        "image": "<|vision_start|><|image_pad|><|vision_end|>",
        "video": "<|vision_start|><|video_pad|><|vision_end|>",
    }

    def prompt(text: str, media: list[str]) -> dict[str, Any]:
        kinds = ["video" if name == "clip" else "image" for name in media]
        data = {
            "image": [Image.fromarray(stored[name]) for name in media if name != "clip"],
            "video": [(clip, metadata) for name in media if name == "clip"],
        }
        written = {"prompt": text.format(*(marks[kind] for kind in kinds))}
        data = {kind: values for kind, values in data.items() if values}
        return written | ({"multi_modal_data": data} if data else {})

    prompts = [prompt(entry["text"], entry["media"]) for entry in request["prompts"]]
    versions = {
        "vllm": vllm.__version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    arrays: dict[str, Any] = {"versions": np.array(json.dumps(versions))}
    for task in request["tasks"]:
        model = vllm.LLM(
            model=request["checkpoint"], runner="pooling", dtype="float32", enforce_eager=True,
            hf_overrides=request["overrides"], max_model_len=2048, max_num_seqs=8,
            max_num_batched_tokens=2048,
            pooler_config={"task": task}, enable_prefix_caching=False, seed=0,
            limit_mm_per_prompt={"image": 2, "video": 1},
        )  # fmt: skip
        for index, answer in enumerate(model.encode(prompts, pooling_task=task, use_tqdm=False)):
            arrays[f"{task}_{index}"] = np.asarray(answer.outputs.data, dtype=np.float32)
            arrays[f"ids_{index}"] = np.asarray(answer.prompt_token_ids, dtype=np.int32)
        del model
    np.savez_compressed(request["out"], **arrays)


def sentences() -> None:
    """Runs with torchvision."""
    sys.path.insert(0, str(ROOT))
    import numpy as np
    from PIL import Image  # pyright: ignore[reportMissingImports]  # of the recording alone
    from sentence_transformers import CrossEncoder, SentenceTransformer

    from tests.families import qwen3_vl
    from tests.families.qwen3_vl_prompts import PICTURES, SENTENCES

    pictures = [Image.fromarray(picture) for picture in PICTURES.values()]
    mixed: list[Any] = [{"image": pictures[0], "text": SENTENCES[0]}]
    arrays: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as place:
        folder = qwen3_vl.qwen3_vl_embedding(Path(place) / "embedding", sentence=True)
        embedder = SentenceTransformer(str(folder), device="cpu")
        inputs: list[Any] = [*SENTENCES, *pictures, *mixed]
        arrays["query"] = np.stack([embedder.encode_query(value) for value in inputs])
        arrays["document"] = np.stack([embedder.encode_document(value) for value in inputs])
        arrays["prompt"] = embedder.encode(SENTENCES[0], prompt="Find it.")
        folder = qwen3_vl.qwen3_vl_reranker(Path(place) / "reranker", sentence=True)
        reranker = CrossEncoder(str(folder), device="cpu")
        pairs = [(SENTENCES[0], value) for value in inputs] + [(pictures[1], pictures[2])]
        arrays["scores"] = np.array([reranker.predict([pair])[0] for pair in pairs])  # pyright: ignore[reportArgumentType]
    np.savez_compressed(FOLDER / "sentence_transformers.npz", allow_pickle=False, **arrays)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--sentences"]:
        sentences()
    elif sys.argv[1:2] == ["--inside"]:
        inside(json.loads(sys.argv[2]))
    else:
        main()
