"""Which form of a route's body a request has, and how vLLM refuses one that has none of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .errors import UNREAD, ApiError
from .kinds import record_of
from .plain_words import sentence
from .problems import Problem, distinct, dotted, message

BOTH_ENDS = "Cannot set both `continue_final_message` and `add_generation_prompt` to True."
PADDED = "padding: 'max_length' is for models of a fixed length, and this one reads every length as it is; leave it out (parameter=padding)"
"""vLLM lets a model see the padding, for pictures' sake; a model of texts then answers something else."""


@dataclass(frozen=True, slots=True)
class Body:
    """The alternative forms of one route's body. `forms` are told as wrong in this order; a form is tried when all `keys` are present."""

    forms: tuple[tuple[tuple[str, ...], type], ...]
    preferred: tuple[int, ...]
    """Order in which the forms are tried: the first that reads without a problem is taken."""
    removed: bool = False
    """Whether vLLM's removed parameters (`normalize`, task `score` and `encode`) are refused by name."""
    task: bool = False
    """The route knows `task`, and takes `score` as `classify`."""

    def read(self, value: Any) -> Any:
        forms = self.forms
        if type(value) is dict:
            if any("messages" in keys for keys, _ in forms):
                refuse_both_ends(value)
            if self.removed:
                refuse_removed(value, accepts_score=self.task)
            refuse_salt(value)
            # An empty conversation is the last thing that a body with other inputs can mean.
            for empty in (False, True) if value.get("messages") == [] else (True,):
                for index in self.preferred:
                    keys, form = forms[index]
                    if all(key in value and (empty or value[key] != [] or key != "messages") for key in keys):
                        problems: list[Problem] = []
                        made = record_of(form).read(value, ("body",), problems)
                        if not problems:
                            if "mm_processor_kwargs" in value or "media_io_kwargs" in value:
                                refuse_media_settings(value)
                            if getattr(made, "padding", None) == "max_length":
                                raise ApiError(400, PADDED, param="padding")
                            return made
        by_form: list[list[Problem]] = [[] for _ in forms]
        for (_, form), problems in zip(forms, by_form, strict=True):
            record_of(form).read(value, ("body",), problems)
        told = [problem for problems in by_form for problem in problems]
        raise ApiError(400, f"{sentence(value, forms, by_form)}\n{message(distinct(told))}", param=dotted(told[0].loc), kind=UNREAD)

    def fits(self, value: Any) -> bool:
        try:
            self.read(value)
        except ApiError:
            return False
        return True


def refuse_both_ends(value: dict[str, Any]) -> None:
    """Of texts too, which have neither: vLLM looks before it knows the form."""
    if value.get("continue_final_message") and value.get("add_generation_prompt"):
        raise ApiError(400, BOTH_ENDS)


def refuse_removed(value: dict[str, Any], *, accepts_score: bool) -> None:
    if "normalize" in value:
        text = "Parameter `normalize` was removed; use `use_activation` instead. (parameter=normalize)"
        raise ApiError(400, text, param="normalize")
    task = value.get("task")
    if task == "encode" or (task == "score" and not accepts_score):
        use = "`token_embed` or `token_classify`" if task == "encode" else "`classify`"
        raise ApiError(400, f"`{task}` task was removed; use {use} instead. (parameter=task)", param="task")


def refuse_salt(value: dict[str, Any]) -> None:
    salt = value.get("cache_salt")
    if salt is not None and (type(salt) is not str or not salt):
        text = "Parameter 'cache_salt' must be a non-empty string if provided. (parameter=cache_salt)"
        raise ApiError(400, text, param="cache_salt")


def refuse_media_settings(value: dict[str, Any]) -> None:
    """Settings of an image or sound reader are refused: no model here has one, and vLLM takes them from trusted clients only."""
    for name in ("mm_processor_kwargs", "media_io_kwargs"):
        if value.get(name):
            text = f"{name}: this model reads text only, so there is nothing to set; leave it out (parameter={name})"
            raise ApiError(400, text, param=name)


def body(*forms: tuple[Sequence[str], type], preferred: Sequence[int] | None = None, removed: bool = False, task: bool = False) -> Body:
    order = tuple(preferred) if preferred is not None else tuple(range(len(forms)))
    return Body(tuple((tuple(keys), form) for keys, form in forms), order, removed, task)
