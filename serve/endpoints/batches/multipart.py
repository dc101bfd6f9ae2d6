"""Reads a body of the type multipart/form-data (RFC 7578): the fields and the file of an upload."""

from __future__ import annotations

from dataclasses import dataclass
from email import policy
from email.message import EmailMessage
from email.parser import BytesHeaderParser

from ...errors import ApiError

MOST_PARTS = 32
_PARSER = BytesHeaderParser(policy=policy.HTTP)


@dataclass(frozen=True, slots=True)
class Part:
    name: str
    filename: str | None
    content: bytes


def read(content_type: str, body: bytes) -> list[Part]:
    """The parts of a body, in order. Raises ApiError (400)."""
    kind = EmailMessage(policy=policy.HTTP)
    try:
        kind["content-type"] = content_type
        boundary = kind.get_boundary()
    except (ValueError, IndexError):
        boundary = None
    if kind.get_content_type() != "multipart/form-data" or not boundary:
        raise ApiError(
            400, "expected the type multipart/form-data with a boundary, the parts file and purpose"
        )
    # A line break in front lets the first delimiter look like the others.
    first, *pieces = (b"\r\n" + body).split(b"\r\n--" + boundary.encode("latin-1", "replace"))
    if first.strip() or not pieces or not pieces[-1].startswith(b"--"):
        raise ApiError(
            400, "the body is not what its boundary says: it is cut off, or its parts are not marked"
        )
    if len(pieces) > MOST_PARTS + 1:
        raise ApiError(400, f"the body has more than {MOST_PARTS} parts")
    return [_part(piece) for piece in pieces[:-1]]


def _part(piece: bytes) -> Part:
    head, separator, content = piece.partition(b"\r\n\r\n")
    headers = _PARSER.parsebytes(head.lstrip() + b"\r\n\r\n")
    name = headers.get_param("name", header="content-disposition")
    if not separator or not isinstance(name, str):
        raise ApiError(400, "a part of the body has no header Content-Disposition with a name")
    return Part(name, headers.get_filename(), content)
