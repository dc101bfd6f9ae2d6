"""The alternative forms of a route's request body, and the refusal of a body that fits none of them."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from ..errors import UNREAD, ApiError
from .refusal_sentence import Form, sentence
from .validation import Record, restore_integers, validator
from .validation_errors import distinct, dotted, message, problems_of

BOTH_ENDS = "Cannot set both `continue_final_message` and `add_generation_prompt` to True."
PADDED = (
    "padding: 'max_length' is for models of a fixed length, and this one reads every length as it is; "
    "leave it out (parameter=padding)"
)
"""vLLM pads for models of images. A text model's results would change with the padding."""

_FORMS: list[type[Record]] = []
"""Of all bodies."""

UNTRUSTED_SETTINGS = {"mm_processor_kwargs": "preprocessing", "media_io_kwargs": "media loading"}
"""Settings of how pictures are read -> what they change, in vLLM's words."""


@dataclass(frozen=True)
class Body:
    """The alternative forms of one route's body."""

    forms: tuple[Form, ...]
    """Each form's record, behind the keys that a body needs for the form to be tried. The problems of a body
    that fits none are listed in this order."""
    preferred: tuple[int, ...]
    """Indices of `forms` in the order in which they are tried. The first that fits is taken."""
    removed: bool = False
    """Parameters that vLLM removed (`normalize`, the tasks `score` and `encode`) are refused by name."""
    task: bool = False
    """The route has a parameter `task`, whose `score` means `classify`."""

    def read(self, value: Any, *, trusted: bool = False) -> Any:
        """Returns a JSON value as the record of the first form that fits. Raises ApiError (400).

        Args:
            trusted: whether requests may bring settings of the image processor (--trust-request-mm-kwargs).
        """
        errors: dict[type[Record], ValidationError] = {}
        if (record := self._record(value, errors, trusted)) is not None:
            return record
        by_form = [problems_of(errors.get(form) or refusal(value, form)) for _, form in self.forms]
        problems = list(itertools.chain.from_iterable(by_form))
        if any(problem.kind == "int_parsing_size" for problem in problems) and restore_integers(value):
            return self.read(value, trusted=trusted)
        text = f"{sentence(value, self.forms, by_form)}\n{message(distinct(problems))}"
        raise ApiError(400, text, param=dotted(problems[0].loc), kind=UNREAD)

    def _record(
        self, value: Any, errors: dict[type[Record], ValidationError], trusted: bool
    ) -> Record | None:
        """Returns the record of the first form that fits, or None. Adds other forms' errors to `errors`."""
        if type(value) is not dict:
            return None
        if self._takes_messages:
            refuse_both_ends(value)
        if self.removed:
            refuse_removed(value, accepts_score=self.task)
        refuse_salt(value)
        for keys, form in self._candidates(value):
            if all(key in value for key in keys):
                try:
                    record = validator(form)(value)
                except ValidationError as error:
                    # The traceback holds this frame, and so the whole body.
                    errors[form] = error.with_traceback(None)
                    continue
                if not trusted and ("mm_processor_kwargs" in value or "media_io_kwargs" in value):
                    refuse_media_settings(value)
                if getattr(record, "padding", None) == "max_length":
                    raise ApiError(400, PADDED, param="padding")
                return record
        return None

    def _candidates(self, value: dict[str, Any]) -> Sequence[Form]:
        """Returns the forms in the order in which they are tried."""
        if value.get("messages") == []:
            # Clients send an empty `messages` beside another input, so the forms with messages come last.
            return sorted(self._ordered, key=lambda form: "messages" in form[0])
        return self._ordered

    @functools.cached_property
    def _ordered(self) -> tuple[Form, ...]:
        return tuple(self.forms[index] for index in self.preferred)

    @functools.cached_property
    def _takes_messages(self) -> bool:
        return any("messages" in keys for keys, _ in self.forms)


def refusal(value: Any, form: type[Record]) -> ValidationError | None:
    """Returns the error of a value that does not fit the form; None for one that does."""
    try:
        validator(form)(value)
    except ValidationError as error:
        return error.with_traceback(None)
    return None


def refuse_both_ends(value: dict[str, Any]) -> None:
    """Raises ApiError for two settings of chats that exclude each other. vLLM checks them before it knows the
    form, and so refuses texts that carry them too."""
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
    """Raises ApiError, in vLLM's words, for settings of how pictures are read."""
    for name, what in UNTRUSTED_SETTINGS.items():
        if value.get(name):
            text = (
                f"Per-request {name} are disabled by default because they can change multimodal {what} "
                "resource usage. Start the server with --trust-request-mm-kwargs only when clients are "
                f"trusted. (parameter={name})"
            )
            raise ApiError(400, text, param=name)


def body(
    *forms: tuple[Sequence[str], type[Record]],
    preferred: Sequence[int] | None = None,
    removed: bool = False,
    task: bool = False,
) -> Body:
    """Returns the body of these forms."""
    _FORMS.extend(form for _, form in forms)
    order = tuple(preferred) if preferred is not None else tuple(range(len(forms)))
    return Body(tuple((tuple(keys), form) for keys, form in forms), order, removed, task)


def build_validators() -> None:
    """Builds the validators of all bodies, 5 ms each, which otherwise the first request of a form waits
    for."""
    for form in _FORMS:
        validator(form)
