"""Loads and unloads adapters while the server runs. An adapter is unloaded after its last request."""

from __future__ import annotations

import asyncio
import logging
import time
from concurrent.futures import ThreadPoolExecutor
from weakref import WeakValueDictionary

from ...runtime.errors import EXIT_INPUT, PoolrtError
from ..errors import ApiError
from .adapters import AdapterExporter, NamedAdapter, folder_of
from .registry import Registry, Served

log = logging.getLogger("poolrt.serve")

LOOK_S = 0.02
"""Time between two checks whether a model's last request has been answered."""


def refused(message: str) -> ApiError:
    return ApiError(400, message, kind="InvalidUserInput")


def stopping() -> ApiError:
    return ApiError(503, "the server is shutting down; try again", headers={"Connection": "close"})


class Loader:
    """Loads one adapter at a time, because an export uses the whole machine. Called in the event loop."""

    def __init__(self, registry: Registry, adapters: AdapterExporter, *, drain_s: float) -> None:
        self.registry, self.adapters, self._drain_s = registry, adapters, drain_s
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="poolrt-lora")
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._loading: set[str] = set()

    async def load(self, adapter: NamedAdapter, *, in_place: bool) -> str:
        """Serves an adapter, and returns vLLM's text about that. Raises ApiError: 400 InvalidUserInput, 404
        NotFoundError, 500, 503.

        Args:
            in_place: an adapter of that name is replaced.
        """
        if not adapter.name or not adapter.path:
            raise refused("Both 'lora_name' and 'lora_path' must be provided.")
        async with self._alone(adapter.name):
            self._check(adapter, in_place)
            self._loading.add(adapter.name)
            try:
                served = await asyncio.get_running_loop().run_in_executor(self._thread, self._opened, adapter)
            except OSError as error:
                raise refused(f"the adapter '{adapter.name}' cannot be read: {error.strerror}") from None
            except PoolrtError as error:
                if self.adapters.closed:
                    raise stopping() from None
                log.warning("adapter %s: %s", adapter.name, error)
                if error.exit_code == EXIT_INPUT:
                    raise refused(str(error)) from None
                text = f"loading the adapter '{adapter.name}' failed; the server's log says why"
                raise ApiError(500, text) from error
            finally:
                self._loading.discard(adapter.name)
            replaced = self.registry.put(served)
        log.info("adapter %s: loaded from %s", adapter.name, adapter.path)
        if replaced is not None:
            await self._drained(replaced)
        return f"Success: LoRA adapter '{adapter.name}' added successfully."

    async def unload(self, name: str) -> str:
        """Stops serving an adapter, and returns vLLM's text about that after the adapter's last request.
        Raises ApiError: 400 InvalidUserInput, 404 NotFoundError."""
        if not name:
            raise refused("'lora_name' needs to be provided to unload a LoRA adapter.")
        async with self._alone(name):
            served = self.registry.adapter(name)
            if served is None:
                raise ApiError(404, f"The lora adapter '{name[:200]}' cannot be found.")
            self.registry.remove(served)
        await self._drained(served)
        log.info("adapter %s: unloaded", name)
        return f"Success: LoRA adapter '{name}' removed successfully."

    def close(self) -> None:
        self.adapters.close()
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _alone(self, name: str) -> asyncio.Lock:
        """Returns the lock of a name, which one load or unload holds at a time."""
        lock = self._locks.get(name)
        if lock is None:
            lock = self._locks[name] = asyncio.Lock()
        return lock

    def _check(self, adapter: NamedAdapter, in_place: bool) -> None:
        known = self.registry.adapter(adapter.name)
        if known is not None and not in_place:
            raise refused(
                f"The lora adapter '{adapter.name}' has already been loaded. If you want to load the "
                "adapter in place, set 'load_inplace' to True."
            )
        if any(adapter.name in served.names for served in self.registry if served.parent is None):
            raise refused(
                f"'{adapter.name}' is the name of a served model; choose another name for the adapter"
            )
        if not _is_folder(adapter.path):
            raise ApiError(
                404,
                f"Loading lora {adapter.name} failed: No adapter found for {adapter.path}: no such "
                "folder on the server; an adapter of the hub is named at start, with --lora-modules",
            )
        limit = self.adapters.limit
        count = len({served.name for served in self.registry.adapters} | self._loading | {adapter.name})
        if limit is not None and count > limit:
            raise refused(f"{limit} adapters may be loaded (--max-loras), and they are; unload one first")

    def _opened(self, adapter: NamedAdapter) -> Served:
        served = self.adapters.served(adapter)
        served.model = served.open()
        served.model.warm_up()
        return served

    async def _drained(self, served: Served) -> None:
        end = time.monotonic() + self._drain_s
        while served.running and time.monotonic() < end:
            await asyncio.sleep(LOOK_S)
        await asyncio.to_thread(served.model.close, 0.0 if served.running else None)


def _is_folder(path: str) -> bool:
    try:
        return folder_of(path).is_dir()
    except (OSError, ValueError):  # the path is too long, may not be entered, or has a zero byte
        return False
