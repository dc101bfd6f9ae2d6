"""Which form of a route's body a request has, and how vLLM refuses one that has none of them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from ..errors import UNREAD, ApiError
from .refusal_sentence import sentence
from .validation import Record, restore_integers, validator
from .validation_errors import distinct, dotted, message, problems_of

BOTH_ENDS = "Cannot set both `continue_final_message` and `add_generation_prompt` to True."
PADDED = (
    "padding: 'max_length' is for models of a fixed length, and this one reads every length as it is; "
    "leave it out (parameter=padding)"
)
"""vLLM lets a model see the padding, for pictures' sake; a model of texts then answers something else."""


@dataclass(frozen=True, slots=True)
class Body:
    """The alternative forms of one route's body, each with the keys that a body needs for it to be tried.

    The problems of a body that fits none are listed in the order of `forms`.
    """

    forms: tuple[tuple[tuple[str, ...], type[Record]], ...]
    preferred: tuple[int, ...]
    """Order in which the forms are tried: the first that reads without a problem is taken."""
    removed: bool = False
    """Whether vLLM's removed parameters (`normalize`, task `score` and `encode`) are refused by name."""
    task: bool = False
    """The route knows `task`, and takes `score` as `classify`."""

    def read(self, value: Any) -> Any:
        """The value as the record of the form that it has. Raises ApiError."""
        errors: dict[type[Record], ValidationError] = {}
        if (record := self._record(value, errors)) is not None:
            return record
        by_form = [problems_of(errors.get(form) or refusal(value, form)) for _, form in self.forms]
        problems = list(itertools.chain.from_iterable(by_form))
        if any(problem.kind == "int_parsing_size" for problem in problems) and restore_integers(value):
            return self.read(value)
        text = f"{sentence(value, self.forms, by_form)}\n{message(distinct(problems))}"
        raise ApiError(400, text, param=dotted(problems[0].loc), kind=UNREAD)

    def _record(self, value: Any, errors: dict[type[Record], ValidationError]) -> Record | None:
        """The first form that fits. Adds what is wrong with others to `errors`."""
        if type(value) is not dict:
            return None
        if any("messages" in keys for keys, _ in self.forms):
            refuse_both_ends(value)
        if self.removed:
            refuse_removed(value, accepts_score=self.task)
        refuse_salt(value)
        # An empty conversation is the last thing that a body with other inputs can mean.
        for empty in (False, True) if value.get("messages") == [] else (True,):
            for index in self.preferred:
                keys, form = self.forms[index]
                if all(key in value and (empty or value[key] != [] or key != "messages") for key in keys):
                    try:
                        record = validator(form)(value)
                    except ValidationError as error:
                        errors[form] = error.with_traceback(None)  # which holds this frame, and so the body
                        continue
                    if "mm_processor_kwargs" in value or "media_io_kwargs" in value:
                        refuse_media_settings(value)
                    if getattr(record, "padding", None) == "max_length":
                        raise ApiError(400, PADDED, param="padding")
                    return record
        return None


def refusal(value: Any, form: type[Record]) -> ValidationError | None:
    """What is wrong with a value that is not of the form; None for one that is."""
    try:
        validator(form)(value)
    except ValidationError as error:
        return error.with_traceback(None)
    return None


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
    """Settings of an image or sound reader are refused: no model here has one, and vLLM takes them
    from trusted clients only."""
    for name in ("mm_processor_kwargs", "media_io_kwargs"):
        if value.get(name):
            text = (
                f"{name}: this model reads text only, so there is nothing to set; leave it out "
                f"(parameter={name})"
            )
            raise ApiError(400, text, param=name)


def body(
    *forms: tuple[Sequence[str], type[Record]],
    preferred: Sequence[int] | None = None,
    removed: bool = False,
    task: bool = False,
) -> Body:
    for _, form in forms:
        validator(form)  # 5 ms each: no request waits for it
    order = tuple(preferred) if preferred is not None else tuple(range(len(forms)))
    return Body(tuple((tuple(keys), form) for keys, form in forms), order, removed, task)
