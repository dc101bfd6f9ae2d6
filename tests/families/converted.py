"""transformers' own classes and processors of the models that become embedders by `--convert`."""

from __future__ import annotations

import importlib
import json
import warnings
from pathlib import Path
from typing import Any

from .llava import pillow_12


class Reference:
    """transformers' model and processor of a folder, one prompt at a time.

    Args:
        name: `SmolVLM` of SmolVLMForConditionalGeneration.
        processor: `Idefics3` of Idefics3Processor, where `name`'s needs packages that are not installed.
        pictures: `Siglip` of SiglipImageProcessorPil.
    """

    def __init__(self, folder: Path, name: str, *, processor: str = "", pictures: str = "") -> None:
        import torch
        import transformers

        self.torch = torch
        kind = getattr(transformers, f"{name}ForConditionalGeneration")
        model, info = kind.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
        )
        assert not info["missing_keys"], info
        self.model = model.eval()
        stem = pictures or name
        module = importlib.import_module(
            f"transformers.models.{stem.lower()}.image_processing_pil_{stem.lower()}"
        )
        settings = json.loads((folder / "preprocessor_config.json").read_text(encoding="utf-8"))
        settings.pop("image_processor_type")
        settings.pop("processor_class", None)
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        # A processor may change the tokenizer it has; text alone is read as without one.
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        path = folder / "processor_config.json"
        whole = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        whole.pop("processor_class", None)
        kind = getattr(transformers, f"{processor or name}Processor")
        self.processor = kind(getattr(module, f"{stem}ImageProcessorPil")(**settings), tokenizer, **whole)

    def inputs(self, prompt: str, *pages: Any) -> dict[str, Any]:
        """The tensors of a prompt and of pictures [height, width, channels]."""
        from PIL import Image

        pictures = [Image.fromarray(page[..., 0] if page.shape[-1] == 1 else page) for page in pages]
        if not pictures:
            # PaliGemma's processor reads no text alone. A prompt is a prefix, whose tokens are of type 0.
            inputs = self.tokenizer([prompt], return_tensors="pt")
            more = "token_type_ids" in self.processor.model_input_names
            return dict(inputs) | (
                {"token_type_ids": self.torch.zeros_like(inputs["input_ids"])} if more else {}
            )
        with pillow_12(), warnings.catch_warnings():
            # PaliGemma's processor makes numpy's arrays of tensors in a way that numpy 2 warns of.
            warnings.simplefilter("ignore", DeprecationWarning)
            inputs = dict(self.processor(text=[prompt], images=[pictures], return_tensors="pt"))
        inputs.pop("labels", None)
        return inputs

    def last(self, prompt: str, *pages: Any) -> tuple[list[int], Any]:
        """Token ids, and the last hidden state of the last token [hidden]."""
        inputs = self.inputs(prompt, *pages)
        with self.torch.inference_mode():
            hidden = self.model.model(**inputs, use_cache=False).last_hidden_state[0, -1]
        return inputs["input_ids"][0].tolist(), hidden.numpy()
