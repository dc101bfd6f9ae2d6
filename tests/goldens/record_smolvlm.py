"""Records what transformers' SmolVLMProcessor and SmolVLMVideoProcessor make of videos: `make goldens`.

POOLRT_VLLM names the `vllm` program of an environment with torchvision; the interpreter beside it runs the
second half. NUM2WORDS names a folder with the package num2words, which the processor imports.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PATH = Path(__file__).parent / "smolvlm" / "videos.json"
CLIPS = (
    (96, 64, 20, 10.0), (64, 96, 5, 1.0), (100, 75, 41, 29.97), (30, 20, 3, 24.0), (42, 42, 1, 2.0),
    (16, 12, 700, 10.0), (12, 16, 130, 0.1), (8, 8, 66, 0.0005), (10, 7, 67, 1.0), (9, 9, 90, 29.97),
)  # fmt: skip
"""(width, height, frames, frames per second)."""
OPTIONS: tuple[dict[str, Any], ...] = (
    {}, {"fps": 3}, {"num_frames": 4}, {"fps": 2, "num_frames": 7}, {"do_sample_frames": False},
    {"size": {"longest_edge": 64}},
)  # fmt: skip
BASE = {
    "do_resize": True, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5], "resample": 1,
    "max_image_size": {"longest_edge": 42},
}  # fmt: skip
SAMPLING = {"fps": 1, "max_frames": 64, "video_size": {"longest_edge": 42}}
FILES: dict[str, dict[str, dict[str, Any]]] = {
    "published": {
        "preprocessor_config.json": BASE | {"size": {"longest_edge": 100}, "video_sampling": SAMPLING}
    },
    "without a size": {"preprocessor_config.json": BASE | {"video_sampling": SAMPLING}},
    "a file of its own": {
        "preprocessor_config.json": BASE | {"size": {"longest_edge": 100}},
        "video_preprocessor_config.json": BASE | {
            "size": {"height": 50, "width": 61}, "resample": 3, "image_mean": [0.4, 0.5, 0.6], "fps": 2,
            "num_frames": 5, "video_sampling": {"fps": 3, "max_frames": 9, "video_size": {"longest_edge": 7}},
        },
    },
    "within the processor": {
        "processor_config.json": {
            "image_seq_len": 9, "processor_class": "SmolVLMProcessor",
            "image_processor": BASE | {"size": {"longest_edge": 100}},
            "video_processor": BASE | {"size": {"longest_edge": 5000}, "fps": 2, "num_frames": 5},
        },
    },
    "of the size that is published": {
        "preprocessor_config.json": BASE | {
            "size": {"longest_edge": 2048}, "max_image_size": {"longest_edge": 512},
            "video_sampling": SAMPLING | {"video_size": {"longest_edge": 512}},
        },
    },
}  # fmt: skip
"""Files of a repository. The last four are read with the first two clips and no options."""
WORDS = (1, 7, 10, 19, 20, 21, 64, 100, 101, 120, 219, 999, 1000, 1001, 1100, 1234, 20000, 65536)
PROMPTS: tuple[tuple[str, int, int], ...] = (
    ("<video>what is this", 0, 1), ("red <image> paris <video> blue", 1, 1), ("<video><video>", 0, 2),
)  # fmt: skip
"""Text, how many pictures, how many videos."""
MESSAGES: tuple[list[dict[str, Any]], ...] = (
    [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "what is this"}]}],
    [
        {"role": "system", "content": [{"type": "text", "text": "be brief"}]},
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "red"}, {"type": "video"}]},
    ],
)


def main() -> None:
    sys.path.insert(0, str(ROOT))
    from tests.families import idefics

    PATH.parent.mkdir(exist_ok=True)
    python = Path(os.environ["POOLRT_VLLM"]).parent / "python"
    with tempfile.TemporaryDirectory() as place:
        folder = idefics.smolvlm(Path(place) / "checkpoint")
        command = [python, __file__, "--inside", str(folder)]
        subprocess.run(command, env=os.environ | {"PYTHONPATH": os.environ.get("NUM2WORDS", "")}, check=True)
    print(f"{PATH.stat().st_size} bytes")


def inside(folder: Path) -> None:
    """Runs in the interpreter with torchvision."""
    sys.path.insert(0, str(ROOT))
    from num2words import num2words  # pyright: ignore[reportMissingImports]
    from transformers import AutoTokenizer
    from transformers.models.smolvlm.image_processing_smolvlm import SmolVLMImageProcessor
    from transformers.models.smolvlm.processing_smolvlm import SmolVLMProcessor
    from transformers.models.smolvlm.video_processing_smolvlm import SmolVLMVideoProcessor

    versions = {
        name: importlib.metadata.version(name) for name in ("transformers", "torchvision", "num2words")
    }
    tokenizer = AutoTokenizer.from_pretrained(folder)

    def processor(place: Path, tokens: int) -> Any:
        videos = SmolVLMVideoProcessor.from_pretrained(place)
        pictures = SmolVLMImageProcessor.from_pretrained(folder)
        return SmolVLMProcessor(pictures, tokenizer, videos, image_seq_len=tokens)

    recorded: dict[str, Any] = {
        "versions": versions,
        "words": {str(number): num2words(number) for number in WORDS}, "videos": {}, "files": {},
        "prompts": [], "conversations": [],
    }  # fmt: skip
    for name, files in FILES.items():
        with tempfile.TemporaryDirectory() as place:
            for file, content in files.items():
                (Path(place) / file).write_text(json.dumps(content), encoding="utf-8")
            read = processor(Path(place), 9)
        recorded["files"][name] = [video(read, *clip, {}) for clip in CLIPS[:2]]
    read = processor(folder, 9)
    for clip in CLIPS:
        for options in OPTIONS:
            if options.get("do_sample_frames", True) or clip[2] <= 64:
                recorded["videos"][key(clip, options)] = video(read, *clip, options)
    for text, pictures, videos in PROMPTS:
        recorded["prompts"].append(prompt(read, text, pictures, videos))
    for messages in MESSAGES:
        text = read.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        recorded["conversations"].append(text)
    PATH.write_text(json.dumps(recorded, indent=1) + "\n", encoding="utf-8")


def key(clip: tuple[int, int, int, float], options: dict[str, Any]) -> str:
    width, height, frames, fps = clip
    return f"{width}x{height}, {frames} frames, {fps} fps, {json.dumps(options)}"


def metadata(frames: int, fps: float) -> dict[str, Any]:
    numbers = list(range(frames))
    return {"fps": fps, "total_num_frames": frames, "duration": frames / fps, "frames_indices": numbers}


def video(
    read: Any, width: int, height: int, frames: int, fps: float, options: dict[str, Any]
) -> dict[str, str]:
    """Digest of the pixels, and the text around the frames."""
    from tests.pictures import clip_of_frames, digest

    values = read.video_processor(
        [clip_of_frames(width, height, frames)], video_metadata=[metadata(frames, fps)], return_metadata=True,
        return_tensors="pt", **{"do_sample_frames": True, **options},
    )  # fmt: skip
    assert bool(values["pixel_attention_mask"].all()), "a video alone is not padded"
    return {
        "pixels": digest(values["pixel_values"][0].numpy()),
        "text": short(read.replace_video_token(values, 0)),
    }


def short(text: str) -> str:
    """A text, of which the middle may be a hash."""
    digits = hashlib.sha256(text.encode()).hexdigest()[:24]
    return text if len(text) <= 700 else f"{text[:200]} ... {digits} ... {text[-100:]}"


def prompt(read: Any, text: str, pictures: int, videos: int) -> dict[str, Any]:
    """Ids of a prompt, and digests of its pictures' tiles and of each video's frames."""
    from tests.pictures import clip_of_frames, digest, drawn

    clips = [clip_of_frames(96, 64, 20 + number) for number in range(videos)]
    shown = [[drawn(120, 60, number) for number in range(pictures)]]
    more: dict[str, Any] = {"images": shown} if pictures else {}
    facts = [metadata(len(clip), 10.0) for clip in clips]
    inputs = read(
        text=[text],
        videos=[clips],
        video_metadata=[facts],
        do_sample_frames=True,
        return_tensors="pt",
        **more,
    )
    tiles = read.image_processor(shown, return_tensors="pt")["pixel_values"][0] if pictures else None
    return {
        "ids": " ".join(map(str, inputs["input_ids"][0].tolist())),
        "tiles": None if tiles is None else digest(tiles.numpy()),
    }


if __name__ == "__main__":
    inside(Path(sys.argv[2])) if sys.argv[1:2] == ["--inside"] else main()
