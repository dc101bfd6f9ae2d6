"""Loads, replaces and unloads artifacts while the server runs.

A new model is opened and warmed beside the old one, takes its place in one step of the event loop, and the
old one is closed when the last request that may use it has been answered. No request meets a closed model.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from ...runtime.artifact import reading
from ...runtime.errors import EXIT_INPUT, ArtifactError, InputError, PoolrtError, is_failure, reason
from ...runtime.model import Model
from ...runtime.store import resolving
from ...runtime.store.addresses import is_address
from ..errors import ApiError
from .adapter_loading import refused
from .adapters import MOST_NAME, AdapterExporter
from .registry import Registry, Served

log = logging.getLogger("poolrt.serve")

LOOK_S = 0.05
"""Time between two checks whether a replaced model's last request has been answered."""

Open = Callable[[Path, str], Model]
"""Opens an artifact as the command line says, under a name."""


@dataclass(frozen=True, slots=True)
class Loaded:
    name: str
    tasks: tuple[str, ...]
    replaced: bool
    seconds: float


class ArtifactLoader:
    """Changes one model at a time. Called in the event loop.

    Args:
        turn: ends an epoch of requests; returns a function that says whether all of its requests have been
            answered.
        adapters: what makes models of LoRA adapters, which then adapt the new model; None: LoRA is off.
    """

    def __init__(
        self,
        registry: Registry,
        open: Open,
        *,
        turn: Callable[[], Callable[[], bool]],
        adapters: AdapterExporter | None = None,
    ) -> None:
        self.registry, self._open, self._turn, self._adapters = registry, open, turn, adapters
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="poolrt-artifact")
        self._lock = asyncio.Lock()
        self._closing: set[asyncio.Task[None]] = set()
        self._closed = False

    async def load(self, place: str, name: str | None = None) -> Loaded:
        """Serves an artifact: a folder of this machine, or a name in the store. Raises ApiError: 400
        InvalidUserInput, 404 NotFoundError, 500, 503; what was served before is served then too.

        Args:
            name: that requests use; None: the artifact's own. A model of that name is replaced.
        """
        begun = time.monotonic()
        async with self._lock:
            folder = self._folder(place)
            served = self._planned(folder, name)
            old = self.registry.named(served.name)
            try:
                await asyncio.get_running_loop().run_in_executor(self._thread, self._opened, served)
            except BaseException as error:
                raise self._failed(served.name, place, error) from None
            if self._closed:
                await asyncio.to_thread(served.model.close, 0.0)
                raise ApiError(503, "the server is shutting down; try again", headers={"Connection": "close"})
            self.registry.replace(old, served)
            if old is not None:
                if self._adapters is not None:
                    self._adapters.rebase(old, served, folder)
                self._close_later(old)
        what = "loaded" if old is None else "replaced"
        seconds = time.monotonic() - begun
        log.info("%s: %s from %s in %.2f s", served.name, what, place, seconds)
        return Loaded(served.name, served.model.tasks, old is not None, seconds)

    async def unload(self, name: str) -> None:
        """Stops serving a model; running requests end. Raises ApiError: 400 InvalidUserInput, 404."""
        async with self._lock:
            served = self.registry.named(name)
            if served is None:
                raise ApiError(
                    404, f"No artifact is served under the name '{name[:MOST_NAME]}'.", param="name"
                )
            if adapters := [other.name for other in self.registry.adapters if other.parent is served]:
                raise refused(f"'{name}' is adapted by {', '.join(adapters)}; unload these adapters first")
            if len(self.registry.models) == 1:
                raise refused(
                    f"'{name}' is the only model of this server; load another first, or stop the server"
                )
            self.registry.remove(served)
            self._close_later(served)
        log.info("%s: unloaded", name)

    def close(self) -> None:
        """Ends what waits; models that were replaced are closed with the process."""
        self._closed = True
        self._thread.shutdown(wait=False, cancel_futures=True)
        for task in self._closing:
            task.cancel()

    def _folder(self, place: str) -> Path:
        if not place:
            raise refused("'path' needs to be provided: the folder of an artifact, or its name in the store")
        if is_address(place):
            raise refused(
                f"{place[:200]}: nothing is fetched for a request; pull it first: poolrt pull {place[:200]}"
            )
        try:
            return resolving.artifact(place)
        except (ArtifactError, InputError) as error:
            raise ApiError(404, str(error), param="path") from None

    def _planned(self, folder: Path, name: str | None) -> Served:
        """The model of an artifact, not yet opened."""
        try:
            own = reading.read(folder, check="quick").manifest.name
        except (PoolrtError, OSError, ValueError) as error:
            status = 404 if not folder.is_dir() else 400
            log.warning("%s: not loaded: %s", name or folder, error)
            raise ApiError(
                status, str(error), kind="NotFoundError" if status == 404 else "InvalidUserInput"
            ) from None
        name = name or own
        if len(name) > MOST_NAME or not name.isprintable():
            raise refused(f"expected a name of up to {MOST_NAME} printable characters")
        if self.registry.adapter(name) is not None:
            raise refused(f"'{name}' is the name of an adapter; unload it first, or choose another name")
        old = self.registry.named(name)
        names, aliases = ((name,), (own,)) if old is None else (old.names, (*old.aliases, own))
        return Served(
            names=names,
            open=lambda: self._open(folder, names[0]),
            aliases=tuple(dict.fromkeys(aliases)),
        )

    def _opened(self, served: Served) -> None:
        served.model = served.open()
        try:
            served.model.warm_up()
        except BaseException:
            served.model.close(0.0)
            raise
        served.know_aliases()

    def _failed(self, name: str, place: str, error: BaseException) -> BaseException:
        """The error of a model that could not be opened, as the response has it; the log has it too."""
        if not is_failure(error):
            return error
        if isinstance(error, PoolrtError):
            log.warning("%s: not loaded, what was served before stays: %s", name, error)
            if error.exit_code == EXIT_INPUT:
                return refused(str(error))
        else:
            log.error("%s: not loaded, what was served before stays", name, exc_info=error)
        return ApiError(500, f"loading '{name}' from {place} failed: {reason(error)}")

    def _close_later(self, served: Served) -> None:
        is_over = self._turn()

        async def closing() -> None:
            while not is_over() or served.running:
                await asyncio.sleep(LOOK_S)
            await asyncio.to_thread(served.model.close)
            log.info("%s: the replaced model is closed", served.name)

        task = asyncio.get_running_loop().create_task(closing())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)
