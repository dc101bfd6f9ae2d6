"""Limits of the memory that request bodies take: all of them together, and each one once it is parsed."""

from __future__ import annotations

import threading

from ..errors import ApiError

FREE_BYTES = 64 * 1024
"""Bodies up to this size are not counted: the limit of connections bounds their number."""
VALUE_BYTES = 64
"""Bytes of a JSON value as a Python object, roughly."""
MOST_NUMBERS = 1 << 20
"""Numbers in one body."""
TEXTS_PER_ITEM = 8
"""Texts, lists and objects that one item of a request may consist of, on average."""
_SLICE = 1 << 18
HELD = "poolrt.held"
"""Scope key of the request's `Hold`, which the gate gives back."""


class Budget:
    """The bytes that all requests hold. Any thread may use it."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.used = 0
        self.lock = threading.Lock()

    def check(self, size: int) -> None:
        """Raises ApiError (429) where `size` more bytes exceed the limit, save for a request alone."""
        if self.used and self.used + size > self.most:
            raise refused(self.most)


class Hold:
    """What one request has taken of the budget."""

    __slots__ = ("budget", "size")

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self.size = 0

    def take(self, size: int) -> None:
        """Raises ApiError as `Budget.check` does."""
        budget = self.budget
        with budget.lock:
            if budget.used > self.size and budget.used + size > budget.most:
                raise refused(budget.most)
            budget.used += size
            self.size += size

    def give_back(self) -> None:
        with self.budget.lock:
            self.budget.used -= self.size
            self.size = 0


def refused(most: int) -> ApiError:
    text = f"the bodies of the requests at hand take more than {most} bytes (--max-pending-bytes); try again"
    return ApiError(429, text, headers={"Retry-After": "1"}, reason="memory")


def values_of(content: bytes | bytearray) -> tuple[int, int]:
    """Returns the counts of numbers (and true, false, null) and of texts, lists and objects in a JSON text.

    The counts are rough, and taken without parsing. Works in slices, so that other threads get their turn in
    between: a parser holds all of them up until it is done.
    """
    numbers = others = start = 0
    inside = False
    while start < len(content):
        end = min(start + _SLICE, len(content))
        while end < len(content) and content[end - 1] == 0x5C:  # a slice must not end inside an escape
            end += 1
        parts = content[start:end].replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"')
        outside = b"".join(parts[inside::2])
        if len(parts) % 2 == 0:
            inside = not inside
        numbers += outside.count(b",")
        others += outside.count(b"[") + outside.count(b"{") + len(parts) // 2
        start = end
    return max(0, numbers - others // 2), others


def check_values(content: bytes | bytearray, max_items: int) -> int:
    """Returns the bytes that the parsed body will take beside the body's own. Raises ApiError (413) for too
    many values."""
    numbers, others = values_of(content)
    most = max(max_items, 16) * TEXTS_PER_ITEM
    if others > most:
        text = (
            f"the body holds {others} texts, lists and objects, {most} are admitted; send less per "
            "request, or raise --max-items"
        )
        raise ApiError(413, f"{text} on the server")
    if numbers > MOST_NUMBERS:
        raise ApiError(413, f"the body holds more than {MOST_NUMBERS} numbers, send less per request")
    return (numbers + others) * VALUE_BYTES


def check_items(value: object, most: int) -> None:
    """Raises ApiError (400) for a parsed body with more than `most` items in a list. A list of numbers is not
    counted: it is the token ids of one item."""
    if type(value) is not dict:
        return
    for name, inner in value.items():
        for key, items in ((name, inner), *(inner.items() if type(inner) is dict else ())):
            if type(items) is list and len(items) > most and type(items[0]) not in (int, float):
                field = key if key == name else f"{name}.{key}"
                text = f"{str(field)[:80]}: {len(items)} items, {most} are admitted in one request"
                raise ApiError(
                    400,
                    f"{text}; send them in several, or raise --max-items on the server",
                    param=str(field)[:80],
                )
