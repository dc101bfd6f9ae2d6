"""Waiting for work: its deadline, its progress, its cancellation."""

from __future__ import annotations

import threading
import time

import pytest
from poolrt.runtime.batching.pending import Pending
from poolrt.runtime.batching.queue import Answer, Ticket
from poolrt.runtime.errors import DeadlineExceeded

ANSWER = Answer([], 3)


def test_a_result_is_what_its_steps_make_of_the_answer():
    ticket = Ticket()
    pending = Pending(ticket, lambda answer: answer.tokens, count=2, deadline=7.0).then(
        lambda tokens: tokens * 2
    )
    assert pending.count == 2
    assert pending._deadline == 7.0
    ticket.set_result(ANSWER)
    assert (
        Pending(ticket, lambda answer: answer.tokens, count=2).then(lambda tokens: tokens * 2).result() == 6
    )


def test_a_deadline_ends_the_wait_and_cancels():
    ticket = Ticket()
    begun = time.monotonic()
    with pytest.raises(DeadlineExceeded):
        Pending(ticket, lambda answer: answer, count=1, deadline=begun + 0.05).result()
    assert ticket.cancelled()
    assert 0.04 < time.monotonic() - begun < 5
    late = Ticket()
    with pytest.raises(DeadlineExceeded):
        Pending(late, lambda answer: answer, count=1, deadline=begun).result(progress=lambda count: None)


def test_progress_is_told_in_steps_that_sum_to_the_whole():
    ticket, told, seen = Ticket(), [], threading.Event()

    def progress(count: int) -> None:
        told.append(count)
        seen.set()

    def work() -> None:
        ticket.done_items = 3
        assert seen.wait(10)
        ticket.done_items = 4
        ticket.set_result(ANSWER)

    thread = threading.Thread(target=work)
    thread.start()
    assert Pending(ticket, lambda answer: answer.tokens, count=7).result(progress=progress) == 3
    thread.join()
    assert told[0] == 3
    assert sum(told) == 7
    whole: list[int] = []
    Pending(ticket, lambda answer: answer, count=7).result(progress=whole.append)
    assert whole == [7]


def test_cancelling_is_of_the_work_itself():
    ticket = Ticket()
    assert Pending(ticket, lambda answer: answer, count=1).then(lambda answer: answer).cancel()
    assert ticket.cancelled()
