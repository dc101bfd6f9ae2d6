"""The texts on which poolrt and a checkpoint's own library are compared: many by token ids, fewer by
numbers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from ...runtime.artifact.manifest import RoleName
from . import texts

# Added tokens that are tried: a vocabulary may hold thousands that are all alike (`<unused17>`).
MOST_TOKENS = 384
TOKENS_A_TEXT = 24
# Tokens to which texts are cut at most: longer ones would cost more time than they show.
LONGEST_CUT = 4096
# Characters of a text that is certainly longer than a token limit, for each token.
CHARACTERS_A_TOKEN = 8
# Tokens of the longest text whose numbers are compared: for a small model, and for one of LARGE_PARAMETERS.
LONGEST, LONGEST_LARGE = texts.LONGEST_TOKENS, 640
LARGE_PARAMETERS = 200_000_000

WRITTEN = (
    "Mixed CASE Text, ÀÉÎõü, İstanbul, straße, Ελληνικά, ǅ ﬁ № ½ Ⅷ ｆｕｌｌ ｗｉｄｔｈ",
    "東京タワーは333mです。北京你好，世界！한국어도 있어요 ไทย עברית",
    "  two  spaces\tand a tab,\nlines\r\nand a no-break\u00a0space  ",
    "e\u0301 a\u030a n\u0303 cafe\u0301, zero\u200bwidth, soft\u00adhyphen, 👩‍👩‍👧‍👦 🇫🇷 🙂",
    "3.14159 1,000,000 v2.0-beta_3 user@example.com https://example.org/a?b=c#d (x) [y] {z} don't re-use",
    "def f(x):\n    return x**2  # comment",
    "supercalifragilisticexpialidocious" * 4,
)
"""What normalisers and pre-tokenisers treat differently: case, accents, scripts without spaces, white space,
joined and broken signs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One thing to read: a text, or a pair with `document`; in a role or with a stored prompt."""

    text: str
    document: str | None = None
    role: RoleName | None = None
    prompt_name: str | None = None

    def __str__(self) -> str:
        shown = self.text if len(self.text) <= 60 else f"{self.text[:57]}..."
        pair = "" if self.document is None else f" with {self.document[:40]!r}"
        side = (
            f" as {self.role}"
            if self.role
            else f" with the prompt {self.prompt_name!r}"
            if self.prompt_name
            else ""
        )
        return f"{shown!r}{pair}{side}"


def of_tokens(added: Iterable[str]) -> Iterator[str]:
    """Texts made of special and added tokens: bare, in a row, inside words, and in another case."""
    known = [token for token in dict.fromkeys(added) if token.strip()]
    # Of a long list its two ends, where the tokens with a meaning of their own are.
    chosen = known if len(known) <= MOST_TOKENS else [*known[: MOST_TOKENS // 2], *known[-MOST_TOKENS // 2 :]]
    for start in range(0, len(chosen), TOKENS_A_TEXT):
        tokens = chosen[start : start + TOKENS_A_TEXT]
        yield " ".join(tokens)
        yield "what " + " IS this ".join(tokens) + " then"
        yield "".join(tokens)
        yield " ".join(token.swapcase() for token in tokens)


def for_ids(
    added: Iterable[str], *, limit: int, pairs: bool, templated: bool, empty: bool, paired: bool = False
) -> list[Case]:
    """The cases whose token ids are compared.

    Args:
        added: special and added tokens of both sides.
        limit: tokens where both sides cut.
        pairs: the model reads pairs.
        templated: the library cuts a pair in a template elsewhere than poolrt does.
        empty: an empty text means the same to both.
        paired: an empty document does too.
    """
    single = [
        texts.QUERY,
        *texts.DOCUMENTS[:2],
        *texts.OTHER_LANGUAGES,
        *texts.HARDLY_ANYTHING,
        *WRITTEN,
        *of_tokens(added),
        *([""] if empty else []),
    ]
    endless = texts.LONG * (limit * CHARACTERS_A_TOKEN // len(texts.LONG) + 1)
    if not pairs:
        return [Case(text=text) for text in (*single, texts.LONG, endless)]
    cases = [Case(text=texts.QUERY, document=text) for text in single if text or paired]
    cases += [Case(text=text, document=texts.DOCUMENTS[0]) for text in WRITTEN]
    # A template that ends with a question is cut in another place by each side.
    long = [] if templated else [(texts.QUERY, endless), (endless, texts.DOCUMENTS[0]), (endless, endless)]
    return cases + [Case(text=query, document=document) for query, document in long]


def sides(roles: Iterable[RoleName], prompts: Iterable[str], *, limit: int) -> list[Case]:
    """Every role and stored prompt on a few texts, one of them cut."""
    endless = texts.LONG * (limit * CHARACTERS_A_TOKEN // len(texts.LONG) + 1)
    few = (texts.QUERY, WRITTEN[0], WRITTEN[1], "a", "", texts.DOCUMENTS[0], endless)
    cases = [Case(text=text, role=role) for role in roles for text in few]
    return cases + [Case(text=text, prompt_name=name) for name in prompts for text in few if text]


def for_numbers(roles: Sequence[RoleName], *, limit: int, pairs: bool, templated: bool) -> list[Case]:
    """Texts of very different lengths, up to `limit` tokens."""
    endless = texts.LONG * (limit * CHARACTERS_A_TOKEN // len(texts.LONG) + 1)
    if pairs:
        documents = (*texts.DOCUMENTS[:3], texts.OTHER_LANGUAGES[0], *([] if templated else [endless]))
        return [Case(text=texts.QUERY, document=document) for document in documents]
    chosen = (texts.QUERY, texts.DOCUMENTS[0], texts.DOCUMENTS[5], WRITTEN[0], "a", endless)
    return [Case(text=text) for text in chosen] + [
        Case(text=text, role=role) for role in roles for text in chosen
    ]
