"""From text to items: prompts, roles, truncation, length limits, score pairs and chat templates, by the artifact's manifest.

Everything a caller can get wrong about a text is told here, in the caller's thread, as InputError.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from . import pairs, roles, templates, tokenizer_file, truncation
from .errors import ArtifactError, InputError, is_failure, reason
from .manifest import Manifest
from .prompts import Prompt, from_mapping, prompts_from, token_ids
from .truncation import Boundaries, Side

RoleName = Literal["query", "document"]

__all__ = ["Item", "Limits", "Preparation", "Prompt", "RoleName", "prompts_from"]


# What a token is to its graph: part of a text, of a prompt that is not pooled with it, or of a text that is a bag of words.
PLAIN, PROMPT, STATIC = 0, 1, 2


@dataclass(slots=True)
class Item:
    """One tokenised input, not padded."""

    ids: list[int]
    type_ids: list[int] | None = None
    """None: zeros."""
    attention: list[int] | None = None
    """None: ones. Zeros inside an item are expansion tokens: not attended to, but their rows are answered (padding's are not)."""
    truncated: bool = False
    prompt_tokens: int = 0
    """What usage reports."""
    kinds: list[int] | None = None
    """Of PLAIN, PROMPT, STATIC; None: all plain. For graphs that have the input `token_kinds`."""
    keep: NDArray[np.bool_] | None = None
    """[tokens]; rows of a token task's output that are answered (ColBERT's skip list). None: all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How long an item may be."""

    truncate_prompt_tokens: int | None = None
    """None: a longer text is an error; -1: cut to the limit; k: cut to k tokens, special tokens included."""
    truncation_side: Side | None = None
    """None: cut on the tokenizer's own side, special tokens kept. Set: the full id list is sliced, special tokens of that side are lost."""
    max_tokens: int | None = None
    """A lower limit than the model's own."""
    cut_document: bool = False
    """Score pairs: only the document is shortened, the query and the template around both stay whole."""


class Preparation:
    """An artifact's text side: opened once, used from any thread; never changes its tokenizer.

    `style` "vllm" leaves out what the model's own library adds (role prefixes, ColBERT markers, expansion, skip lists) and cuts score
    templates at the end like any other text.
    """

    def __init__(self, folder: Path, manifest: Manifest, *, style: Literal["model", "vllm"] = "model") -> None:
        self.folder = folder
        self.manifest = manifest
        self.text = manifest.text
        self.style = style
        self.max_tokens = self.text.max_tokens
        try:
            self.tokenizer = tokenizer_file.opened(tokenizer_file.content(folder / self.text.tokenizer))
            self.tokenizer.encode_special_tokens = self.text.split_special_tokens
            vocabulary = self.tokenizer.get_vocab(with_added_tokens=True)
            self.characters_per_token = max(map(len, vocabulary), default=1)
            # Some tokenizers name more ids than the model has rows; only then must the ids of texts be checked too.
            self.may_exceed_table = max(vocabulary.values(), default=0) >= self.text.vocab_size
            self.boundaries = Boundaries(self.tokenizer)
            self.before, self.after = self._special_tokens()
            self.joint = pairs.Joint.of(self.tokenizer)
        except ArtifactError:
            raise
        except BaseException as error:  # the library raises bare Exception, and panics past it
            if not is_failure(error):
                raise
            raise ArtifactError(f"{self.text.tokenizer}: not a readable tokenizer ({reason(error)}); export the artifact again") from None
        self.wants_type_ids = any(tensor.name == "token_type_ids" for graph in manifest.graphs for tensor in graph.inputs)
        self.chat_template = templates.read(folder / self.text.chat_template) if self.text.chat_template else None
        # vLLM applies a score template only when it is told to; an artifact's own comes from the model's card.
        # A listwise prompt is the model's own in both.
        own = self.text.score_template if style == "model" or manifest.scoring == "listwise" else None
        self.score_template = templates.read(folder / own) if own else None
        kept = [token for head in manifest.heads.values() for token in head.keep_ids]
        self.marks = [found for token in kept if (found := self.tokenizer.id_to_token(token)) is not None]

    def _special_tokens(self) -> tuple[list[int], list[int]]:
        """The ids put around every single text."""
        probe = next((word for word in ("a", "the", "0") if self.tokenizer.encode(word, add_special_tokens=False).ids), "a")
        bare = self.tokenizer.encode(probe, add_special_tokens=False).ids
        full = self.tokenizer.encode(probe, add_special_tokens=True).ids
        for start in range(len(full) - len(bare) + 1):
            if full[start : start + len(bare)] == bare:
                return full[:start], full[start + len(bare) :]
        raise ArtifactError(f"{self.text.tokenizer}: its post-processor changes the tokens of a text; export the artifact again")

    # Singles

    def singles(
        self,
        prompts: Sequence[Prompt],
        *,
        limits: Limits | None = None,
        role: RoleName | None = None,
        prompt_name: str | None = None,
        add_special_tokens: bool = True,
    ) -> list[Item]:
        """One item per prompt: text, token ids, {"prompt": text} or {"prompt_token_ids": ids}.

        Token ids are taken as they are, without special tokens or prefix; a ColBERT role's marker and expansion still apply.
        """
        if role not in (None, "query", "document"):
            raise InputError(f"role {role!r} is not 'query' or 'document'", field="role")
        limits = limits or Limits()
        kept = self.kept(limits)
        if len(prompts) == 0:
            raise InputError("You must pass at least one prompt", field="input")
        side = role or self.text.default_role
        plan = self.text.roles.get(side) if side is not None and self.style == "model" else None
        # A prompt that is named takes the place of the role's own.
        prefix = self.prompt(prompt_name) if prompt_name is not None else plan.prefix if plan else ""
        add_special_tokens = add_special_tokens and self.text.add_special_tokens and not (plan and plan.static)
        if plan is not None and plan.max_tokens is not None:
            # The model's own library cuts here silently, marker included.
            kept = max(min(kept if kept is not None else self.limit(limits), plan.max_tokens) - (plan.marker_id is not None), 0)

        items: list[Item | None] = [None] * len(prompts)
        places, texts = [], []
        for index, prompt in enumerate(prompts):
            if isinstance(prompt, Mapping):
                prompt = from_mapping(prompt, index)
            if isinstance(prompt, str):
                places.append(index)
                texts.append(prefix + prompt if prefix else prompt)
            else:
                items[index] = self._from_ids(prompt, index, kept, limits)
        if texts:
            if kept is None:
                self._check_characters(texts, places, self.limit(limits))
            made = self.from_texts(texts, places, kept, limits, add_special_tokens, lowercase=self.text.lowercase)
            for index, item in zip(places, made, strict=True):
                items[index] = item
            if prefix and not self.text.pools_prompts:
                self._mark_prompt(prefix, made, limits, add_special_tokens)
        complete = [roles.apply(plan, item) if plan is not None else item for item in items if item is not None]
        if plan is not None and plan.static:
            for item in complete:
                item.kinds = [STATIC] * len(item.ids)
        return complete

    def _mark_prompt(self, prefix: str, items: Sequence[Item], limits: Limits, add_special_tokens: bool) -> None:
        """Counts a prompt's tokens as Sentence Transformers does: encoded alone, without a special token at its end."""
        [alone] = self.from_texts([prefix], [0], self.limit(limits), limits, add_special_tokens, lowercase=self.text.lowercase)
        special = {*self.after, *(self.tokenizer.token_to_id(token) for token in self.text.special_tokens.values())}
        count = len(alone.ids) - (alone.ids[-1] in special)
        for item in items:
            item.kinds = [PROMPT] * min(count, len(item.ids)) + [PLAIN] * max(len(item.ids) - count, 0)

    def kept(self, limits: Limits) -> int | None:
        """How many tokens truncation keeps; None: none is asked for. Raises InputError for a number that cannot be."""
        asked, limit = limits.truncate_prompt_tokens, self.limit(limits)
        if limits.truncation_side not in (None, "left", "right"):
            raise InputError(f"truncation_side {limits.truncation_side!r} is not 'left' or 'right'", field="truncation_side")
        if asked is None:
            return None
        if isinstance(asked, bool) or not isinstance(asked, int):
            raise InputError(
                f"truncate_prompt_tokens: expected a whole number, found {type(asked).__name__}", field="truncate_prompt_tokens"
            )
        if asked > limit:
            # vLLM's clients compare this sentence literally.
            raise InputError(
                "truncate_prompt_tokens value is greater than max_model_len. Please request a smaller truncation size.",
                field="truncate_prompt_tokens",
            )
        if asked < -1:
            raise InputError(f"truncate_prompt_tokens is {asked}, expected -1 (the model's limit) or more", field="truncate_prompt_tokens")
        return limit if asked == -1 else asked

    def limit(self, limits: Limits) -> int:
        return self.max_tokens if limits.max_tokens is None else limits.max_tokens

    def prompt(self, name: str | None) -> str:
        """The stored prompt of that name; "" for None."""
        if name is None:
            return ""
        if name not in self.text.prompts:
            known = ", ".join(map(repr, self.text.prompts)) or "none"
            raise InputError(f"no prompt is named {name!r}; this model's are: {known}", field="prompt_name")
        return self.text.prompts[name]

    def from_texts(
        self,
        texts: Sequence[str],
        places: Sequence[int],
        kept: int | None,
        limits: Limits,
        add_special_tokens: bool,
        *,
        lowercase: bool = False,
    ) -> list[Item]:
        """Items of texts that stand at `places` among the caller's inputs (for messages), just as they are."""
        limit, side, own = self.limit(limits), limits.truncation_side, self.text.truncation_side
        before, after = (self.before, self.after) if add_special_tokens else ([], [])
        wanted = (limit if kept is None else kept) + 1
        whole = truncation.WHOLE * max(wanted, 32)
        short = [text.lower() if lowercase else text for text in texts if len(text) <= whole]
        try:
            encoded = iter(truncation.encode(self.tokenizer, short, add_special_tokens=add_special_tokens) if short else ())
            items = []
            for index, text in zip(places, texts, strict=True):
                more = ""
                if len(text) <= whole:
                    ids = next(encoded)
                else:
                    found = truncation.content(self.tokenizer, text, wanted, self.boundaries, side or own, lowercase=lowercase)
                    ids = [*before, *found.ids, *after]
                    more = "" if found.whole else "at least "
                if kept is not None and len(ids) > kept:
                    items.append(self.item(_cut(ids, kept, side, len(before), len(after), own=own), index, truncated=True))
                elif len(ids) > limit:
                    raise self.too_long(len(ids), limit, index, more)
                else:
                    items.append(self.item(ids, index))
            return items
        except TypeError:
            for index, text in zip(places, texts, strict=True):
                truncation.check_text(text, f"input {index}")
            raise

    def _check_characters(self, texts: Sequence[str], places: Sequence[int], limit: int) -> None:
        """Refuses a text that cannot fit before it costs anything."""
        longest = limit * self.characters_per_token
        for index, text in zip(places, texts, strict=True):
            if len(text) > longest:
                raise InputError(
                    f"input {index}: this model's maximum context length is {limit} tokens, the text has {len(text)} characters and "
                    f"{longest} is the most that many tokens can hold. Please reduce the length of the input prompt.",
                    field="input_text",
                )

    def _from_ids(self, prompt: Any, index: int, kept: int | None, limits: Limits) -> Item:
        ids = token_ids(prompt, index, self.text.vocab_size)
        limit = self.limit(limits)
        if kept is not None and len(ids) > kept:
            ids = ids[len(ids) - kept :] if limits.truncation_side == "left" else ids[:kept]
            return self.item(ids, index, truncated=True)
        if len(ids) > limit:
            raise self.too_long(len(ids), limit, index)
        return self.item(ids, index)

    def item(self, ids: list[int], index: int, *, type_ids: list[int] | None = None, truncated: bool = False) -> Item:
        """Checks what holds for every item: not empty, every id has a row."""
        if not ids:
            raise InputError(f"input {index}: the prompt cannot be empty: it has no tokens", field="input")
        if self.may_exceed_table and max(ids) >= self.text.vocab_size:
            raise InputError(f"input {index}: token id {max(ids)} is out of vocabulary ({self.text.vocab_size} ids)", field="input")
        return Item(ids=ids, type_ids=type_ids, truncated=truncated, prompt_tokens=len(ids))

    def too_long(self, found: int, limit: int, index: int, qualifier: str = "") -> InputError:
        return InputError(
            f"input {index}: this model's maximum context length is {limit} tokens, found {qualifier}{found}. "
            f"Please reduce the length of the input prompt, or set truncate_prompt_tokens to -1.",
            field="input_tokens",
        )

    # Pairs and conversations

    def pairs(
        self,
        queries: Sequence[str],
        documents: Sequence[str],
        *,
        limits: Limits | None = None,
        template: str | None = None,
        template_variables: Mapping[str, Any] | None = None,
        max_tokens_per_query: int = 0,
        max_tokens_per_doc: int = 0,
    ) -> list[Item]:
        """One item per pair that a cross-encoder reads; one query goes with every document. `template` is Jinja text.

        Without a template the pair is joined as the manifest says. Never lower-cased by us, as in vLLM.
        """
        for value, name in ((max_tokens_per_query, "max_tokens_per_query"), (max_tokens_per_doc, "max_tokens_per_doc")):
            self._check_side_limit(value, name)
        first, second = pairs.matched(queries, documents)
        try:
            return pairs.items(
                self,
                first,
                second,
                limits=limits or Limits(),
                template=self.score_template if template is None else template,
                variables=template_variables,
                max_tokens_per_query=max_tokens_per_query,
                max_tokens_per_doc=max_tokens_per_doc,
            )
        except (TypeError, UnicodeEncodeError):
            pairs.explain(queries, documents)
            raise

    def listed(self, query: str, documents: Sequence[str], variables: Mapping[str, Any]) -> str:
        """The one prompt of a listwise model. Texts cannot bring marker tokens of their own."""
        templates.check_variables(variables)
        assert self.score_template is not None, "a listwise artifact has its template"

        def plain(text: str) -> str:
            for mark in self.marks:
                text = text.replace(mark, "")
            return text

        instruction = plain(str(variables.get("instruction") or ""))
        given = {"query": plain(query), "documents": [plain(document) for document in documents], "instruction": instruction}
        return templates.render(self.score_template, given)

    def _check_side_limit(self, value: int, name: str) -> None:
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise InputError(f"{name} must be a non-negative integer", field=name)
        if value >= self.max_tokens:
            raise InputError(f"{name} ({value}) must be less than max_model_len ({self.max_tokens})", field=name)

    def cut_side(self, texts: Sequence[str], max_tokens: int) -> list[str]:
        """Each text up to the end of its first `max_tokens` tokens, special tokens not counted; 0: unchanged."""
        self._check_side_limit(max_tokens, "max_tokens")
        return pairs.cut_texts(self, texts, max_tokens) if max_tokens else list(texts)

    def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        chat_template: str | None = None,
        add_generation_prompt: bool = False,
        continue_final_message: bool = False,
        template_kwargs: Mapping[str, Any] | None = None,
        content_format: Literal["auto", "string", "openai"] = "auto",
        tools: Sequence[Mapping[str, Any]] | None = None,
    ) -> str:
        """The text of one conversation; pass it to `singles` with add_special_tokens=False, as the template writes its own.

        `chat_template` is Jinja text; None: the tokenizer's own.
        """
        template = self.chat_template if chat_template is None else chat_template
        if template is None:
            raise InputError("this model has no chat template; pass one as chat_template, or send plain text", field="chat_template")
        templates.check_variables({key: value for key, value in (template_kwargs or {}).items() if key != "tools"})
        wanted = templates.content_format(template) if content_format == "auto" else content_format
        return templates.conversation(
            template,
            templates.messages_for(messages, wanted),
            special_tokens=self.text.special_tokens,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=continue_final_message,
            tools=tools,
            variables=template_kwargs,
        )

    # Plain tokenising

    def tokenize(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Ids of any length; lower-cased as `singles` does."""
        truncation.check_text(text, "prompt", field="prompt")
        truncation.check_whole(len(text), "prompt", field="prompt")
        if self.text.lowercase:
            text = text.lower()
        return truncation.encode(self.tokenizer, [text], add_special_tokens=add_special_tokens)[0]

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """The vocabulary's own spelling of each id; "" for one that it does not name."""
        return [self.tokenizer.id_to_token(number) or "" for number in ids]

    def detokenize(self, ids: Sequence[int]) -> str:
        """Special tokens are kept. Raises InputError for ids that are no token of this tokenizer."""
        numbers = token_ids(ids, 0, 1 << 32, field="tokens")
        with truncation.failures("these token ids"):
            # As a batch of one: other threads go on meanwhile, as they do not while one text is decoded.
            return self.tokenizer.decode_batch([numbers], skip_special_tokens=False)[0]


def _cut(ids: list[int], kept: int, side: Side | None, before: int, after: int, *, own: Side) -> list[int]:
    if side == "left":
        return ids[len(ids) - kept :]
    if side is None and kept >= before + after:
        # The tokenizer's own truncation: content is cut, special tokens stay.
        if own == "left":
            return ids[:before] + ids[len(ids) - (kept - before) :]
        return ids[: kept - after] + (ids[-after:] if after else [])
    return ids[:kept]
