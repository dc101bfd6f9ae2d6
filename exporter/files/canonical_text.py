"""SigLIP's canonical form of a text, as steps of a tokenizer.json.

SigLIP was trained on texts in lower case, without ASCII punctuation, with single spaces; SigLIP 2 on texts in
lower case. transformers does the former in Python code around SentencePiece, and forgets the latter where the
checkpoint names Gemma's tokenizer class.
"""

from __future__ import annotations

import re
import string
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenizers import Tokenizer

PYTHON_CLASS = "SiglipTokenizer"
"""Class of transformers whose Python code makes the canonical form."""
SENTENCE_PIECE = "spiece.model"
SPOKEN, SHOUTED = "a photo of two cats", "A PHOTO  of TWO cats"
PUNCTUATED = "A (photo), of two #cats!"


def completed(tokenizer: Tokenizer, *, punctuation: bool) -> str | None:
    """Puts the steps that `tokenizer` lacks in front of its normaliser; returns what they do, None where it
    lacks none.

    `punctuation`: whether ASCII punctuation is removed too.
    """
    from tokenizers import normalizers

    def alike(text: str) -> bool:
        return tokenizer.encode(text).ids == tokenizer.encode(SPOKEN).ids

    if alike(PUNCTUATED if punctuation else SHOUTED.replace("  ", " ")):
        return None
    present: Any = tokenizer.normalizer
    steps = [] if present is None else [present]
    first = canonical() if punctuation else [normalizers.Lowercase()]
    tokenizer.normalizer = normalizers.Sequence([*first, *steps])  # pyright: ignore[reportAttributeAccessIssue]
    return "lower-cased, without punctuation" if punctuation else "lower-cased"


def canonical() -> list[Any]:
    """The steps of SigLIP's canonical form."""
    from tokenizers import Regex, normalizers

    return [
        normalizers.Lowercase(),
        normalizers.Replace(Regex(f"[{re.escape(string.punctuation)}]"), ""),
        normalizers.Replace(Regex(r"\s+"), " "),
        normalizers.Strip(),
    ]


def converted(folder: Path, slow: Any) -> Tokenizer | None:
    """transformers' Python tokenizer as a tokenizer of the tokenizers library; None where the folder has no
    SentencePiece model.

    `slow`: transformers' SiglipTokenizer of the folder.
    """
    from tokenizers import (
        AddedToken,
        Regex,
        Tokenizer,
        decoders,
        models,
        normalizers,
        pre_tokenizers,
        processors,
    )

    path = folder / SENTENCE_PIECE
    if not path.is_file():
        return None
    from sentencepiece import sentencepiece_model_pb2

    module: Any = sentencepiece_model_pb2  # its classes exist at run time only
    proto = module.ModelProto()
    proto.ParseFromString(path.read_bytes())
    pieces = [(piece.piece, piece.score) for piece in proto.pieces]
    tokenizer = Tokenizer(models.Unigram(pieces, proto.trainer_spec.unk_id, proto.trainer_spec.byte_fallback))
    characters = proto.normalizer_spec.precompiled_charsmap
    steps: list[Any] = [] if not characters else [normalizers.Precompiled(characters)]
    steps.append(normalizers.Replace(Regex(" {2,}"), " "))
    first = canonical() if slow.do_lower_case else canonical()[1:]
    tokenizer.normalizer = normalizers.Sequence([*first, *steps])  # pyright: ignore[reportAttributeAccessIssue]
    # Behind a special token that a text spells out, the Python class puts no `▁`, which no scheme says.
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.decoder = decoders.Metaspace()  # pyright: ignore[reportAttributeAccessIssue]
    end, number = str(slow.eos_token), int(slow.eos_token_id)
    tokenizer.post_processor = processors.TemplateProcessing(  # pyright: ignore[reportAttributeAccessIssue]
        single=f"$A {end}", pair=f"$A {end} $B {end}", special_tokens=[(end, number)]
    )
    added = [slow.added_tokens_decoder[key] for key in sorted(slow.added_tokens_decoder)]
    tokenizer.add_special_tokens(
        [
            AddedToken(str(token), lstrip=token.lstrip, rstrip=token.rstrip, normalized=False)
            for token in added
        ]
    )
    return tokenizer
