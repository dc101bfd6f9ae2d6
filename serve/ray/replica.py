"""A replica: our application, once for each artifact that Serve has it hold."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

from ...runtime.errors import PoolrtError
from ..app import create_app
from ..cli import parse, settings_of
from ..context import Context
from ..endpoints.operations import STALLED_S
from ..process.startup import models_of
from .exchange import Answered, Exchange
from .in_process import InProcess

STOP_S = 60.0
"""Time that the last requests of a model get when it is closed."""


class Opened:
    """One artifact, opened and warm, behind an application of its own."""

    def __init__(self, artifact: str, names: Sequence[str], flags: Sequence[str]) -> None:
        named = ["--served-model-name", *names] if names else []
        options, _ = parse([artifact, *named, *flags])
        settings = settings_of(options)
        models = models_of(options, settings)
        models.registry.open()
        app = create_app(models.registry, settings, models.adapters)
        self.context: Context = app.state.context
        self.server = InProcess(app)

    def fault(self) -> str | None:
        """Why it must not go on; None: it may."""
        if self.context.state.failure is not None:
            return str(self.context.state.failure)
        hanging = [served.name for served in self.context.registry if served.model.stalled_s() > STALLED_S]
        return f"no batch of {', '.join(hanging)} was finished for {STALLED_S:g} s" if hanging else None


class Replica:
    """What Serve runs. Serve's multiplexing opens an artifact when a request for it comes, and closes the one
    that was asked for longest ago when there are too many."""

    def __init__(self, artifacts: Mapping[str, Sequence[str]], flags: Sequence[str], most: int) -> None:
        from ray import serve  # pyright: ignore[reportMissingImports, reportAttributeAccessIssue]

        self._artifacts = artifacts
        self._flags = flags
        self._opened: dict[str, Opened] = {}

        @serve.multiplexed(max_num_models_per_replica=most)
        async def held(artifact: str) -> Held:
            return await self._open(artifact)

        self._held: Any = held
        self._first = next(iter(artifacts))

    async def reconfigure(self, _: Any) -> None:
        """Serve calls it before the first request: a replica of one model has it open by then."""
        if len(self._artifacts) == 1:
            await self._held(self._first)

    async def respond(self, request: Exchange) -> Answered:
        from ray import serve  # pyright: ignore[reportMissingImports, reportAttributeAccessIssue]

        held: Held = await self._held(serve.get_multiplexed_model_id() or self._first)
        return await held.opened.server.respond(request)

    async def check_health(self) -> None:
        """Raises RuntimeError for a replica that Serve must replace."""
        faults = [fault for opened in self._opened.values() if (fault := opened.fault()) is not None]
        if faults:
            raise RuntimeError("; ".join(faults))

    async def _open(self, artifact: str) -> Held:
        try:
            opened = await asyncio.to_thread(Opened, artifact, self._artifacts[artifact], self._flags)
        except PoolrtError as error:  # which Ray could not send to another process whole
            raise RuntimeError(str(error)) from None
        await opened.server.start()
        self._opened[artifact] = opened
        return Held(self._opened, artifact, asyncio.get_running_loop())


class Held:
    """A model in Serve's hands, which calls `__del__` in a thread when another model takes its place, or when
    the replica stops."""

    def __init__(self, opened: dict[str, Opened], artifact: str, loop: asyncio.AbstractEventLoop) -> None:
        self._all = opened
        self._artifact = artifact
        self._loop = loop
        self.opened = opened[artifact]

    def __del__(self) -> None:
        if self._all.get(self._artifact) is not self.opened or self._loop.is_closed():
            return
        del self._all[self._artifact]
        stopping = asyncio.run_coroutine_threadsafe(self.opened.server.stop(), self._loop)
        with contextlib.suppress(RuntimeError):  # no running loop: this is a thread of its own
            asyncio.get_running_loop()
            return
        stopping.result(STOP_S)
