"""What a folder or file holds that is no checkpoint of transformers, and what to do with it."""

from __future__ import annotations

from pathlib import Path

# File names, or ends of names that begin with a dot -> what such files are, and how to get a checkpoint. The
# most specific come first.
FORMATS: tuple[tuple[tuple[str, ...], str, str], ...] = (
    ((".gguf", ".ggml"), "GGUF weights of llama.cpp",
    "give the checkpoint they were converted from; its model card names it"),
    (
        (".onnx",), "an ONNX graph, which does not say how its head is computed",
        "give the checkpoint it was exported from (config.json with model.safetensors)",
    ),
    (
        ("tf_model.h5", ".h5", "saved_model.pb"), "TensorFlow weights",
        "convert them with transformers 4: "
        "AutoModel.from_pretrained(FOLDER, from_tf=True).save_pretrained(OTHER)",
    ),
    (
        ("flax_model.msgpack", ".msgpack"), "Flax weights",
        "convert them with transformers 4: "
        "AutoModel.from_pretrained(FOLDER, from_flax=True).save_pretrained(OTHER)",
    ),
    (("openvino_model.bin", "openvino_model.xml"), "an OpenVINO graph",
    "give the checkpoint it was exported from"),
    ((".mlmodel", ".mlpackage"), "a Core ML model", "give the checkpoint it was exported from"),
    ((".engine", ".plan"), "a TensorRT engine", "give the checkpoint it was built from"),
    ((".tflite",), "a TensorFlow Lite model", "give the checkpoint it was exported from"),
    (("rust_model.ot",), "weights of rust-bert", "give the checkpoint they were converted from"),
    (("model.bin",), "weights of CTranslate2 or another library",
    "give the checkpoint they were converted from"),
    (
        (".pth", ".ckpt", "consolidated.safetensors"), "weights in their authors' own layout",
        "convert them to transformers' first, with save_pretrained",
    ),
    ((".safetensors", ".bin", ".pt"), "weights", "give the folder that holds them together with config.json"),
)  # fmt: skip
ADAPTERS = ("adapter_model.safetensors", "adapter_model.bin", "adapter_config.json")
DEEP = ("*", "*/*")


def _is(path: Path, names: tuple[str, ...]) -> bool:
    """Whether a file has one of these names or ends. `pytorch_model.bin` is not a `model.bin`."""
    name = path.name.lower()
    return name in names or name.endswith(tuple(end for end in names if end.startswith(".")))


def of_file(path: Path) -> str | None:
    """`a file of GGUF weights of llama.cpp; ...` for a file of a known format."""
    for ends, what, advice in FORMATS:
        if _is(path, ends):
            return f"a file of {what.removeprefix('a ').removeprefix('an ')}; {advice}"
    return None


def of_folder(folder: Path) -> str | None:
    """`it holds GGUF weights of llama.cpp (model.gguf); ...` for files of other formats in the folder or one
    folder below. Weights of transformers are reported only where they are a variant that is not read."""
    files = sorted(path for pattern in DEEP for path in folder.glob(pattern) if path.is_file())
    for ends, what, advice in FORMATS[:-1]:
        names = [path.relative_to(folder).as_posix() for path in files if _is(path, ends)]
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            return f"it holds {what} ({names[0]}{more}); {advice}"
    variants = [
        path.name
        for path in files
        if path.parent == folder and path.name.startswith(("model.", "pytorch_model."))
    ]
    variants = [name for name in variants if name.endswith((".safetensors", ".bin")) and name not in ADAPTERS]
    if variants:
        return (
            f"it holds {variants[0]}, a variant that is not read; rename it, or save "
            "the model without variant="
        )
    return None
