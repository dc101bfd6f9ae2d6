"""Loads, replaces and unloads artifacts while the server runs.

A new model is opened and warmed beside the old one, takes its place in one step of the event loop, and the
old one is closed when the last request that may use it has been answered. No request meets a closed model.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from ...runtime.artifact import reading
from ...runtime.errors import EXIT_INPUT, ArtifactError, InputError, PoolrtError, is_failure, reason
from ...runtime.model import Model
from ...runtime.store import resolving
from ...runtime.store.addresses import is_address
from ..errors import ApiError
from .adapter_loading import refused, stopping
from .adapters import MOST_NAME, AdapterExporter
from .changes import Change, Loaded
from .registry import Registry, Served

log = logging.getLogger("poolrt.serve")

LOOK_S = 0.05
"""Time between two checks whether a replaced model's last request has been answered."""

Open = Callable[[Path, str], Model]
"""Opens an artifact as the command line says, under a name."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A change that can be made at once."""

    change: Change
    """With the final name and folder."""
    old: Served | None
    """The model that goes."""
    new: Served | None
    """The model that comes, opened and warm."""
    begun: float


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
        self._prepared: Prepared | None = None
        self._closing: set[asyncio.Task[None]] = set()
        self._closed = False

    async def load(self, place: str, name: str | None = None) -> Loaded:
        """Serves an artifact: a folder of this machine, or a name in the store. Raises ApiError: 400
        InvalidUserInput, 404 NotFoundError, 500, 503; what was served before is served then too.

        Args:
            name: that requests use; None: the artifact's own. A model of that name is replaced.
        """
        loaded = await self.make(Change("load", name, place))
        assert loaded is not None, "a load"
        return loaded

    async def unload(self, name: str) -> None:
        """Stops serving a model; running requests end. Raises ApiError: 400 InvalidUserInput, 404."""
        await self.make(Change("unload", name))

    async def make(self, change: Change) -> Loaded | None:
        """Loads or unloads. Raises ApiError."""
        async with self._lock:
            await self.prepare(change)
            return self.commit()

    async def prepare(self, change: Change) -> Change:
        """Does what takes time or may fail; `commit` or `drop` follows. Returns the change with its
        final name and folder. Raises ApiError."""
        begun = time.monotonic()
        if change.kind == "unload":
            old = self._removable(change.name or "")
            self._prepared = Prepared(Change("unload", old.name), old, None, begun)
            return self._prepared.change
        folder = self._folder(change.place)
        new = planned(self.registry, self._open, folder, change.name)
        old = self.registry.named(new.name)
        try:
            await asyncio.get_running_loop().run_in_executor(self._thread, self._opened, new)
        except BaseException as error:
            raise self._failed(new.name, change.place, error) from None
        if self._closed:
            await asyncio.to_thread(new.model.close, 0.0)
            raise stopping()
        self._prepared = Prepared(Change("load", new.name, str(folder.absolute())), old, new, begun)
        return self._prepared.change

    def commit(self) -> Loaded | None:
        """Makes the prepared change, in one step of the event loop. Returns what was loaded."""
        prepared, self._prepared = self._prepared, None
        assert prepared is not None, "nothing is prepared"
        old, new = prepared.old, prepared.new
        if new is None:
            assert old is not None, "an unload"
            self.registry.remove(old)
            self._close_later(old)
            log.info("%s: unloaded", old.name)
            return None
        self.registry.replace(old, new)
        if old is not None:
            if self._adapters is not None:
                self._adapters.rebase(old, new, Path(prepared.change.place))
            self._close_later(old)
        what = "loaded" if old is None else "replaced"
        seconds = time.monotonic() - prepared.begun
        log.info("%s: %s from %s in %.2f s", new.name, what, prepared.change.place, seconds)
        return Loaded(new.name, new.model.tasks, old is not None, seconds)

    async def drop(self) -> None:
        """Gives the prepared change up."""
        prepared, self._prepared = self._prepared, None
        if prepared is not None and prepared.new is not None:
            await asyncio.to_thread(prepared.new.model.close, 0.0)

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

    def _removable(self, name: str) -> Served:
        served = self.registry.named(name)
        if served is None:
            raise ApiError(404, f"No artifact is served under the name '{name[:MOST_NAME]}'.", param="name")
        if adapters := [other.name for other in self.registry.adapters if other.parent is served]:
            raise refused(f"'{name}' is adapted by {', '.join(adapters)}; unload these adapters first")
        if len(self.registry.models) == 1:
            raise refused(
                f"'{name}' is the only model of this server; load another first, or stop the server"
            )
        return served

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


def planned(registry: Registry, open: Open, folder: Path, name: str | None) -> Served:
    """The model of an artifact that comes, not yet opened. Raises ApiError.

    Args:
        name: that requests use; None: the artifact's own. It has the other names of the model it replaces.
    """
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
    if registry.adapter(name) is not None:
        raise refused(f"'{name}' is the name of an adapter; unload it first, or choose another name")
    old = registry.named(name)
    names, aliases = ((name,), (own,)) if old is None else (old.names, (*old.aliases, own))
    return Served(names=names, open=lambda: open(folder, names[0]), aliases=tuple(dict.fromkeys(aliases)))


def change_unopened(
    registry: Registry, changes: Sequence[Change], open: Open, adapters: AdapterExporter | None
) -> None:
    """Makes changes in a registry that is not opened yet: those of a server that this process joins. Raises
    ArtifactError."""
    for change in changes:
        old = registry.named(change.name or "")
        if change.kind == "unload":
            registry.models = [served for served in registry.models if served is not old]
            continue
        folder = Path(change.place)
        try:
            new = planned(registry, open, folder, change.name)
        except ApiError as error:
            raise ArtifactError(f"{change.name}, which the other processes serve: {error}") from None
        registry.models = registry.with_model(old, new)
        if old is not None and adapters is not None:
            adapters.rebase(old, new, folder)
