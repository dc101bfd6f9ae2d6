"""transformers' classes for LLaVA-NeXT, PaliGemma, Gemma 3, Idefics3 and SmolVLM as readers of prompts with
pictures, each with its own processor."""

from __future__ import annotations

import importlib.metadata
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ....runtime.artifact.images import Kernel
from ....runtime.outputs import Floats
from ...base.quiet import silent_transformers
from ...files.adapter import LoraAdapter
from . import adapted, drawn, passes
from .beside import Missing, kernel_of, refuse_lacking
from .prompted import Shown

STEMS = {
    "llava_next": "LlavaNext",
    "paligemma": "PaliGemma",
    "gemma3": "Gemma3",
    "idefics3": "Idefics3",
    "smolvlm": "SmolVLM",
}
"""model_type -> what the names of transformers' classes start with."""
FAMILIES = (
    "LlavaNextModel",
    "PaliGemmaModel",
    "Gemma3ForConditionalGeneration",
    "Idefics3Model",
    "ColIdefics3",
)
"""First names of the families whose body is one of these classes."""
PROCESSORS = {"SmolVLM": "Idefics3"}
"""Classes whose own processor needs packages for video -> the one that writes the same prompts."""


class Conditional:
    """One of the classes over one checkpoint's files, in float32.

    Args:
        folder: of config.json, the weights, the tokenizer and the processor.
        config: config.json with overrides.
    """

    def __init__(self, folder: Path, config: Mapping[str, Any]) -> None:
        stem = STEMS[str(config.get("model_type"))]
        self._class = f"{stem}ForConditionalGeneration"
        with silent_transformers():
            self._open(folder, config, f"{PROCESSORS.get(stem, stem)}Processor")
        pictures = self._processor.image_processor
        self.name = f"transformers {importlib.metadata.version('transformers')} {self._class}"
        self.processor = type(pictures).__name__
        self.kernel: Kernel = kernel_of(pictures)

    def _open(self, folder: Path, config: Mapping[str, Any], processor: str) -> None:
        """Raises Missing where transformers does not read the files."""
        import torch
        import transformers

        options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
        try:
            # A processor may change the tokenizer it has; text alone is read as without one.
            self._tokenizer: Any = transformers.AutoTokenizer.from_pretrained(str(folder), **options)
            self._processor: Any = getattr(transformers, processor).from_pretrained(str(folder), **options)
            kind: Any = getattr(transformers, self._class)
            settings = kind.config_class.from_dict(dict(config))
            # Only eager attention caps the scores of Gemma 2.
            model, loaded = kind.from_pretrained(
                str(folder), config=settings, dtype=torch.float32, attn_implementation="eager",
                output_loading_info=True, **options,
            )  # fmt: skip
        except Exception as error:  # each means that the library does not read these files here
            reason = " ".join(str(error).split())[:160]
            raise Missing(f"its pictures are not compared, {self._class} does not open: {reason}") from None
        # Models without a language model's output leave it out.
        refuse_lacking(self._class, loaded, optional=("lm_head.weight",))
        self._model: Any = model.eval()

    def adapted(self, adapter: LoraAdapter, spelled: Callable[[str], str]) -> None:
        """Lets PEFT put a LoRA adapter on the class; as of QwenVL."""
        adapted.put_on(self._model, adapter, spelled)

    def read(self, text: str, pictures: Sequence[drawn.Pixels]) -> Shown:
        """The prompt alone, with hidden states [tokens, width]. Raises Missing where the class fails."""
        import torch

        try:
            inputs = self._inputs(text, pictures)
            with torch.inference_mode():
                output = self._model.model(**inputs, use_cache=False)
        except Exception as error:  # the files may lack what the processor needs
            reason = " ".join(str(error).split())[:160]
            raise Missing(f"its pictures are not compared, {self.name} fails on them: {reason}") from None
        hidden = output.last_hidden_state[0].float().numpy()
        pixels = self._tiles(inputs) if pictures else None
        return Shown(ids=inputs["input_ids"][0].tolist(), pixels=pixels, hidden=np.asarray(hidden))

    def _inputs(self, text: str, pictures: Sequence[drawn.Pixels]) -> dict[str, Any]:
        import torch
        from PIL import Image

        if not pictures:
            inputs = dict(self._tokenizer([text], return_tensors="pt"))
            if "token_type_ids" in self._processor.model_input_names:  # a prefix has type 0
                inputs["token_type_ids"] = torch.zeros_like(inputs["input_ids"])
            return inputs
        sources = [Image.fromarray(pixels) for pixels in pictures]
        with passes.horizontal_first(), warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # numpy's, of arrays made of tensors
            inputs = dict(self._processor(text=[text], images=[sources], return_tensors="pt"))
        inputs.pop("labels", None)
        return inputs

    def _tiles(self, inputs: Mapping[str, Any]) -> Floats:
        """Everything that the processor prepared [tiles, 3, height, width], without tiles of padding."""
        values = inputs["pixel_values"].float().numpy()
        if "image_sizes" in inputs:  # LLaVA-NeXT's: pictures with fewer tiles have zeros behind them
            values = np.concatenate([picture[_used(picture)] for picture in values])
        return values.reshape(-1, *values.shape[-3:])

    def logits(self, hidden: Floats) -> Floats:
        """What the language model says of each token of the vocabulary, [tokens, vocabulary]."""
        import torch

        with torch.inference_mode():
            return np.asarray(self._model.lm_head(torch.from_numpy(hidden)).float().numpy())


def _used(tiles: Floats) -> Any:
    return np.abs(tiles).reshape(len(tiles), -1).max(axis=1) > 0
