"""Turns texts into items as the artifact's manifest says: prompts, roles, score pairs, chat templates."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypedDict, Unpack

from ..artifact.manifest import Manifest, Role, RoleName
from ..errors import InputError
from . import colbert, pairs, templates
from .encoder import Encoder
from .items import PLAIN, PROMPT, STATIC, Item, Steps, Style, TokenLimits
from .prompts import checked, content_text, from_mapping, prompts_from


class SingleOptions(TypedDict, total=False):
    """Of `Preparation.singles`."""

    limits: TokenLimits | None
    role: RoleName | None
    prompt_name: str | None
    add_special_tokens: bool
    instruction: str | None


class PairOptions(TypedDict, total=False):
    """Of `Preparation.pairs`."""

    limits: TokenLimits | None
    template: str | None
    template_variables: Mapping[str, Any] | None
    max_tokens_per_query: int
    max_tokens_per_doc: int


class Preparation:
    """The text preparation of an artifact. It is opened once, may be used from any thread, and never changes
    its tokenizer.

    `style` "vllm" leaves out what the model's own library adds (role prefixes, ColBERT markers, expansion,
    skip lists) and cuts score templates at the end like any other text.
    """

    def __init__(self, folder: Path, manifest: Manifest, *, style: Style = "model") -> None:
        self.folder = folder
        self.manifest = manifest
        self.text = manifest.text
        self.style: Style = style
        self.encoder = Encoder(folder, manifest.text)
        self.type_ids = any(
            tensor.name == "token_type_ids" for graph in manifest.graphs for tensor in graph.inputs
        )
        self._pairing = pairs.Pairing(self.encoder, style, self.type_ids)
        self.chat_template = (
            templates.read(folder / self.text.chat_template) if self.text.chat_template else None
        )
        # vLLM applies only a score template that the user names; the artifact's comes from the model's card.
        # A listwise prompt, and one in front of a token of its own, are the model's in both styles.
        fixed = manifest.scoring == "listwise" or self.text.pair_end is not None
        own = self.text.score_template if style == "model" or fixed else None
        self.score_template = templates.read(folder / own) if own else None
        kept = [token for head in manifest.heads.values() for token in head.keep_ids]
        self.marks = [
            mark for token in kept if (mark := self.encoder.tokenizer.id_to_token(token)) is not None
        ]

    def in_style(self, style: Style) -> Preparation:
        """The preparation of the same artifact in another style."""
        return Preparation(self.folder, self.manifest, style=style)

    # Singles

    def singles(
        self,
        prompts: Sequence[Any],
        *,
        limits: TokenLimits | None = None,
        role: RoleName | None = None,
        prompt_name: str | None = None,
        add_special_tokens: bool = True,
        instruction: str | None = None,
    ) -> list[Item]:
        """One item per prompt: text, token ids, {"prompt": text} or {"prompt_token_ids": ids}.

        Token ids are taken as they are, without special tokens or prefix; a ColBERT role's marker
        and expansion still apply.
        """
        encoder, limits = self.encoder, limits or TokenLimits()
        plan = self.role(role)
        kept = self._kept(plan, limits)
        if len(prompts) == 0:
            raise InputError("You must pass at least one prompt", field="input")
        if instruction is not None and not self.takes_instruction:
            raise InputError(
                "instruction: this model's roles take none; put it into the text", field="instruction"
            )
        # A named prompt replaces the prefix of the role.
        prefix = self.prompt(prompt_name) if prompt_name is not None else plan.prefix if plan else ""
        suffix = plan.suffix if plan else ""
        add_special_tokens = (
            add_special_tokens and self.text.add_special_tokens and not (plan and plan.static)
        )
        items: list[Item | None] = [None] * len(prompts)
        places, texts = [], []
        for index, prompt in enumerate(prompts):
            if isinstance(prompt, Mapping):
                prompt = from_mapping(prompt, index)
            if isinstance(prompt, str):
                places.append(index)
                texts.append(prefix + prompt + suffix if prefix or suffix else prompt)
            else:
                items[index] = encoder.from_ids(prompt, index, kept, limits)
        if texts:
            if kept is None:
                encoder.check_characters(texts, places, encoder.limit(limits))
            encoded = encoder.from_texts(
                texts, places, kept, limits, add_special_tokens, lowercase=self.text.lowercase
            )
            for index, item in zip(places, encoded, strict=True):
                items[index] = item
            if prefix and not self.text.pools_prompts:
                self._mark_prompt(prefix, encoded, limits, add_special_tokens)
        complete = [
            colbert.apply(plan, item) if plan is not None else item for item in items if item is not None
        ]
        if plan is not None and plan.static:
            for item in complete:
                item.kinds = [STATIC] * len(item.ids)
        return complete

    def single_steps(self, prompts: Sequence[Any], **options: Unpack[SingleOptions]) -> Steps:
        """The items of `singles` in steps; texts are all prepared in one."""
        yield dict(enumerate(self.singles(prompts, **options)))

    @property
    def takes_instruction(self) -> bool:
        """Whether a template of a role may name `instruction`."""
        return any(role.template is not None for role in self.text.roles.values())

    def role(self, name: RoleName | None) -> Role | None:
        """How the model's own library prepares a side; None: plainly. Raises InputError for another word.

        Args:
            name: None: the side of a text that comes without one.
        """
        if name not in (None, "query", "document"):
            raise InputError(f"role {name!r} is not 'query' or 'document'", field="role")
        side = name or self.text.default_role
        return self.text.roles.get(side) if side is not None and self.style == "model" else None

    def _kept(self, plan: Role | None, limits: TokenLimits) -> int | None:
        """How many tokens truncation keeps; None: nothing is cut. Raises InputError."""
        kept = self.encoder.kept(limits)
        if plan is None or plan.max_tokens is None:
            return kept
        # The model's own library cuts here without an error. The limit includes the marker.
        most = min(kept if kept is not None else self.encoder.limit(limits), plan.max_tokens)
        return max(most - (plan.marker_id is not None), 0)

    def _mark_prompt(
        self, prefix: str, items: Sequence[Item], limits: TokenLimits, add_special_tokens: bool
    ) -> None:
        """Sets the kinds of items whose texts begin with a prompt. The prompt's tokens are counted as
        Sentence Transformers does: it is encoded alone, and a special token at its end does not count."""
        encoder, lowercase = self.encoder, self.text.lowercase
        [alone] = encoder.from_texts(
            [prefix], [0], encoder.limit(limits), limits, add_special_tokens, lowercase=lowercase
        )
        special = {
            *encoder.after,
            *(encoder.tokenizer.token_to_id(token) for token in self.text.special_tokens.values()),
        }
        count = len(alone.ids) - (alone.ids[-1] in special)
        for item in items:
            item.kinds = [PROMPT] * min(count, len(item.ids)) + [PLAIN] * max(len(item.ids) - count, 0)

    def prompt(self, name: str | None) -> str:
        """The stored prompt of a name; "" for None. Raises InputError for an unknown name."""
        if name is None:
            return ""
        if name not in self.text.prompts:
            known = ", ".join(map(repr, self.text.prompts)) or "none"
            raise InputError(f"no prompt is named {name!r}; this model's are: {known}", field="prompt_name")
        return self.text.prompts[name]

    # Pairs and conversations

    def pairs(
        self,
        queries: Sequence[Any],
        documents: Sequence[Any],
        *,
        limits: TokenLimits | None = None,
        template: str | None = None,
        template_variables: Mapping[str, Any] | None = None,
        max_tokens_per_query: int = 0,
        max_tokens_per_doc: int = 0,
    ) -> list[Item]:
        """One item per (query, document) for a cross-encoder; a single query goes with every document.

        `template` is Jinja text. Without one the pair is joined as the manifest says. As in vLLM, pairs are
        never lower-cased. Raises InputError.
        """
        for value, name in (
            (max_tokens_per_query, "max_tokens_per_query"),
            (max_tokens_per_doc, "max_tokens_per_doc"),
        ):
            self.check_side_limit(value, name)
        first, second = pairs.matched(queries, documents)
        try:
            return pairs.items(
                self._pairing,
                first,
                second,
                limits=limits or TokenLimits(),
                template=self.score_template if template is None else template,
                variables=template_variables,
                max_tokens_per_query=max_tokens_per_query,
                max_tokens_per_doc=max_tokens_per_doc,
            )
        except (TypeError, UnicodeEncodeError):
            pairs.explain(queries, documents)
            raise

    def pair_steps(
        self, queries: Sequence[Any], documents: Sequence[Any], **options: Unpack[PairOptions]
    ) -> Steps:
        """The items of `pairs` in steps; texts are all prepared in one."""
        yield dict(enumerate(self.pairs(queries, documents, **options)))

    def listed(self, query: str, documents: Sequence[str], variables: Mapping[str, Any]) -> str:
        """The prompt of a listwise model, which holds all documents. Marker tokens are removed from the
        texts."""
        templates.check_variables(variables)
        assert self.score_template is not None, "a listwise artifact has its template"

        def plain(text: str) -> str:
            for mark in self.marks:
                text = text.replace(mark, "")
            return text

        instruction = plain(str(variables.get("instruction") or ""))
        values = {
            "query": plain(query),
            "documents": [plain(document) for document in documents],
            "instruction": instruction,
        }
        return templates.render(self.score_template, values)

    @property
    def document_tokens(self) -> int:
        """Tokens to which the model's own library cuts the document of a pair; 0: it does not."""
        most = self.text.pair_document_tokens
        return 0 if most is None or self.style == "vllm" or most >= self.encoder.max_tokens else most

    def check_side_limit(self, value: int, name: str) -> None:
        """Raises InputError that names the parameter for a number that is not in [0, the model's limit)."""
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise InputError(f"{name} must be a non-negative integer", field=name)
        if value >= self.encoder.max_tokens:
            raise InputError(
                f"{name} ({value}) must be less than max_model_len ({self.encoder.max_tokens})", field=name
            )

    def prompt_tokens(self, prompt: Any, *, add_special_tokens: bool = True) -> list[int]:
        """The ids of a text of any length; no role applies. Raises InputError."""
        return self.encoder.tokenize(prompt, add_special_tokens=add_special_tokens)

    def prompts_from(self, value: Any) -> list[Any]:
        """The list of prompts in a caller's argument. Raises InputError for an empty list, and for prompts
        that this model cannot follow."""
        return checked(prompts_from(value))

    def side(self, item: Any, name: str) -> Any:
        """One side of a score, as `singles` and `pairs` take it. Raises InputError that calls it `name`."""
        if not isinstance(item, Mapping):
            return item
        return content_text(item, self.manifest.architecture)

    def cut_side(self, texts: Sequence[Any], max_tokens: int) -> list[Any]:
        """Each text up to the end of its token `max_tokens`, special tokens not counted; 0: unchanged. Raises
        InputError for a number that is not in [0, the model's limit)."""
        self.check_side_limit(max_tokens, "max_tokens")
        return pairs.cut_texts(self.encoder, texts, max_tokens) if max_tokens else list(texts)

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
        interleave_mm_strings: bool = False,
    ) -> Any:
        """The text of one conversation. Pass it to `singles` with add_special_tokens=False, since the
        template writes special tokens itself.

        `chat_template` is Jinja text; None: the tokenizer's own. Raises InputError.
        """
        template = self._chat_template(messages) if chat_template is None else chat_template
        if template is None:
            raise InputError(
                "this model has no chat template; pass one as chat_template, or send plain text",
                field="chat_template",
            )
        templates.check_variables(
            {key: value for key, value in (template_kwargs or {}).items() if key != "tools"}
        )
        wanted = templates.content_format(template) if content_format == "auto" else content_format
        plain, finish = self._messages(messages, wanted, interleaved=interleave_mm_strings)
        return finish(
            templates.conversation(
                template,
                plain,
                special_tokens=self.text.special_tokens,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=continue_final_message,
                tools=tools,
                variables=template_kwargs,
            )
        )

    def _chat_template(self, messages: Sequence[Mapping[str, Any]]) -> str | None:
        """The model's own template of a conversation; None: it has none."""
        return self.chat_template

    def _messages(
        self, messages: Sequence[Mapping[str, Any]], wanted: templates.ContentFormat, *, interleaved: bool
    ) -> tuple[list[dict[str, Any]], Callable[[str], Any]]:
        """Messages as their template reads them, and what makes a prompt of the text that it writes."""
        return templates.messages_for(messages, wanted), str
