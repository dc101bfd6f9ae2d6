"""PDF files made by hand, good and hostile."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

A4 = (595, 842)


def pdf(*sizes: tuple[float, float], content: bytes | None = None, forms: Sequence[bytes] = ()) -> bytes:
    """A PDF with a page of each size (width, height in points), with its number and a red square in the lower
    left corner.

    Args:
        content: a content stream, deflated, in place of that; it may draw the form /X.
        forms: the first object is /X.
    """
    kids = " ".join(f"{4 + 2 * index} 0 R" for index in range(len(sizes)))
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {len(sizes)} >>".encode(),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    form = 4 + 2 * len(sizes)
    for index, (width, height) in enumerate(sizes):
        resources = f"/Font << /F 3 0 R >> /XObject << /X {form} 0 R >>"
        objects.append(
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 {width:.0f} {height:.0f}] "
            f"/Contents {5 + 2 * index} 0 R /Resources << {resources} >> >>".encode()
        )
        own = (
            f"BT /F 40 Tf 100 {height / 2:.0f} Td (Page {index + 1}) Tj ET 1 0 0 rg 0 0 100 100 re f".encode()
        )
        objects.append(stream(zlib.compress(own) if content is None else content))
    return document([*objects, *forms])


def stream(deflated: bytes, more: bytes = b"") -> bytes:
    """A stream object of deflated bytes."""
    facts = b"<< /Filter /FlateDecode /Length %d %b >>" % (len(deflated), more)
    return facts + b"\nstream\n" + deflated + b"\nendstream"


def bomb(size: int) -> bytes:
    """Deflated blanks: `size` bytes of them."""
    packer = zlib.compressobj(9)
    return b"".join(packer.compress(b" " * (1 << 20)) for _ in range(size >> 20)) + packer.flush()


def document(objects: Sequence[bytes]) -> bytes:
    """The file of numbered objects, the first of which is the catalog."""
    out, places = b"%PDF-1.7\n", []
    for number, content in enumerate(objects, 1):
        places.append(len(out))
        out += b"%d 0 obj\n" % number + content + b"\nendobj\n"
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    head = b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1)
    tail = b"trailer << /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF" % (len(objects) + 1, len(out))
    return out + head + table + tail
