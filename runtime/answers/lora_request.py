"""vLLM's LoRARequest: which adapter computes a call."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import InputError


@dataclass(frozen=True, slots=True)
class LoRARequest:
    """Names an adapter. Raises InputError for an id below 1 and for an empty path."""

    lora_name: str
    lora_int_id: int
    """From 1 on, and otherwise unused: the path identifies an adapter."""
    lora_path: str
    """An artifact that `poolrt export CHECKPOINT --lora ADAPTER` made; PEFT's own files only where the base
    was opened from a checkpoint."""
    base_model_name: str | None = None

    def __post_init__(self) -> None:
        if self.lora_int_id < 1:
            raise InputError(f"lora_int_id is {self.lora_int_id}, expected 1 or more", field="lora_request")
        if not self.lora_path:
            raise InputError("lora_path cannot be empty", field="lora_request")

    @property
    def name(self) -> str:
        return self.lora_name

    @property
    def path(self) -> str:
        return self.lora_path

    @property
    def adapter_id(self) -> int:
        return self.lora_int_id


LoRARequests = (
    LoRARequest | list[LoRARequest] | list[LoRARequest | None] | tuple[LoRARequest | None, ...] | None
)
"""One for all prompts, or one (or none) for each."""
