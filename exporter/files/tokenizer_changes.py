"""Steps that an artifact's tokenizer needs and the checkpoint's tokenizer.json lacks."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# Classes whose own code obeyed `add_eos_token` until transformers 5, which takes the post-processor of
# tokenizer.json instead.
OBEYED = ("LlamaTokenizer", "GemmaTokenizer", "CodeLlamaTokenizer", "CohereTokenizer")


def untyped(tokenizer: Tokenizer) -> bytes:
    """The tokenizer.json of `tokenizer`, changed to give type 0 to every token of a pair."""
    from tokenizers import processors

    def content(processor: Any) -> dict[str, Any]:
        return json.loads(processor.__getstate__())

    def plain(processor: dict[str, Any] | None) -> dict[str, Any] | None:
        match processor:
            case {"type": "Sequence", "processors": [*steps]}:
                return {**processor, "processors": [plain(step) for step in steps]}
            case {"type": "TemplateProcessing"}:
                return processor | {
                    name: [
                        {kind: {**part, "type_id": 0} for kind, part in piece.items()}
                        for piece in processor[name]
                    ]
                    for name in ("single", "pair")
                }
            case {
                "type": "BertProcessing",
                "cls": [str(first), int(first_id)],
                "sep": [str(last), int(last_id)],
            }:
                single, pair = f"{first} $A {last}", f"{first} $A {last} $B:0 {last}:0"
                tokens = [(first, first_id), (last, last_id)]
                return content(processors.TemplateProcessing(single=single, pair=pair, special_tokens=tokens))
            case None:
                return content(processors.TemplateProcessing(single="$A", pair="$A $B:0", special_tokens=[]))
            case _:
                return processor

    described = json.loads(tokenizer.to_str())
    described["post_processor"] = plain(described["post_processor"])
    return json.dumps(described, ensure_ascii=False).encode()


def lowered(tokenizer: Tokenizer, raw: bytes) -> bytes:
    """Makes `tokenizer` lower-case texts, and returns its tokenizer.json; `raw` is the present one.

    The step is the first of the normaliser, where Sentence Transformers puts it. A tokenizer that lower-cases
    already stays as it is.
    """
    from tokenizers import normalizers

    normalizer = tokenizer.normalizer
    steps: list[Any] = []
    if isinstance(normalizer, normalizers.Sequence):
        steps = list(normalizer)  # pyright: ignore[reportArgumentType]
    elif normalizer is not None:
        steps = [normalizer]
    if any(isinstance(step, normalizers.Lowercase) for step in steps):
        return raw
    tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase(), *steps])  # pyright: ignore[reportAttributeAccessIssue]
    return tokenizer.to_str().encode()


def end_token(
    tokenizer: Tokenizer, config: Mapping[str, Any], special: Mapping[str, str], ids: Mapping[str, int]
) -> str | None:
    """Makes `tokenizer` put the end token behind every text, and returns that token; None: nothing changed.

    It is added where `add_eos_token` asks for it and the tokenizer's class obeyed that key. Models that pool
    the last token were trained so. transformers 5 follows a post-processor that lacks the token, which
    changes every vector of such a model.
    """
    from tokenizers import processors

    end, begin = ids.get("eos_token"), ids.get("bos_token")
    if not config.get("add_eos_token") or end is None or not _obeyed(config):
        return None
    encoded = tokenizer.encode("a").ids
    if encoded[-1:] == [end]:
        return None
    opens = f"{special['bos_token']} " if begin is not None and encoded[:1] == [begin] else ""
    text, pair = f"{opens}$A {special['eos_token']}", f"{opens}$B:1 {special['eos_token']}:1"
    used = [
        (special[role], ids[role]) for role in ("bos_token", "eos_token") if special.get(role) and role in ids
    ]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=text, pair=f"{text} {pair}", special_tokens=list(dict.fromkeys(used))
    )
    return special["eos_token"]


def _obeyed(config: Mapping[str, Any]) -> bool:
    """Whether the tokenizer's own class added the end token: a class of transformers 4, or one of the
    checkpoint's own code."""
    remote = config.get("auto_map")
    carried = "AutoTokenizer" in remote if isinstance(remote, dict) else bool(remote)
    return carried or str(config.get("tokenizer_class")).removesuffix("Fast") in OBEYED
