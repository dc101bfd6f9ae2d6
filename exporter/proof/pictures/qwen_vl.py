"""transformers' classes for Qwen2-VL, Qwen2.5-VL, Qwen3-VL and Qwen3.5 as readers of prompts with pictures.

Published families on Qwen3-VL keep its tensors under other prefixes and leave the last norm or the causal
mask out. Their own code is never run. Their bodies are this class, which takes a prefix by `key_mapping`, a
mask of four axes as it is, and shows a hook what goes into its norm.
"""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ....runtime.artifact.images import Kernel, Patches
from ....runtime.outputs import Floats
from ...base.quiet import silent_transformers
from ...families import qwen3_5
from ...files.adapter import LoraAdapter
from . import adapted, drawn
from .beside import Missing, kernel_of, refuse_lacking
from .prompted import Shown

KEYS = {
    r"^(?:.*\.)?model\.(layers|embed_tokens|norm)\.": r"model.language_model.\1.",
    r"^(?:.*\.)?(visual|language_model)\.": r"model.\1.",
    r"^(?:.*\.)?lm_head\.": "lm_head.",
}
"""Name of a tensor in any of the published layouts -> its name in the class."""
BODIES = {
    "Qwen2VLModel": "Qwen2VL",
    "JinaVLForSequenceClassification": "Qwen2VL",
    "JinaEmbeddingsV4Model": "Qwen2_5_VL",
    "ColQwen2ForRetrieval": "Qwen2VL",
    "ColQwen2_5": "Qwen2_5_VL",
    "Qwen2_5_VLModel": "Qwen2_5_VL",
    "Qwen3VLModel": "Qwen3VL",
    "ColQwen3": "Qwen3VL",
    "OpsColQwen3Model": "Qwen3VL",
    "Qwen3VLNemotronEmbedModel": "Qwen3VL",
    "Qwen3_5Model": "Qwen3_5",
    "ColQwen3_5": "Qwen3_5",
}
"""First name of a family -> what the names of transformers' classes start with."""
BOTH_WAYS = ("Qwen3VLNemotronEmbedModel",)
"""Published classes in which every token attends to all others and the last norm is left out."""


class QwenVL:
    """One of the classes over one checkpoint's files, in float32.

    Args:
        folder: of config.json, the weights, the tokenizer and the processor.
        config: config.json with overrides.
        published: the first name of its family.
        bounds: of the pixels of a picture, in place of those that the files state.
    """

    def __init__(
        self, folder: Path, config: Mapping[str, Any], published: str, bounds: Patches | None = None
    ) -> None:
        self.both_ways = published in BOTH_WAYS
        self._size = (
            {}
            if bounds is None
            else {"size": {"shortest_edge": bounds.min_pixels, "longest_edge": bounds.max_pixels}}
        )
        self._class = f"{BODIES[published]}ForConditionalGeneration"
        with silent_transformers():
            self._open(folder, config)
        self.name = f"transformers {importlib.metadata.version('transformers')} {self._class}"
        self.processor = type(self._pictures).__name__
        self.kernel: Kernel = kernel_of(self._pictures)
        self._placeholder = str(getattr(self._tokenizer, "image_token", "<|image_pad|>"))
        self._unnormed: Any = None
        self._model.model.language_model.norm.register_forward_pre_hook(self._keep)

    def _open(self, folder: Path, config: Mapping[str, Any]) -> None:
        """Raises Missing where transformers does not read the files."""
        import torch
        import transformers

        try:
            self._tokenizer: Any = transformers.AutoTokenizer.from_pretrained(
                str(folder), local_files_only=True, trust_remote_code=False
            )
            self._pictures: Any = transformers.AutoImageProcessor.from_pretrained(
                str(folder), local_files_only=True, trust_remote_code=False
            )
            kind: Any = getattr(transformers, self._class)
            # transformers' ColQwen2 has the settings of its body inside its own.
            inner = config.get("vlm_config") or config
            settings = kind.config_class.from_dict({**inner, "model_type": kind.config_class.model_type})
            if kind.config_class.model_type == "qwen3_5":
                settings.text_config.is_causal = qwen3_5.causal(folder.name, config)
            read: Any = kind.from_pretrained
            model, loaded = read(
                str(folder), config=settings, local_files_only=True, dtype=torch.float32, key_mapping=KEYS,
                output_loading_info=True,
            )  # fmt: skip
        except Exception as error:  # each means that the library does not read these files here
            reason = " ".join(str(error).split())[:160]
            raise Missing(f"its pictures are not compared, {self._class} does not open: {reason}") from None
        # Models without a language model's output leave it out.
        refuse_lacking(self._class, loaded, optional=("lm_head.weight",))
        self._model: Any = model.eval()

    def _keep(self, _: Any, inputs: Any) -> None:
        self._unnormed = inputs[0]

    def adapted(self, adapter: LoraAdapter, spelled: Callable[[str], str]) -> None:
        """Lets PEFT put a LoRA adapter on the class. What it changes of a head stays with the head.

        `spelled`: as in the family's record; adapters have the names of their time. Raises Missing where
        PEFT cannot do it, or is not installed.
        """
        adapted.put_on(self._model, adapter, spelled)

    def read(self, text: str, pictures: Sequence[drawn.Pixels]) -> Shown:
        """The prompt alone, with hidden states [tokens, width]."""
        import torch
        from PIL import Image

        inputs: dict[str, Any] = {}
        if pictures:
            sources = [Image.fromarray(pixels) for pixels in pictures]
            inputs = dict(self._pictures(images=sources, return_tensors="pt", **self._size))
            merged = self._model.config.vision_config.spatial_merge_size**2
            counts = iter((inputs["image_grid_thw"].prod(-1) // merged).tolist())
            text = re.sub(re.escape(self._placeholder), lambda mark: mark[0] * next(counts), text)
        tokens = torch.tensor([self._tokenizer(text)["input_ids"]])
        kinds = (tokens == self._model.config.image_token_id).long()
        inner = self._model.model
        if self.both_ways:
            length = tokens.shape[1]
            places, _ = inner.get_rope_index(tokens, kinds, image_grid_thw=inputs.get("image_grid_thw"))
            inputs |= {"attention_mask": torch.zeros(1, 1, length, length), "position_ids": places}
        with torch.inference_mode():
            output = inner(input_ids=tokens, mm_token_type_ids=kinds, use_cache=False, **inputs)
        hidden = self._unnormed if self.both_ways else output.last_hidden_state
        pixels = inputs["pixel_values"].float().numpy() if pictures else None
        return Shown(ids=tokens[0].tolist(), pixels=pixels, hidden=hidden[0].float().numpy())

    def logits(self, hidden: Floats) -> Floats:
        """What the language model says of each token of the vocabulary, [tokens, vocabulary]."""
        import torch

        with torch.inference_mode():
            return np.asarray(self._model.lm_head(torch.from_numpy(hidden)).float().numpy())
