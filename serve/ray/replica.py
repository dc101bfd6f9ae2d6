"""A replica: our application, once for each artifact that it holds."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import orjson

from ...runtime.artifact.manifest import Manifest
from ...runtime.errors import PoolrtError
from ..app import create_app
from ..cli import parse, settings_of
from ..context import Context
from ..endpoints.operations import STALLED_S
from ..errors import ApiError, error_response
from ..process.startup import models_of
from .artifacts import Entry, Names, Table, configured
from .exchange import Answered, Exchange
from .in_process import InProcess

STOP_S = 60.0
"""Time that the last requests of a model get when it is closed."""
LISTS = ("/v1/models", "/models")
NAME = b"x-poolrt-replica"
"""The header of a response that names the replica."""


class Opened:
    """One artifact, opened and warm, behind an application of its own."""

    def __init__(self, entry: Entry, flags: Sequence[str]) -> None:
        named = ["--served-model-name", *entry.names] if entry.names else []
        options, _ = parse([entry.artifact, *named, *flags])
        settings = settings_of(options)
        models = models_of(options, settings)
        models.registry.open()
        app = create_app(models.registry, settings, models.adapters)
        self.entry = entry
        self.most_tokens = options.max_model_len
        self.context: Context = app.state.context
        self.server = InProcess(app)

    def serves(self, entry: Entry, manifest: Manifest | None) -> bool:
        """Whether it is what an entry names, of which this is the manifest now."""
        own = self.context.registry.models[0].manifest
        return self.entry == entry and (manifest is None or manifest.digest == own.digest)

    def fault(self) -> str | None:
        """Why it must not go on; None: it may."""
        if self.context.state.failure is not None:
            return str(self.context.state.failure)
        hanging = [served.name for served in self.context.registry if served.model.stalled_s() > STALLED_S]
        return f"no batch of {', '.join(hanging)} was finished for {STALLED_S:g} s" if hanging else None

    async def close(self) -> None:
        """Returns when its last requests have their responses."""
        await self.server.stop(STOP_S)


class Replica:
    """What Serve runs. A lone artifact is open before the first request. Of several, Serve's multiplexing
    opens one when a request for it comes, and closes the one that was asked for longest ago when there are
    too many."""

    def __init__(self, flags: Sequence[str], most: int) -> None:
        from ray import serve  # pyright: ignore[reportMissingImports, reportAttributeAccessIssue]

        self._flags = flags
        self._table = Table(())
        self._opened: dict[str, Opened] = {}
        self._opening = asyncio.Lock()
        self._changing = asyncio.Lock()
        self._name = serve.get_replica_context().replica_id.unique_id.encode()

        @serve.multiplexed(max_num_models_per_replica=most)
        async def held(key: str) -> Held:
            await self._open(key)
            return Held(self, key)

        self._held: Any = held

    async def reconfigure(self, user_config: Any) -> None:
        """Takes another set of artifacts. Serve calls it before the first request, and when `user_config`
        changes; requests go on meanwhile. Raises RuntimeError, after which Serve replaces the replica.

        What takes the place of an open model, under its name or as the only one, is opened beside it. From
        then on requests go to the new one, and the old one closes after its last response.
        """
        async with self._changing:
            with _readable():
                table = await asyncio.to_thread(configured, user_config)
            for entry in table.entries:
                old = self._opened.get(entry.key)
                if old is None and table.several:
                    continue
                if old is not None and old.serves(entry, table.manifests.get(entry.key)):
                    continue
                async with self._opening:
                    new = await self._started(entry)
                    old, self._opened[entry.key] = self._opened.get(entry.key), new
                if old is not None:
                    await old.close()
            self._table = table
            for key in [key for key in self._opened if table.entry(key) is None]:
                await self.close(key)
            if table.several:
                for key in list(self._opened):  # Serve then drops what is gone before what is in use
                    await self._held(key)

    async def names(self) -> Names:
        """What a front must know."""
        return self._table.names

    async def opened(self) -> list[str]:
        """Keys of the models that are open."""
        return list(self._opened)

    async def respond(self, request: Exchange) -> Answered:
        table = self._table
        entry = table.named(request.model) if table.several and request.model else None
        opened = await self._model(table, entry, request)
        answered = await opened.server.respond(request)
        if table.several and answered.status == 200 and request.path in LISTS and request.method == "GET":
            answered = _of(200, _all_models(answered.body, table, opened), answered)
        elif table.several and entry is None and answered.status == 404 and _names_a_model(request):
            known = ", ".join(name for name, _ in table.listed)
            text = f"The model `{request.model[:200]}` does not exist. Valid names: {known}."
            response = error_response(ApiError(404, text, param="model"))
            answered = _of(404, bytes(response.body), answered)
        headers = (*answered.headers, (NAME, self._name))
        return dataclasses.replace(answered, headers=headers, table=table.digest)

    async def check_health(self) -> None:
        """Raises RuntimeError for a replica that Serve must replace."""
        faults = [fault for opened in self._opened.values() if (fault := opened.fault()) is not None]
        if faults:
            raise RuntimeError("; ".join(faults))

    async def close(self, key: str) -> None:
        """Closes a model if it is open. Another request for it opens it again."""
        opened = self._opened.pop(key, None)
        if opened is not None:
            await opened.close()

    async def __del__(self) -> None:
        """Serve awaits it when a replica stops, after the last response."""
        for key in list(self._opened):
            await self.close(key)

    async def _model(self, table: Table, entry: Entry | None, request: Exchange) -> Opened:
        """The model of a request, opened if it is not: where the request names none, the first, and for pages
        any that is open."""
        if entry is None and request.method == "GET" and self._opened:
            return next(iter(self._opened.values()))
        key = (entry or table.entries[0]).key
        if table.several:
            await self._held(key)
        return self._opened.get(key) or await self._open(key)

    async def _open(self, key: str) -> Opened:
        async with self._opening:
            opened = self._opened.get(key)
            if opened is None:
                # A key that is gone was the only model's: its successor is the only one now.
                entry = self._table.entry(key) or self._table.entries[0]
                opened = self._opened.get(entry.key) or await self._started(entry)
                self._opened[entry.key] = opened
            return opened

    async def _started(self, entry: Entry) -> Opened:
        with _readable():
            opened = await asyncio.to_thread(Opened, entry, self._flags)
        await opened.server.start()
        return opened


class Held:
    """A model in Serve's hands, which calls `__del__` in a thread when another model takes its place."""

    def __init__(self, replica: Replica, key: str) -> None:
        self._replica: Replica | None = replica
        self._key = key
        self._loop = asyncio.get_running_loop()

    def __del__(self) -> None:
        replica, self._replica = self._replica, None
        if replica is None or self._loop.is_closed():
            return
        with contextlib.suppress(RuntimeError):  # no running loop: this is a thread of Serve's
            asyncio.get_running_loop()
            return
        asyncio.run_coroutine_threadsafe(replica.close(self._key), self._loop).result(2 * STOP_S)


@contextlib.contextmanager
def _readable() -> Iterator[None]:
    """An error of ours as one that Ray can send to another process."""
    try:
        yield
    except PoolrtError as error:
        raise RuntimeError(str(error)) from None


def _names_a_model(request: Exchange) -> bool:
    """Whether its errors are in the form of OpenAI's API, and about a model."""
    return bool(request.model) and not request.path.startswith("/api/")


def _of(status: int, body: bytes, answered: Answered) -> Answered:
    """The response with another body."""
    headers = tuple(header for header in answered.headers if header[0] != b"content-length")
    length = (b"content-length", str(len(body)).encode())
    return dataclasses.replace(answered, status=status, headers=(*headers, length), body=body)


def _all_models(body: bytes, table: Table, opened: Opened) -> bytes:
    """The list of one artifact's application with the models of all, none of which is opened for that."""
    listed = orjson.loads(body)
    card = listed["data"][0]
    cards: list[dict[str, Any]] = []
    for name, entry in table.listed:
        manifest = table.manifests.get(entry.key)
        own = {"id": name, "root": name, "max_model_len": opened.most_tokens}
        if manifest is not None:
            own["root"] = manifest.source.checkpoint
            own["max_model_len"] = opened.most_tokens or manifest.text.max_tokens
        cards.append(card | own)
    return orjson.dumps(listed | {"data": cards})
