"""LoRA adapters for tests, made and run by peft itself: the side that we did not write."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

QUERY_VALUE = ("query", "value")


@contextmanager
def _quiet() -> Iterator[None]:
    """peft and transformers deprecate each other's arguments."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def adapted(
    checkpoint: Path,
    folder: Path,
    *,
    kind: str = "BertModel",
    seed: int = 0,
    base: Any = None,
    **settings: Any,
) -> Path:
    """An adapter of `checkpoint` (transformers' class `kind`), every tensor of it random,
    saved by peft into `folder`."""
    import peft
    import torch
    import transformers

    with _quiet():
        model = base or getattr(transformers, kind).from_pretrained(checkpoint, dtype=torch.float32)
        settings = {"r": 4, "lora_alpha": 6, "target_modules": list(QUERY_VALUE), **settings}
        wrapped = peft.get_peft_model(model, peft.LoraConfig(**settings))
        generator = torch.Generator().manual_seed(seed)
        for name, parameter in wrapped.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if "magnitude" in name:
                parameter.data.mul_(1.0 + 0.3 * noise)
            elif parameter.requires_grad:
                parameter.data.add_(0.25 * noise)
        wrapped.save_pretrained(str(folder))
    return folder


def reference(checkpoint: Path, adapter: Path, *, kind: str = "BertModel", **settings: Any) -> Any:
    """The adapted model as peft runs it: the adapter beside the weights, not merged. `settings` go to
    the model's configuration."""
    import peft
    import torch
    import transformers

    with _quiet():
        model = getattr(transformers, kind).from_pretrained(
            checkpoint, dtype=torch.float32, attn_implementation="eager", **settings
        )
        return peft.PeftModel.from_pretrained(model, str(adapter)).eval()
