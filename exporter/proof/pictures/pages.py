"""transformers' ColPaliForRetrieval and ColModernVBertForRetrieval as readers of pages and of questions.

Their processors write the prompts of both sides, so those are compared too.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ....runtime.artifact.images import Kernel
from ....runtime.artifact.manifest import Task
from ....runtime.errors import InputError
from ....runtime.inputs.multimodal.contents import Content, Source
from ....runtime.inputs.preparation import Preparation
from ....runtime.outputs import Floats
from ...base.quiet import silent_transformers
from . import drawn
from .beside import Missing, kernel_of, refuse_lacking
from .prompted import TEXT, Prompt, Shown

CLASSES = ("ColPaliForRetrieval", "ColModernVBertForRetrieval")
"""Published classes that transformers has with a processor of their own."""
SIZES = ((200, 100), (300, 90), (96, 96), (70, 66))
"""(width, height) of the pages: none is so tall that Pillow 13 turns the order of its passes."""
QUESTIONS = (TEXT, "Red?")


class Pages:
    """A class over one checkpoint's files, in float32.

    Args:
        folder: of config.json, the weights, the tokenizer and the processor.
        published: the class, one of CLASSES.
    """

    def __init__(self, folder: Path, published: str) -> None:
        with silent_transformers():
            self._open(folder, published)
        self.name = f"transformers {importlib.metadata.version('transformers')} {published}"
        pictures = self._processor.image_processor
        self.processor = type(pictures).__name__
        self.kernel: Kernel = kernel_of(pictures)

    def _open(self, folder: Path, published: str) -> None:
        """Raises Missing where transformers does not read the files."""
        import torch
        import transformers

        options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
        try:
            config = transformers.AutoConfig.from_pretrained(str(folder), **options)
            self._processor: Any = transformers.AutoProcessor.from_pretrained(str(folder), **options)
            model, loaded = getattr(transformers, published).from_pretrained(
                str(folder), config=config, dtype=torch.float32, output_loading_info=True, **options
            )
        except Exception as error:  # each means that the library does not read these files here
            reason = " ".join(str(error).split())[:160]
            raise Missing(f"its pictures are not compared, {published} does not open: {reason}") from None
        refuse_lacking(published, loaded)
        if not (hasattr(self._processor, "process_images") and hasattr(self._processor, "process_queries")):
            raise Missing("its pictures are not compared, its files name no processor of pages and questions")
        self._model: Any = model.eval()

    def read(self, text: str, pictures: Sequence[drawn.Pixels]) -> Shown:
        """One page alone, or the question `text`, with the vectors of its tokens [tokens, width].

        Raises Missing where the class fails on them.
        """
        import torch

        try:
            inputs = self._inputs(text, pictures)
            with torch.inference_mode():
                vectors = self._model(**inputs).embeddings[0].float().numpy()
        except Exception as error:  # the files may lack what the processor needs
            reason = " ".join(str(error).split())[:160]
            raise Missing(f"its pictures are not compared, {self.name} fails on them: {reason}") from None
        pixels = None
        if pictures:
            values = inputs["pixel_values"].float().numpy()
            pixels = values.reshape(-1, *values.shape[-3:])
        return Shown(ids=inputs["input_ids"][0].tolist(), pixels=pixels, hidden=np.asarray(vectors))

    def _inputs(self, text: str, pictures: Sequence[drawn.Pixels]) -> dict[str, Any]:
        from PIL import Image

        if not pictures:
            return dict(self._processor.process_queries([text]))
        inputs = dict(self._processor.process_images([Image.fromarray(pixels) for pixels in pictures]))
        inputs.pop("labels", None)
        return inputs

    def answers(self, vectors: Floats) -> dict[Task, Floats]:
        """The vectors of tokens are what the class returns."""
        return {"token_embed": vectors}


def prompts(preparation: Preparation) -> list[Prompt]:
    """Every page and question that fits into the model."""
    known: list[Prompt] = []
    for size in SIZES:
        page = drawn.pattern(*size)
        with contextlib.suppress(InputError):  # longer than a tiny model's limit
            [item] = preparation.singles([Content("", (Source("image", page),))], role="document")
            known.append(("", [page], item))
    for question in QUESTIONS:
        with contextlib.suppress(InputError):
            [item] = preparation.singles([question], role="query")
            known.append((question, [], item))
    return known
