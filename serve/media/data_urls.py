"""data: URLs: bytes in base64, and videos as a list of JPEG frames."""

from __future__ import annotations

import binascii
from dataclasses import dataclass

from ...runtime.errors import InputError

_PIECE = 1 << 20
"""Characters decoded in one step, a multiple of four: the decoder holds up all other threads meanwhile."""


@dataclass(frozen=True, slots=True)
class DataUrl:
    media_type: str
    """Lower case, such as `image/png`; empty where the URL names none."""
    text: str
    """base64."""


def is_data_url(url: str) -> bool:
    return url[:5].lower() == "data:"


def read(url: str) -> DataUrl:
    """Returns the parts of a data: URL. Raises InputError for one whose data is not base64."""
    head, comma, text = url[5:].partition(",")
    if not comma:
        raise InputError(f"Invalid data URL {url[:32]!r}: missing ',' separator.")
    kind, semicolon, encoding = head.rpartition(";")
    if not semicolon or encoding.strip().lower() != "base64":
        raise InputError("Only base64 data URLs are supported for now.")
    return DataUrl(kind.partition(";")[0].strip().lower(), text)


def size_of(text: str) -> int:
    """Returns the bytes that a base64 text decodes to, without decoding it."""
    return len(text) // 4 * 3 - text[-2:].count("=")


def decoded(text: str) -> bytes:
    """Returns the bytes of a base64 text. Raises InputError for any other character, blanks included."""
    try:
        # Padding is allowed at the very end only, which strict mode checks in the last piece and a search in
        # the others.
        if len(text) > _PIECE and "=" in text[: (len(text) - 1) // _PIECE * _PIECE]:
            raise InputError("Non-base64 digit found: '=' before the end")
        pieces = [
            binascii.a2b_base64(text[start : start + _PIECE].encode("ascii"), strict_mode=True)
            for start in range(0, len(text), _PIECE)
        ]
    except (binascii.Error, UnicodeEncodeError) as error:
        why = str(error) if isinstance(error, binascii.Error) else "not ASCII"
        raise InputError(f"Non-base64 digit found: {why}") from None
    return b"".join(pieces) if len(pieces) != 1 else pieces[0]


def frames(url: DataUrl, most: int) -> list[str] | None:
    """Returns the base64 of the first `most` frames of a video/jpeg URL, -1: of all; None for other types."""
    if url.media_type != "video/jpeg":
        return None
    texts = url.text.split(",", most)
    return texts[:most] if most >= 0 else texts
