"""LoRA requests choose among opened models, because each adapter is merged into its checkpoint at export."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..answers import params
from ..answers.lora_request import LoRARequest, LoRARequests
from ..artifact.manifest import FILE
from ..errors import InputError
from ..inputs.multimodal.prompt_forms import prompts_from
from ..model import Model
from ..outputs import Outputs

Ask = Callable[[Model, Any, Any], Outputs[Any]]
"""(model, prompts, pooling_params) -> outputs."""


class AdapterModels:
    """The base model and its adapters, each opened when a request first names it.

    Args:
        open: artifact folder -> model; None: LoRA is off.
        merge: adapter -> artifact of the base's checkpoint with that adapter; None: the base was opened from
            an artifact, so its checkpoint is not known.
    """

    def __init__(
        self, base: Model, open: Callable[[Path], Model] | None, merge: Callable[[str], Path] | None = None
    ) -> None:
        self.base, self._open, self._merge = base, open, merge
        self._opened: dict[Path, Model] = {}
        self._lock = threading.Lock()

    def answers(self, requested: LoRARequests, prompts: Any, pooling_params: Any, ask: Ask) -> Outputs[Any]:
        """Computes each prompt with its own model, all prompts of one model in one call. Returns the outputs
        in the order of the prompts. Raises InputError.

        Args:
            requested: one adapter for all prompts, or one (or None, the base) for each.
            pooling_params: one for all prompts, or one for each.
        """
        if not isinstance(requested, list | tuple):
            return ask(self.model(requested), prompts, pooling_params)
        listed = prompts_from(prompts)
        if not listed:
            raise InputError("You must pass at least one prompt", field="input")
        if len(requested) != len(listed):
            raise InputError(
                f"The lengths of prompts ({len(listed)}) and lora_request "
                f"({len(requested)}) must be the same.",
                field="lora_request",
            )
        prompt_params = params.per_prompt(pooling_params, len(listed))
        groups: dict[Model, list[int]] = {}
        for index, model in enumerate([self.model(request) for request in requested]):
            groups.setdefault(model, []).append(index)
        rows: dict[int, Any] = {}
        slots = 0.0
        for model, indices in groups.items():
            outputs = ask(
                model, [listed[index] for index in indices], [prompt_params[index] for index in indices]
            )
            slots += outputs.prompt_tokens * (1 + outputs.padding)
            rows.update(zip(indices, outputs.requests, strict=True))
        requests = tuple(replace(rows[index], request_id=str(index)) for index in range(len(listed)))
        return Outputs(requests, slots / max(sum(request.prompt_tokens for request in requests), 1) - 1)

    def single(self, requested: LoRARequests) -> Model:
        """Returns the model of a score, whose two sides one model must embed. Raises InputError for a
        list that names several."""
        if not isinstance(requested, list | tuple):
            return self.model(requested)
        models = {self.model(request) for request in requested}
        if len(models) != 1:
            raise InputError(
                "lora_request: one call of score uses one adapter; call it once for each",
                field="lora_request",
            )
        return models.pop()

    def model(self, requested: LoRARequest | None) -> Model:
        """Returns the model that a request names, None the base. Raises InputError for an adapter that is not
        one of the base's checkpoint."""
        if requested is None:
            return self.base
        if not isinstance(requested, LoRARequest):
            raise InputError(
                "lora_request: expected poolrt.runtime.LoRARequest(name, id, path), found "
                f"{type(requested).__name__}",
                field="lora_request",
            )
        if self._open is None:
            raise InputError(
                "lora_request: LoRA is not enabled; open the model with LLM(..., enable_lora=True)",
                field="lora_request",
            )
        folder = Path(requested.lora_path).resolve()
        with self._lock:
            if folder not in self._opened:
                self._opened[folder] = self._checked(requested, folder, self._open)
            return self._opened[folder]

    def _checked(self, requested: LoRARequest, folder: Path, open: Callable[[Path], Model]) -> Model:
        if not (folder / FILE).is_file() and self._merge is not None:
            folder = self._merge(str(folder) if folder.exists() else requested.lora_path)
        if not (folder / FILE).is_file():
            raise InputError(
                f"lora_request: {requested.lora_path} is not an artifact ({FILE} is missing); adapters are "
                f"merged at export: poolrt export CHECKPOINT --lora {requested.lora_path}, "
                "then name what that made",
                field="lora_request",
            )
        model = open(folder)
        source, base = model.manifest.source, self.base.manifest.source
        if source.adapter is None or source.weights != base.weights:
            model.close()
            difference = "has no adapter in it" if source.adapter is None else "adapts other weights"
            raise InputError(
                f"lora_request: {requested.lora_path} {difference}; expected one of {base.checkpoint}",
                field="lora_request",
            )
        return model
