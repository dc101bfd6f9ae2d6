"""What the modules share, without any of their libraries."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from poolrt.runtime import InputError, UnsupportedTask
from poolrt.runtime.batching.pending import Pending
from poolrt.runtime.batching.queue import Ticket
from poolrt.runtime.integrations import opening

from tests.integrations.conftest import QUERY, TEXTS


def test_an_artifact_is_opened_once_for_the_same_options(artifacts: Callable[[str], Path]) -> None:
    folder = artifacts("minilm_like")
    model = opening.opened(folder, {"threads": 1})
    assert opening.opened(str(folder), {"threads": 1}) is model
    assert opening.opened(folder / ".." / folder.name, {"threads": 1}) is model
    assert opening.opened(folder, {"threads": 2}) is not model
    with pytest.raises(InputError, match="must be JSON"):
        opening.opened(folder, {"threads": object()})


def test_awaited_results_are_the_same(artifacts: Callable[[str], Path]) -> None:
    model = opening.opened(artifacts("bge_m3"), {"threads": 1})
    dense = opening.dense(model, TEXTS, "document", None)
    np.testing.assert_allclose(asyncio.run(opening.adense(model, TEXTS, "document", None)), dense, atol=1e-6)
    np.testing.assert_allclose(dense, np.asarray(model.embed(TEXTS)), atol=1e-6)
    sparse = opening.sparse(model, TEXTS, "document")
    for (ids, weights), (other, others) in zip(
        sparse, asyncio.run(opening.asparse(model, TEXTS, "document")), strict=True
    ):
        assert ids == other == sorted(ids)
        np.testing.assert_allclose(weights, others, atol=1e-6)
    ranking = opening.rank(model, QUERY, TEXTS, 2, None)
    awaited = asyncio.run(opening.arank(model, QUERY, TEXTS, 2, None))
    assert [ranked.index for ranked in ranking] == [ranked.index for ranked in awaited]
    assert len(ranking) == 2


def test_long_texts_are_cut_and_no_texts_have_no_vectors(artifacts: Callable[[str], Path]) -> None:
    model = opening.opened(artifacts("minilm_like"), {"threads": 1})
    assert np.shape(opening.dense(model, ["planet " * 500], "document", None)) == (1, 64)
    assert opening.dense(model, [], "document", None) == opening.late(model, [], "query") == []
    assert len(opening.rank(model, QUERY, ["planet " * 500], 0, None)) == 1
    with pytest.raises(UnsupportedTask, match="no sparse vectors"):
        opening.sparse(model, TEXTS, "query")


def test_a_cancelled_task_cancels_its_call() -> None:
    """As the worker's queue sees it: a cancelled ticket is taken out of it."""
    ticket = Ticket()
    pending = Pending(ticket, lambda answer: answer, count=1)

    async def given_up() -> None:
        task = asyncio.create_task(opening.finished(pending))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(given_up())
    assert ticket.cancelled()
