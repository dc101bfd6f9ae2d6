"""A large body is parsed as orjson parses it, without holding up other threads for as long."""

from __future__ import annotations

import orjson
import pytest
from poolrt.serve.http import large_json

SIZE = large_json.SMALL_BYTES + 1000


def repeated(unit: str, size: int = SIZE) -> str:
    return unit * (size // len(unit.encode()) + 1)


BODIES: dict[str, bytes] = {
    "one text": orjson.dumps({"input": repeated("a"), "model": "m"}),
    "accents": orjson.dumps({"input": repeated("e\u0301"), "n": [1, 2.5, None, True]}),
    "escapes": b'{"input": "' + rb"\u0301\n\\\"\/" * (SIZE // 12) + b'", "b": "short \\" text"}',
    "pairs of surrogates": b'["' + rb"x\ud83d\ude00" * (SIZE // 13) + b'"]',
    "raw emoji and a last short text": orjson.dumps([repeated("🙂"), "", "b"]),
    "many long texts": orjson.dumps({"input": [repeated("grüße ", 3000) for _ in range(SIZE // 3000)]}),
    "short texts alone": orjson.dumps({"input": ['ab\\"c'] * (SIZE // 8)}),
    "keys": orjson.dumps({repeated("k"): {repeated("é", 2000): [repeated("v", 5000)]}, "b": "c"}),
    "a backslash in front of the closing quote": b'["' + b"a" * SIZE + b'\\\\", "b\\\\"]',
    "nested deeply": b"[" * 400 + orjson.dumps(repeated("x")) + b"]" * 400,
    "a text alone": orjson.dumps(repeated("ü")),
    "small": b'{"input": "a"}',
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_a_large_body_is_what_orjson_makes_of_it(body: bytes):
    assert large_json.loads(bytearray(body)) == orjson.loads(body)


LONG = b'{"input":"' + b"a" * SIZE
WRONG: dict[str, tuple[bytes, int]] = {
    "an end inside a text": (LONG, len(LONG)),
    "something behind it": (LONG + b'" x}', len(LONG) + 2),
    "a control character": (LONG + b'\n"}', len(LONG)),
    "half a pair of surrogates": (LONG + rb'\ud83d"}', len(LONG)),
    "no UTF-8": (LONG + b'\xff"}', len(LONG)),
    "no such escape": (LONG + rb'\q"}', len(LONG)),
}


@pytest.mark.parametrize(("body", "place"), WRONG.values(), ids=WRONG)
def test_a_mistake_behind_a_long_text_is_found_where_it_is(body: bytes, place: int):
    with pytest.raises(orjson.JSONDecodeError):
        orjson.loads(body)
    with pytest.raises(orjson.JSONDecodeError) as caught:
        large_json.loads(body)
    assert abs(caught.value.pos - place) <= 2


def test_a_piece_holds_no_more_than_a_few_thousand_characters():
    """So that no other thread waits for all of it."""
    longest = large_json._PIECE.match("é".encode() * 100_000)
    assert longest is not None
    assert longest.end() == 2 * 8192
