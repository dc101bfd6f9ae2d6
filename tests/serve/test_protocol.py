"""What the connection's transport does with the parts of an answer."""

from __future__ import annotations

import asyncio
from typing import Any

from poolrt.serve.http.protocol import Gathering


class Wire(asyncio.Transport):
    """Notes what reaches the connection."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[Any] = []
        self.halves = True

    def writelines(self, list_of_data: Any) -> None:
        self.sent.append(b"".join(list_of_data))

    def close(self) -> None:
        self.sent.append("closed")

    def abort(self) -> None:
        self.sent.append("aborted")

    def can_write_eof(self) -> bool:
        return self.halves

    def write_eof(self) -> None:
        self.sent.append("end")

    def get_write_buffer_size(self) -> int:
        return 7

    def is_closing(self) -> bool:
        return "closed" in self.sent or "aborted" in self.sent


def turn(*steps: str, turns: int = 1) -> list[Any]:
    async def run() -> list[Any]:
        wire = Wire()
        transport = Gathering(wire, asyncio.get_running_loop())
        for step in steps:
            if step == "close":
                transport.close()
            elif step == "turn":
                await asyncio.sleep(0)
            else:
                transport.write(step.encode())
        for _ in range(turns):
            await asyncio.sleep(0)
        return wire.sent

    return asyncio.run(run())


def test_head_and_body_of_an_answer_are_written_at_once():
    assert turn("head", "body") == [b"headbody"]


def test_what_comes_in_another_turn_is_not_held_back():
    assert turn("head", "turn", "first", "turn", "second") == [b"head", b"first", b"second"]


def test_nothing_is_lost_when_the_connection_is_closed_behind_it():
    assert turn("head", "body", "close") == [b"headbody", "closed"]


def test_nothing_is_written_to_a_closed_connection():
    assert turn("close", "late") == ["closed"]


def ending(*steps: str, linger: bool = False, halves: bool = True) -> list[Any]:
    """What the connection sees of these calls, with `head` written before them."""

    async def run() -> list[Any]:
        wire = Wire()
        wire.halves = halves
        transport = Gathering(wire, asyncio.get_running_loop(), lambda: linger)
        transport.write(b"head")
        for step in steps:
            getattr(transport, step)()
        await asyncio.sleep(0)
        assert transport.unsent_bytes() == 7
        assert transport.is_closing() == (steps != ("end_of_answers",))
        return wire.sent

    return asyncio.run(run())


def test_a_connection_that_lingers_is_closed_later():
    assert ending("close", linger=True) == [b"head"]
    assert ending("close", "close_now", linger=True) == [b"head", "closed"]
    assert ending("close", "end_of_answers", linger=True) == [b"head", "end"]
    assert ending("close", "close") == [b"head", "closed"]


def test_the_end_of_answers_is_told_where_it_can_be():
    assert ending("close", "end_of_answers", linger=True, halves=False) == [b"head"]
    assert ending("close", "end_of_answers") == [b"head", "closed"], "not on one that is closed"


def test_nothing_follows_an_end():
    assert ending("abort") == ending("abort", "close") == ["aborted"]
    assert ending("lost", "close") == []
